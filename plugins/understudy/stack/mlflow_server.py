"""A local MLflow server: one worker, SQLite, artifacts in the state folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.processes.process import Process
from understudy.stack.credentials import Credentials
from understudy.stack.local_http import answers

__all__ = ["MlflowServer"]


class MlflowServer:
    """MLflow's tracking server and registry.

    Args:
        folder: Where its database, artifacts and log live.
        port: Where it listens.
        env: Environment to start from.
        credentials: Holds the key for webhook secrets.
        keeper: Ends it when this process dies.
    """

    def __init__(
        self,
        folder: Path,
        port: HeldPort,
        env: Mapping[str, str],
        credentials: Credentials,
        keeper: Keeper | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.url = port.url
        self._port = port
        command = [
            "mlflow", "server", "--host", "127.0.0.1", "--port", str(port.number),
            # One worker starts in half the time of the default four and keeps webhooks and caches in one place.
            "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
            "--artifacts-destination", folder.joinpath("artifacts").as_uri(),
        ]  # fmt: skip
        own = {
            # The runner for background jobs costs 200 MB and some seconds at start; nothing here uses it.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": credentials.webhook_key,
        }
        self.process = Process(
            "MLflow", command, env={**env, **own}, log=folder / "server.log", cwd=folder, keeper=keeper
        )

    def start(self) -> None:
        """Start the server and return at once."""
        self._port.hand_over()
        self.process.start()

    def ready(self) -> bool:
        """Whether it answers."""
        return answers(f"{self.url}/health")

    def wait_ready(self, timeout: float = 120.0) -> None:
        """Wait until it answers. See `Process.wait_ready` for what is raised."""
        self.process.wait_ready(self.ready, timeout)
