"""``make up``: keep MLflow and Airflow running for development until Ctrl-C."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from understudy.errors import UnderstudyError
from understudy.stack.stack import Stack, exit_on_sigterm


def main(arguments: list[str] | None = None) -> int:
    """Start the servers, say where they are, and wait.

    Returns:
        0 after Ctrl-C, 1 when a server would not start or ended by itself.
    """
    parser = argparse.ArgumentParser(prog="python -m understudy.stack", description=__doc__)
    parser.add_argument(
        "--state", type=Path, default=Path(".understudy"), help="folder for everything they write"
    )
    parser.add_argument("--gateway", metavar="MODEL", help="also serve this registered model")
    parser.add_argument(
        "--standalone", action="store_true", help="let 'airflow standalone' start Airflow's parts"
    )
    options = parser.parse_args(arguments)
    console = Console()
    stack = Stack(
        options.state,
        shape="standalone" if options.standalone else "parts",
        ports={"mlflow": 5000, "airflow": 8080, "gateway": 5080},
        started=lambda name, seconds: console.print(f"{name} is ready after {seconds:.1f} s"),
    )
    try:
        with exit_on_sigterm(), stack:
            if options.gateway:
                stack.start_gateway(options.gateway)
            console.print(_addresses(stack))
            console.print(
                f"Another shell joins with: set -a; . {stack.state}/env", soft_wrap=True, highlight=False
            )
            console.print("Ctrl-C stops everything.")
            while True:
                stack.check()
                time.sleep(1)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 0
    except UnderstudyError as error:
        console.print(str(error), style="red", markup=False)
        return 1


def _addresses(stack: Stack) -> Table:
    table = Table(show_header=False, box=None)
    table.add_row("Airflow", stack.airflow_url)
    table.add_row("MLflow", stack.mlflow_url)
    if stack.gateway:
        table.add_row("Gateway", stack.gateway_url)
    for user, password in stack.logins.items():
        table.add_row(f"login {user}", password)
    return table


if __name__ == "__main__":
    sys.exit(main())
