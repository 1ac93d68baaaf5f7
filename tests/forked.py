"""Starts servers without waiting each time for what they import: they are forked from a process that has done so."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from multiprocessing import forkserver, get_context
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest


@cache
def _server() -> ForkServerContext:
    """Start the process from which servers are forked."""
    server = get_context("forkserver")
    server.set_forkserver_preload(["tests.preloaded"])
    with pytest.MonkeyPatch.context() as patch:
        # Answers may quote sets. Those of two servers are compared, so that their order must be the same.
        patch.setenv("PYTHONHASHSEED", "0")
        forkserver.ensure_running()
    return server


class ForkedProcess:
    """A process that has become ``python -m module argument...``; to a test it is a ``subprocess.Popen``.

    It has its own session, environment, working directory and output. Nothing in it is imitated: only its imports were
    done before, in a process that has no other thread.

    Args:
        command: The module and its arguments.
        environment: Its whole environment.
        folder: Its working directory.
        log: Where its output goes.
    """

    def __init__(self, command: Sequence[str], environment: dict[str, str], folder: Path, log: Path) -> None:
        self._process = _server().Process(target=_become, args=(command, environment, folder, log))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)


def _become(command: Sequence[str], environment: dict[str, str], folder: Path, log: Path) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    module, *sys.argv[1:] = command
    runpy.run_module(module, run_name="__main__", alter_sys=True)
