"""One embedded installation: MLflow, Airflow and, when asked, the gateway of a model."""

from __future__ import annotations

import shlex
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.processes.process import NotReadyInTime, Process
from understudy.stack.airflow_stack import AirflowStack, Shape
from understudy.stack.credentials import Credentials, write_private
from understudy.stack.environment import REPO, base_environment
from understudy.stack.gateway_process import GatewayProcess
from understudy.stack.mlflow_server import MlflowServer

__all__ = ["Stack", "exit_on_sigterm"]


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `SystemExit`, so that ``with Stack(...)`` stops in order as it does on Ctrl-C."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    previous = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class Stack:
    """A context manager that starts the servers on entry and leaves no process behind, however it ends.

    MLflow and Airflow start side by side. The gateway needs a registered champion, so it starts on request.

    Args:
        state: Folder for everything the installation writes.
        experiments: Folder of the experiment files; default: the checkout's.
        expectations: Folder of the suites; default: the checkout's.
        data: Folder that dataset paths in specs are relative to; default: ``data`` in the state folder.
        dags: Folder of the DAG files; default: the checkout's.
        airflow: Whether to start Airflow.
        shape: Who starts Airflow's processes.
        ports: Ports to prefer, by ``mlflow``, ``airflow``, ``gateway``; any free port otherwise.
        started: Called with the name and the seconds it took as each server becomes ready.

    Attributes:
        state: The state folder, absolute.
        mlflow: The MLflow server.
        airflow: Airflow, or None when it was not asked for.
        gateway: The gateway once started, else None.
        credentials: Logins and secrets.
    """

    def __init__(
        self,
        state: Path,
        *,
        experiments: Path | None = None,
        expectations: Path | None = None,
        data: Path | None = None,
        dags: Path | None = None,
        airflow: bool = True,
        shape: Shape = "parts",
        ports: dict[str, int] | None = None,
        started: Callable[[str, float], None] | None = None,
    ) -> None:
        self.state = state.resolve()
        self.state.mkdir(parents=True, exist_ok=True)
        self.credentials = Credentials.keep_in(self.state / "credentials.json")
        self._started = started or (lambda _name, _seconds: None)
        self._ports = {
            name: HeldPort((ports or {}).get(name, 0)) for name in ("mlflow", "airflow", "gateway")
        }
        self._keeper = Keeper()
        self._env = self._environment(experiments, expectations, data)
        self.mlflow = MlflowServer(
            self.state / "mlflow", self._ports["mlflow"], self._env, self.credentials, self._keeper
        )
        self.airflow: AirflowStack | None = None
        if airflow:
            self.airflow = AirflowStack(
                self.state / "airflow", self._ports["airflow"], self._env, self.credentials, self._keeper,
                shape=shape, dags=dags,
            )  # fmt: skip
        self.gateway: GatewayProcess | None = None

    def _environment(
        self, experiments: Path | None, expectations: Path | None, data: Path | None
    ) -> dict[str, str]:
        home = self.state / "understudy"
        home.mkdir(exist_ok=True)
        return {
            **base_environment(self.state),
            "UNDERSTUDY_HOME": str(home),
            "UNDERSTUDY_STORE_URL": f"sqlite:///{home / 'store.db'}",
            "UNDERSTUDY_EXPERIMENTS": str((experiments or REPO / "experiments").resolve()),
            "UNDERSTUDY_EXPECTATIONS": str((expectations or REPO / "expectations").resolve()),
            "UNDERSTUDY_DATA": str((data or self.state / "data").resolve()),
            "UNDERSTUDY_GATEWAY_URLS": self.gateway_url,
            "UNDERSTUDY_AIRFLOW_URL": self.airflow_url,
            "UNDERSTUDY_PSEUDONYM_KEY": self.credentials.pseudonym_key,
            "UNDERSTUDY_WEBHOOK_KEY": self.credentials.rollback_key,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }

    @property
    def mlflow_url(self) -> str:
        """Address of the MLflow server and its pages."""
        return self._ports["mlflow"].url

    @property
    def airflow_url(self) -> str:
        """Address of Airflow's pages and API."""
        return self._ports["airflow"].url

    @property
    def gateway_url(self) -> str:
        """Address that the gateway has, or will have."""
        return self._ports["gateway"].url

    @property
    def logins(self) -> dict[str, str]:
        """Password by user name for Airflow's pages."""
        return dict(self.credentials.passwords)

    def env(self) -> dict[str, str]:
        """Return the environment in which commands and tests belong to this installation."""
        return dict(self.airflow.env if self.airflow else self._env)

    def start(self, timeout: float = 240.0) -> None:
        """Start MLflow and Airflow side by side and wait until both are ready; on any failure stop everything.

        Raises:
            ProcessEnded: A server ended.
            NotReadyInTime: A server took too long.
        """
        try:
            self._write_env_file()
            self.mlflow.start()
            if self.airflow:
                self.airflow.start()
            self._await_both(timeout)
        except BaseException:
            self.stop()
            raise

    def _await_both(self, timeout: float) -> None:
        # One thread on purpose: an interrupt then always lands here, with nobody left to start another server.
        began = time.monotonic()
        steps: dict[str, Callable[[], bool]] = {"MLflow": self.mlflow.ready}
        if self.airflow:
            steps["Airflow"] = self.airflow.advance
        while steps:
            for name in [name for name, ready in steps.items() if ready()]:
                del steps[name]
                self._started(name, time.monotonic() - began)
            self.mlflow.process.check()
            if time.monotonic() - began > timeout:
                logs = "\n".join(f"{process.name}: {process.tail(8)}" for process in self.processes())
                raise NotReadyInTime(f"After {timeout:g} s still not ready: {', '.join(steps)}.\n{logs}")
            time.sleep(0.1)

    def start_gateway(self, model: str, timeout: float = 90.0) -> GatewayProcess:
        """Start the gateway of a model whose champion is registered, and wait until it serves.

        Raises:
            ProcessEnded: It ended.
            NotReadyInTime: It took too long.
        """
        self.stop_gateway()
        began = time.monotonic()
        self.gateway = GatewayProcess(
            model, self.state / "gateway", self._ports["gateway"], self.env(), self._keeper
        )
        self.gateway.start()
        self.gateway.wait_ready(timeout)
        self._started("Gateway", time.monotonic() - began)
        return self.gateway

    def stop_gateway(self) -> None:
        """Stop the gateway if it runs."""
        if self.gateway is not None:
            self.gateway.process.stop()
            self.gateway = None

    def check(self) -> None:
        """Do nothing while all servers run.

        Raises:
            ProcessEnded: One of them has ended.
        """
        for process in self.processes():
            process.check()

    def processes(self) -> list[Process]:
        """Return the servers that should be running now."""
        airflow = self.airflow.processes if self.airflow else []
        gateway = [self.gateway.process] if self.gateway else []
        return [self.mlflow.process, *airflow, *gateway]

    def stop(self) -> None:
        """Stop everything, all at once, and return when no process is left. Safe to repeat."""
        with ExitStack() as last:
            # Even if a second Ctrl-C interrupts the waiting below, the keeper ends what is left.
            last.callback(self._release)
            for process in self.processes():
                process.ask_to_stop()
            self.stop_gateway()
            if self.airflow:
                self.airflow.stop()
            self.mlflow.process.stop()

    def _release(self) -> None:
        self._keeper.close()
        for port in self._ports.values():
            port.release()

    def _write_env_file(self) -> None:
        """Leave the environment where another shell can read it: ``set -a; . <state>/env``."""
        own = {
            name: value
            for name, value in self.env().items()
            if name.startswith(("UNDERSTUDY", "MLFLOW", "AIRFLOW"))
        }
        lines = [f"{name}={shlex.quote(value)}\n" for name, value in sorted(own.items())]
        write_private(self.state / "env", "".join(lines))

    def __enter__(self) -> Stack:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
