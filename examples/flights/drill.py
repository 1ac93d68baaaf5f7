"""``make drill``: every scenario on the example's champion, and a page of what was measured.

It starts an MLflow server in a scratch folder, trains version 1 of ``flight-delay`` there and makes it champion. That stands for
production; the drill builds its sandbox beside it, as everywhere.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from bench.performance.machine import machine
from examples.flights.flights import prepare
from examples.flights.train import MODEL, train_version
from understudy.drill.run import drill
from understudy.errors import UnderstudyError
from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.spec import Scenario
from understudy.stack.credentials import Credentials
from understudy.stack.environment import REPO, base_environment
from understudy.stack.mlflow_server import MlflowServer

DOCS = REPO / "docs"

_HEAD = """# Drills

Written by `make drill`, last on {date}: {machine}, Python {python}, load average {load:.1f} at
the end. Every row is a real run of a twin of version {version} of `{model}` on a sandbox with its own
MLflow, store and gateway: started, exposed to {percent:g} % of the units, looked at again and again, and taken back by the
rollback that production uses. Metrics and margins are those of `experiments/{experiment}.yaml`. What the columns mean:
[Practise the way back](how-to/drills.md).

{verdict} The whole drill took {seconds:.0f} s.

"""

_COLUMNS = (
    "scenario",
    "what is planted",
    "verdict",
    "caught by",
    "costs",
    "units until caught",
    "seconds until caught",
    "units harmed",
    "zero exposure after (s)",
    "verified after (s)",
)


def main(names: Sequence[str] = ()) -> int:
    """Run the drill; return 0 when every scenario passed.

    Args:
        names: Scenarios to play; all of them if empty. The page is written only for all of them.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger("alembic").setLevel(logging.ERROR)
    console = Console(width=None if sys.stdout.isatty() else 140, highlight=False)
    with tempfile.TemporaryDirectory(prefix="understudy-drills-", ignore_cleanup_errors=True) as name:
        try:
            with production(Path(name)):
                found = drill(
                    MODEL,
                    names or [scenario.value for scenario in Scenario],
                    actor="make drill",
                    progress=lambda part, what: console.print(f"{part:4.0%} {what}"),
                )
        except UnderstudyError as error:
            console.print(f"The drill broke off: {error}", style="red", markup=False)
            return 1
    for one in found["scenarios"]:
        console.print(one["sentence"], style="" if one["passed"] else "red", markup=False)
    console.print(f"{found['sentence']} {found['seconds']:.0f} s.")
    if not names:
        write(DOCS, found)
    return 0 if found["passed"] else 1


@contextlib.contextmanager
def production(state: Path) -> Iterator[None]:
    """Run an MLflow server with version 1 as champion, and point this process at it."""
    keeper, port = Keeper(), HeldPort()
    credentials = Credentials.keep_in(state / "credentials.json")
    server = MlflowServer(state / "mlflow", port, base_environment(state), credentials, keeper)
    os.environ |= {
        "MLFLOW_TRACKING_URI": server.url,
        "UNDERSTUDY_HOME": str(state / "home"),
        "UNDERSTUDY_DATA": str(state / "data"),
        "UNDERSTUDY_GATEWAY_URLS": ",",
    }
    try:
        server.start()
        flights = prepare(state / "data")
        server.wait_ready()
        with (state / "training.log").open("a") as log, contextlib.redirect_stderr(log):
            version = train_version(1, flights)
        from understudy.session import session

        session().registry.make_champion(MODEL, version, move_stage=True)
        yield
    finally:
        server.process.stop()
        keeper.close()
        port.release()


def write(folder: Path, found: dict[str, Any]) -> None:
    """Write ``drills.md`` and ``drills.json``.

    Args:
        folder: Where to.
        found: What the drill came to.
    """
    from understudy.drill.miniature import PERCENT

    (folder / "drills.json").write_text(json.dumps(found, indent=1) + "\n")
    head = _HEAD.format(
        date=datetime.now(UTC).date().isoformat(),
        machine=machine(),
        python=platform.python_version(),
        load=os.getloadavg()[0],
        percent=PERCENT,
        verdict=found["sentence"] if found["passed"] else f"**{found['sentence']}**",
        **{name: found[name] for name in ("version", "model", "experiment", "seconds")},
    )
    lines = [_COLUMNS, tuple("---" for _ in _COLUMNS), *map(_cells, found["scenarios"])]
    (folder / "drills.md").write_text(head + "".join(f"| {' | '.join(cells)} |\n" for cells in lines))


def _cells(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        one["scenario"],
        one["planted"],
        "passed" if one["passed"] else "**failed**: " + one["sentence"].replace("|", "/"),
        one["caught_by"],
        "" if one["cost"] is None else f"{one['cost']:.4f}",
        f"{one['units']:,}" if one["units"] else "",
        f"{one['detected_after']:.1f}" if one["detected_after"] else "",
        f"{one['harmed']:,} ({one['share']:.0%})",
        "" if one["zero_after"] is None else f"{one['zero_after']:.2f}",
        "" if one["recovered_after"] is None else f"{one['recovered_after']:.1f}",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
