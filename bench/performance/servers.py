"""The servers that are measured, as processes of one MLflow installation."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from bench.performance import mlserver
from bench.performance.models import Served, exposure, register, write_specs
from bench.performance.stripped import LEFT_OUT, WANTED
from understudy.exposure import publish
from understudy.processes.ports import HeldPort
from understudy.processes.process import Process
from understudy.stack import Stack

_START_SECONDS = 120.0


@dataclass(frozen=True)
class Server:
    """A server that scores.

    Attributes:
        process: Its process.
        url: Its address.
        home: Its state, if it is a gateway.
        model: What it serves.
        path: Where it answers.
    """

    process: Process
    url: str
    home: Path
    model: str
    path: str = "/invocations"

    @property
    def pids(self) -> list[int]:
        """Its processes but for the challenger's."""
        hosted = self.challenger_pids
        return [pid for pid in self.process.members() if pid not in hosted]

    @property
    def challenger_pids(self) -> list[int]:
        """The challenger's process, if it is a gateway that has one."""
        return [
            pid
            for pid in self.process.members()
            if "understudy.gateway.hosted" in psutil.Process(pid).cmdline()
        ]

    def status(self) -> dict[str, Any]:
        """Return what a gateway says of itself."""
        with urlopen(f"{self.url}/status", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def leave_out(self, part: str) -> None:
        """Take a part out, and put back the one before; for a gateway that was started with ``without="any"``.

        Args:
            part: ``routing``, ``log``, or empty for none.
        """
        (self.home / WANTED).write_text(part)
        self.process.wait_ready(lambda: _text(self.home / LEFT_OUT) == part, _START_SECONDS)

    def expose(self, *, mirror: bool = False) -> None:
        """Expose a quarter of the units to version 2 and wait until that is served."""
        generation = (self.status()["generation"] or 0) + 1
        publish(self.home / "flags.json", [exposure(self.model, generation, mirror=mirror)])
        self.process.wait_ready(lambda: _exposes(self.status(), generation), _START_SECONDS)


class Servers:
    """Starts servers beside one MLflow server that holds the models.

    Args:
        stack: The installation.
        folder: Where their state goes.
        served: The models.
    """

    def __init__(self, stack: Stack, folder: Path, served: dict[str, Served], stops: ExitStack) -> None:
        self.served = served
        self._stack = stack
        self._folder = folder
        self._stops = stops

    def mlflow(self, model: str) -> Server:
        """Start ``mlflow models serve`` with one worker."""
        command = [
            "mlflow",
            "models",
            "serve",
            "--env-manager",
            "local",
            "--workers",
            "1",
            "--host",
            "127.0.0.1",
        ]
        command += ["--model-uri", str(self.served[model].files), "--port"]
        return self._started(model, f"mlflow-{model}", lambda port: [*command, str(port)])

    def bare(self, model: str, *, compiled: bool) -> Server:
        """Start the server that has nothing but speed."""
        served = self.served[model]
        given = [str(served.files), "--compiled"] if compiled else [str(served.pickle)]
        module = [sys.executable, "-m", "bench.performance.bare"]
        name = f"bare-{model}-{'compiled' if compiled else 'sklearn'}"
        return self._started(model, name, lambda port: [*module, str(port), *given])

    def mlserver(self, model: str) -> Server:
        """Start MLServer."""
        executable = mlserver.install(self._folder / "mlserver-environment")
        name = f"mlserver-{model}"
        grpc = self._stops.enter_context(HeldPort())

        def command(port: int) -> list[str]:
            mlserver.write_settings(self._folder / name, model, self.served[model].pickle, port, grpc.number)
            grpc.hand_over()
            return [str(executable), "start", str(self._folder / name)]

        server = self._started(model, name, command, ready=f"/v2/models/{model}/ready")
        return replace(server, path=mlserver.mlserver_path(model))

    def gateway(self, model: str, *options: str, without: str | None = None) -> Server:
        """Start a gateway that exposes a quarter of the units.

        Args:
            model: What it serves.
            options: For its command line.
            without: The part that it has not, or ``any``; see `bench.performance.stripped`.
        """
        module = ["bench.performance.stripped", without] if without else ["understudy.gateway"]
        command = [sys.executable, "-m", *module, "--model", model, *options, "--port"]
        name = f"gateway-{model}{f'-without-{without}' if without else ''}"
        server = self._started(model, name, lambda port: [*command, str(port)])
        server.expose()
        return server

    def env(self, server: Server) -> dict[str, str]:
        """Return the environment in which commands belong to a gateway."""
        return self._stack.env() | {"UNDERSTUDY_HOME": str(server.home)}

    def _started(
        self, model: str, name: str, command: Callable[[int], Sequence[str]], ready: str = "/ping"
    ) -> Server:
        port = self._stops.enter_context(HeldPort())
        home = self._folder / name
        home.mkdir()
        # The cores are shared with the load, and none of these models is faster with more threads on one row.
        env = self._stack.env() | {"UNDERSTUDY_HOME": str(home), "OMP_NUM_THREADS": "1"}
        port.hand_over()
        process = Process(name, command(port.number), env=env, log=self._folder / f"{name}.log", cwd=home)
        self._stops.enter_context(process)
        process.wait_ready(lambda: _answers(f"{port.url}{ready}"), _START_SECONDS)
        return Server(process, port.url, home, model)


@contextmanager
def start_servers(folder: Path, models: Sequence[str]) -> Iterator[Servers]:
    """Run an MLflow server with the models and yield what starts the others; all of them end with the context."""
    write_specs(folder / "experiments")
    with Stack(folder / "stack", experiments=folder / "experiments", airflow=False) as stack:
        served = register(stack.mlflow_url, folder, models)
        with ExitStack() as stops:
            yield Servers(stack, folder, served, stops)


def _exposes(status: dict[str, Any], generation: int) -> bool:
    ready = status["exposed"] and status["challenger_error"] is None
    return bool(ready and status["generation"] == generation)


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2):
            return True
    except OSError:
        return False
