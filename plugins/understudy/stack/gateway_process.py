"""The serving gateway of one model as a local process."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.processes.process import Process
from understudy.stack.local_http import get_json

__all__ = ["GatewayProcess"]


class GatewayProcess:
    """``python -m understudy.gateway`` for one model.

    Args:
        model: Registered model name.
        folder: Where its log lives; also its working folder.
        port: Where it listens.
        env: Environment of the installation.
        keeper: Ends it when this process dies.
    """

    def __init__(
        self, model: str, folder: Path, port: HeldPort, env: Mapping[str, str], keeper: Keeper | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.model = model
        self.url = port.url
        self._port = port
        command = [
            sys.executable, "-m", "understudy.gateway",
            "--model", model, "--host", "127.0.0.1", "--port", str(port.number),
        ]  # fmt: skip
        self.process = Process(
            f"Gateway of {model}",
            command,
            env=env,
            log=folder / f"gateway-{model}.log",
            cwd=folder,
            keeper=keeper,
        )

    def start(self) -> None:
        """Start the gateway and return at once."""
        self._port.hand_over()
        self.process.start()

    def ready(self) -> bool:
        """Whether it serves: its champion is loaded."""
        try:
            status = get_json(f"{self.url}/status", timeout=2.0)
        except (OSError, ValueError):
            return False
        return isinstance(status, dict) and status.get("ready") is True

    def wait_ready(self, timeout: float = 90.0) -> None:
        """Wait until it serves. See `Process.wait_ready` for what is raised."""
        self.process.wait_ready(self.ready, timeout)
