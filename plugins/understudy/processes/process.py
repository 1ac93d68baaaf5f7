"""One server as a supervised child: its own session, its output in a file, ready in time, stopped for good."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from understudy.errors import UnderstudyError
from understudy.processes.keeper import Keeper, end_session, session_members, signal_session

__all__ = ["NotReadyInTime", "Process", "ProcessEnded"]

_POLL = 0.1


class ProcessEnded(UnderstudyError):
    """A server ended although nobody stopped it."""

    code = "PROCESS_ENDED"


class NotReadyInTime(UnderstudyError):
    """A server runs but did not become ready within its deadline."""

    code = "NOT_READY_IN_TIME"


class Process:
    """A command that runs as long as somebody wants it, and no longer.

    Args:
        name: What messages call it.
        command: Executable and arguments.
        env: The whole environment; nothing is inherited.
        log: File that receives everything it prints; it is appended to.
        cwd: Working folder.
        keeper: Ends the process when this one dies. Without it, the process brings its own.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        cwd: Path,
        keeper: Keeper | None = None,
    ) -> None:
        self.name = name
        self.command = tuple(command)
        self.log = log
        self._env = dict(env)
        self._cwd = cwd
        self._own_keeper = keeper is None
        self._keeper = keeper
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Id of the process, which is also the number of its session.

        Raises:
            ProcessEnded: It was not started.
        """
        if self._child is None:
            raise ProcessEnded(f"{self.name} was not started. Call start() first.")
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the process itself lives; its descendants do not count."""
        return self._child is not None and self._child.poll() is None

    @property
    def returncode(self) -> int | None:
        """Exit status once the process has ended by itself, negative for a signal; None before."""
        return None if self._child is None else self._child.poll()

    def start(self) -> Process:
        """Start the command and return at once."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        if self._keeper is None:
            self._keeper = Keeper()
        with self.log.open("ab") as output:
            self._child = subprocess.Popen(
                self.command,
                env=self._env,
                cwd=self._cwd,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._keeper.watch(self._child.pid)
        return self

    def check(self) -> None:
        """Do nothing while the process runs.

        Raises:
            ProcessEnded: It has ended; the message carries the end of its log.
        """
        if not self.running:
            status = (
                "was never started" if self._child is None else f"ended with status {self._child.returncode}"
            )
            raise ProcessEnded(f"{self.name} {status}. The end of {self.log}:\n{self.tail()}")

    def wait_ready(self, probe: Callable[[], bool], timeout: float) -> None:
        """Wait until ``probe`` says yes.

        Args:
            probe: Returns whether the server is ready; must not raise.
            timeout: Seconds to wait.

        Raises:
            ProcessEnded: The process ended before it was ready.
            NotReadyInTime: The time is up.
        """
        deadline = time.monotonic() + timeout
        while not probe():
            self.check()
            if time.monotonic() > deadline:
                raise NotReadyInTime(
                    f"{self.name} was not ready after {timeout:g} s. The machine may be too busy. "
                    f"The end of {self.log}:\n{self.tail()}"
                )
            time.sleep(_POLL)

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the whole session and return at once, so that several servers can go down together."""
        if self._child is not None:
            signal_session(self._child.pid, 15)

    def stop(self, grace: float = 10.0) -> None:
        """End the process and everything it started: SIGTERM, after ``grace`` seconds SIGKILL. Safe to repeat."""
        if self._child is not None:
            session = self._child.pid
            end_session(session, grace)
            self._child.wait()
            if self._keeper is not None:
                self._keeper.forget(session)
            self._child = None
        if self._own_keeper and self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    def members(self) -> list[int]:
        """Return the ids of all living processes of its session."""
        return [] if self._child is None else session_members(self._child.pid)

    def tail(self, lines: int = 20) -> str:
        """Return the last lines it printed."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 400 * lines))
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])
        return ""

    def __enter__(self) -> Process:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
