"""Starts real servers for tests, each on a port of its own, and stops every process it started."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.forked import ForkedProcess
from understudy.processes.ports import HeldPort

PSEUDONYM_KEY = "a-secret-that-only-tests-know"
Process = subprocess.Popen[bytes] | ForkedProcess


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_until(reached: Any, what: str, seconds: float = 30.0) -> Any:
    """Poll ``reached()`` until it is true and return its value; fail with ``what`` after ``seconds``."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := reached():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {seconds:g} s")


def answers(url: str) -> bool:
    """Return whether a GET of the address is answered with 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def start_mlflow(folder: Path) -> Iterator[str]:
    """Run a real MLflow server with its state in ``folder`` and yield its address.

    Artifacts lie in ``folder / "artifacts"``, so that a test may spoil one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job runner keeps seven processes busy with nothing.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    log = folder / "server.log"
    with HeldPort() as port:
        command = [
            "mlflow", "server", "--host", "127.0.0.1", "--port", str(port.number), "--workers", "1",
            "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
            "--artifacts-destination", str(folder / "artifacts"),
        ]  # fmt: skip
        with _stopping(_started(command, environment, folder, log)) as process:
            _wait_for_start(process, f"{port.url}/health", log, 120)
            yield port.url


@dataclass
class RunningGateway:
    """A gateway process under test."""

    url: str
    home: Path
    model: str
    process: Process
    log: Path
    client: httpx.Client = field(repr=False)

    @property
    def events(self) -> Path:
        return self.home / "events" / self.model

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/status").json()
        return answer

    def wait_for_generation(self, generation: int, seconds: float = 120.0) -> dict[str, Any]:
        reached: dict[str, Any] = wait_until(
            lambda: status if (status := self.status())["generation"] == generation else None,
            f"generation {generation}",
            seconds,
        )
        return reached


@contextmanager
def start_gateway(
    home: Path,
    model: str,
    mlflow_uri: str,
    experiments: Path,
    *options: str,
    ready: bool = True,
    forked: bool = True,
) -> Iterator[RunningGateway]:
    """Run a real gateway process and yield it once it is ready (or once it listens).

    It is forked from a process that has imported what it needs, or started as a user starts it.
    """
    home.mkdir(parents=True, exist_ok=True)
    start = ForkedProcess if forked else _started
    environment = os.environ | {
        "UNDERSTUDY_HOME": str(home),
        "UNDERSTUDY_EXPERIMENTS": str(experiments),
        "UNDERSTUDY_PSEUDONYM_KEY": PSEUDONYM_KEY,
        "MLFLOW_TRACKING_URI": mlflow_uri,
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "plugins"),
    }
    with HeldPort() as port, httpx.Client(base_url=port.url, timeout=30) as client:
        command = ["understudy.gateway", "--model", model, "--port", str(port.number), *options]
        log = home / f"gateway-{port.number}.log"
        with _stopping(start(command, environment, home, log)) as process:
            _wait_for_start(process, f"{port.url}/ping" if ready else f"{port.url}/version", log, 60)
            yield RunningGateway(port.url, home, model, process, log, client)


@contextmanager
def start_scoring_server(model: Path, folder: Path) -> Iterator[httpx.Client]:
    """Run what ``mlflow models serve --env-manager local`` runs for a model's files and yield a client of it."""
    from mlflow.pyfunc.scoring_server import get_cmd

    folder.mkdir(parents=True, exist_ok=True)
    with HeldPort() as port:
        command, environment = get_cmd(str(model), port.number, "127.0.0.1", nworkers=1)
        log = folder / f"scoring-{port.number}.log"
        with (
            _stopping(ForkedProcess(shlex.split(command), environment, folder, log)) as process,
            # After its own failures it closes connections without saying so.
            httpx.Client(
                base_url=port.url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)
            ) as client,
        ):
            _wait_for_start(process, f"{port.url}/ping", log, 60)
            yield client


def _started(
    command: list[str], environment: dict[str, str], folder: Path, log: Path
) -> subprocess.Popen[bytes]:
    """Start ``python -m module argument...``."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


@contextmanager
def _stopping(process: Process) -> Iterator[Process]:
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: Process) -> None:
    """Stop a process and its children; a server that ignores the request is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for_start(process: Process, url: str, log: Path, seconds: float) -> None:
    def started() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{url} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        return answers(url)

    try:
        wait_until(started, f"start of {url}", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from None
