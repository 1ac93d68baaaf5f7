"""A local Airflow: SQLite, local executor, simple auth manager, everything in its own home."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.processes.process import NotReadyInTime, Process
from understudy.stack.credentials import ROLES, Credentials, write_private
from understudy.stack.environment import REPO
from understudy.stack.local_http import get_json, post_json

__all__ = ["AirflowStack", "Shape", "airflow_settings"]

Shape = Literal["parts", "standalone"]
"""``parts``: our own four processes. ``standalone``: Airflow's ``airflow standalone`` around the same four."""

_PARTS = {
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "api-server": ("api-server",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}


def airflow_settings(
    home: Path, url: str, port: int, credentials: Credentials, *, dags: Path | None = None
) -> dict[str, str]:
    """Return Airflow's whole configuration as environment variables.

    Args:
        home: ``AIRFLOW_HOME``.
        url: Address of the API server.
        port: Port of the API server.
        credentials: Secrets that all parts must share.
        dags: Folder of the DAG files; default: the checkout's.
    """
    settings = {
        **_core(home, url, dags or REPO / "dags", credentials),
        **_servers(home, url, port, credentials),
    }
    env = {
        f"AIRFLOW__{section.upper()}__{key.upper()}": value
        for section, entries in settings.items()
        for key, value in entries.items()
    }
    return {"AIRFLOW_HOME": str(home), **env}


def _core(home: Path, url: str, dags: Path, credentials: Credentials) -> dict[str, dict[str, str]]:
    """What is run, by whom, and who may sign in."""
    return {
        "core": {
            "dags_folder": str(dags),
            "plugins_folder": str(REPO / "plugins"),
            "load_examples": "False",
            "executor": "LocalExecutor",
            # Each slot is a process that is there from the start; two cores are busy with four.
            "parallelism": "4",
            "dags_are_paused_at_creation": "False",
            "auth_manager": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in ROLES.items()),
            "simple_auth_manager_passwords_file": str(home / "passwords.json"),
            "execution_api_server_url": f"{url}/execution/",
            "fernet_key": credentials.fernet_key,
        },
    }


def _servers(home: Path, url: str, port: int, credentials: Credentials) -> dict[str, dict[str, str]]:
    """Where the four parts listen and write, and how eagerly they look."""
    return {
        "api": {
            "host": "127.0.0.1",
            "port": str(port),
            "workers": "1",
            "base_url": url,
            "secret_key": credentials.api_secret,
        },
        "api_auth": {"jwt_secret": credentials.jwt_secret},
        "database": {"sql_alchemy_conn": f"sqlite:///{home / 'airflow.db'}"},
        "scheduler": {
            "scheduler_idle_sleep_time": "0.1",
            # Tasks are forked from the scheduler, which has the heavy imports loaded. Python 3.14 would not fork.
            "mp_start_method": "fork",
        },
        # A task that fails or is skipped is reported when its process has gone. The supervisor may miss that moment and
        # then looks again only after this many seconds, five by default.
        "workers": {"min_heartbeat_interval": "1"},
        "dag_processor": {
            "refresh_interval": "10",
            "parsing_processes": "1",
        },
        "logging": {"base_log_folder": str(home / "logs")},
    }


