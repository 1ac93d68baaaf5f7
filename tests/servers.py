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

PSEUDONYM_KEY = "a-secret-that-only-tests-know"


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
    port = free_port()
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Its job runner keeps seven processes busy with nothing.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    environment.pop("MLFLOW_TRACKING_URI", None)
    url = f"http://127.0.0.1:{port}"
    with _running(command, environment, folder, folder / "server.log") as process:
        _wait_for_start(process, f"{url}/health", folder / "server.log", 120)
        yield url


@dataclass
class RunningGateway:
    """A gateway process under test."""

    url: str
    home: Path
    model: str
    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(repr=False)

    @property
    def events(self) -> Path:
        return self.home / "events" / self.model

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get("/status").json()
        return answer

    def wait_for_generation(self, generation: int, seconds: float = 30.0) -> dict[str, Any]:
        reached: dict[str, Any] = wait_until(
            lambda: status if (status := self.status())["generation"] == generation else None,
            f"generation {generation}",
            seconds,
        )
        return reached


@contextmanager
def start_gateway(
    home: Path, model: str, mlflow_uri: str, experiments: Path, *options: str, ready: bool = True
) -> Iterator[RunningGateway]:
    """Run a real gateway process and yield it once it is ready (or once it listens)."""
    home.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command = [sys.executable, "-m", "understudy.gateway", "--model", model, "--port", str(port), *options]
    plugins = str(Path(__file__).resolve().parents[1] / "plugins")
    environment = os.environ | {
        "UNDERSTUDY_HOME": str(home),
        "UNDERSTUDY_EXPERIMENTS": str(experiments),
        "UNDERSTUDY_PSEUDONYM_KEY": PSEUDONYM_KEY,
        "MLFLOW_TRACKING_URI": mlflow_uri,
        "PYTHONPATH": plugins,
    }
    log = home / f"gateway-{port}.log"
    url = f"http://127.0.0.1:{port}"
    with (
        _running(command, environment, home, log) as process,
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        _wait_for_start(process, f"{url}/ping" if ready else f"{url}/version", log, 60)
        yield RunningGateway(url, home, model, process, log, client)


@contextmanager
def start_scoring_server(model: Path, folder: Path) -> Iterator[httpx.Client]:
    """Run what ``mlflow models serve --env-manager local`` runs for a model's files and yield a client of it."""
    from mlflow.pyfunc.scoring_server import get_cmd

    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    command, environment = get_cmd(str(model), port, "127.0.0.1", nworkers=1)
    log = folder / f"scoring-{port}.log"
    url = f"http://127.0.0.1:{port}"
    with (
        _running([sys.executable, "-m", *shlex.split(command)], environment, folder, log) as process,
        # After its own failures it closes connections without saying so.
        httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client,
    ):
        _wait_for_start(process, f"{url}/ping", log, 60)
        yield client


@contextmanager
def _running(
    command: list[str], environment: dict[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and its children; a server that ignores the request is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for_start(process: subprocess.Popen[bytes], url: str, log: Path, seconds: float) -> None:
    def started() -> bool:
        if process.poll() is not None:
            raise AssertionError(f"{url} ended with {process.returncode}:\n{log.read_text()[-4000:]}")
        return answers(url)

    try:
        wait_until(started, f"start of {url}", seconds)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{log.read_text()[-4000:]}") from None