class AirflowStack:
    """Scheduler, DAG processor, API server and triggerer of one Airflow.

    Args:
        home: ``AIRFLOW_HOME``: database, logs and passwords.
        port: Where the API server listens.
        env: Environment to start from.
        credentials: Secrets and passwords.
        keeper: Ends everything when this process dies.
        shape: Who starts the four processes.
        dags: Folder of the DAG files; default: the checkout's.
    """

    def __init__(
        self,
        home: Path,
        port: HeldPort,
        env: Mapping[str, str],
        credentials: Credentials,
        keeper: Keeper | None = None,
        *,
        shape: Shape = "parts",
        dags: Path | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.url = port.url
        self.shape: Shape = shape
        self._port = port
        self._credentials = credentials
        self._keeper = keeper
        self._log_ports = [HeldPort(), HeldPort()] if shape == "standalone" else []
        self.env = {**env, **airflow_settings(home, port.url, port.number, credentials, dags=dags)}
        if self._log_ports:
            # `airflow standalone` insists on the two log servers; their fixed default ports allow one per machine.
            worker, trigger = self._log_ports
            self.env["AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT"] = str(worker.number)
            self.env["AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT"] = str(trigger.number)
        self._launched = False
        self._token: dict[str, tuple[str, float]] = {}
        self._migration = self._process("migrate", ("db", "migrate"))
        parts = _PARTS if shape == "parts" else {"standalone": ("standalone",)}
        self.processes = [self._process(name, arguments) for name, arguments in parts.items()]

    def _process(self, name: str, arguments: tuple[str, ...]) -> Process:
        return Process(
            f"Airflow {name}",
            ["airflow", *arguments],
            env=self.env,
            log=self.home / "logs" / f"{name}.log",
            cwd=self.home,
            keeper=self._keeper,
        )

    def start(self) -> None:
        """Start what comes first and return at once; `advance` does the rest."""
        write_private(self.home / "passwords.json", json.dumps(self._credentials.passwords))
        if self.shape == "parts":
            self._migration.start()
        else:
            self._start_processes()

    def _start_processes(self) -> None:
        for port in (self._port, *self._log_ports):
            port.hand_over()
        for process in self.processes:
            process.start()
        self._launched = True

    def advance(self) -> bool:
        """Take the next step of the start if it is due, and return whether all four parts are healthy.

        Raises:
            ProcessEnded: The migration failed, or a part ended.
        """
        if self._launched:
            self.check()
            return self.healthy()
        if not self._migration.running:
            if self._migration.returncode != 0:
                self._migration.check()
            self._migration.stop()
            self._start_processes()
        return False

    def wait_ready(self, timeout: float = 180.0) -> None:
        """Wait until all four parts are healthy.

        Raises:
            ProcessEnded: The migration failed, or a part ended.
            NotReadyInTime: The time is up.
        """
        self._wait(
            self.advance,
            timeout,
            lambda: "not all of scheduler, DAG processor, triggerer and API server are healthy",
        )

    def healthy(self) -> bool:
        """Whether all four parts answer or have a fresh heartbeat."""
        try:
            health = get_json(f"{self.url}/api/v2/monitor/health", timeout=5.0)
        except (OSError, ValueError):
            return False
        parts = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all((health.get(part) or {}).get("status") == "healthy" for part in parts)

    def wait_for_dags(self, dag_ids: Iterable[str], timeout: float = 90.0) -> None:
        """Wait until every one of these DAGs is known and can be triggered.

        Raises:
            ProcessEnded: A part of Airflow ended.
            NotReadyInTime: The time is up; the message names what is missing and import errors.
        """
        wanted = set(dag_ids)

        def missing() -> set[str]:
            try:
                return wanted - self.dag_ids()
            except (OSError, ValueError):
                return wanted

        self._wait(
            lambda: not missing(),
            timeout,
            lambda: f"no DAG named {', '.join(sorted(missing()))}. {self._import_errors()}",
        )

    def dag_ids(self) -> set[str]:
        """Return the ids of the DAGs that the DAG processor has found.

        Raises:
            OSError: The API server does not answer.
            ValueError: It answers nonsense.
        """
        answer = get_json(f"{self.url}/api/v2/dags?limit=1000&exclude_stale=true", token=self.token())
        return {dag["dag_id"] for dag in answer["dags"]}

    def token(self, user: str = "admin") -> str:
        """Return a bearer token of a user, fresh enough for an hour of calls.

        Raises:
            OSError: The API server does not answer or refuses the password.
        """
        token, until = self._token.get(user, ("", 0.0))
        if time.monotonic() >= until:
            body = {"username": user, "password": self._credentials.passwords[user]}
            token = post_json(f"{self.url}/auth/token", body)["access_token"]
            self._token[user] = (token, time.monotonic() + 3600)
        return token

    def check(self) -> None:
        """Raise `ProcessEnded` if any part has ended."""
        if self._launched:
            for process in self.processes:
                process.check()

    def stop(self) -> None:
        """End everything. Safe to repeat."""
        self._launched = False
        for process in self.processes:
            process.ask_to_stop()
        for process in (*self.processes, self._migration):
            process.stop()
        for port in self._log_ports:
            port.release()

    def _import_errors(self) -> str:
        try:
            errors = get_json(f"{self.url}/api/v2/importErrors", token=self.token())["import_errors"]
        except (OSError, ValueError):
            return ""
        return "\n".join(f"{error['filename']}: {error['stack_trace']}" for error in errors)

    def _wait(self, probe: Callable[[], bool], timeout: float, complaint: Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout
        while not probe():
            self.check()
            if time.monotonic() > deadline:
                logs = "\n".join(f"{process.name}: {process.tail(5)}" for process in self.processes)
                raise NotReadyInTime(f"After {timeout:g} s {complaint()}.\n{logs}")
            time.sleep(0.1)
