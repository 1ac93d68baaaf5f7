"""Ends whole sessions of processes, and sees to it that they end when their owner dies without a word.

A server here is a tree: Airflow's scheduler forks workers that fork tasks, MLflow's command starts uvicorn. Each tree
is its own session, and everything in it is found by the session's number, whoever its parent is by now. The keeper is a
second process that holds the other end of a pipe: when the owner is gone, even by ``kill -9``, the pipe closes and the
keeper ends every session it was told about. The "parent died" signal of Linux would not do: it reaches direct children
only, and it also fires when merely the thread that started the child ends.

This file runs as a script in the keeper and therefore uses the standard library only.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

__all__ = ["Keeper", "end_session", "session_members", "signal_session"]

_POLL = 0.05
_GRACE = 10.0


def session_members(session: int) -> list[int]:
    """Return the ids of the living processes of a session, zombies left out."""
    if not Path("/proc/self/stat").exists():
        return _session_members_by_ps(session)
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - a Path object per process on the machine is waste here
        if not entry.isdigit():
            continue
        with suppress(OSError):
            # The name in brackets may hold anything, so count the fields after it: state, parent, group, session.
            fields = Path(f"/proc/{entry}/stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in "ZX":
                found.append(int(entry))
    return found


def _session_members_by_ps(session: int) -> list[int]:
    listing = subprocess.run(
        ["ps", "-A", "-o", "pid=,stat="], capture_output=True, text=True, check=True
    ).stdout
    found = []
    for line in listing.splitlines():
        pid, state = line.split(maxsplit=1)
        with suppress(OSError):
            if os.getsid(int(pid)) == session and not state.startswith("Z"):
                found.append(int(pid))
    return found


def signal_session(session: int, number: int) -> None:
    """Send a signal to every process of a session; one that is gone already is fine."""
    for pid in session_members(session):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def end_session(session: int, grace: float) -> None:
    """End every process of a session: ask, wait up to ``grace`` seconds, then kill until none is left."""
    signal_session(session, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while session_members(session) and time.monotonic() < deadline:
        time.sleep(_POLL)
    while session_members(session):
        signal_session(session, signal.SIGKILL)
        time.sleep(_POLL)


class Keeper:
    """The owner's side: starts the keeper process and tells it which sessions must not outlive the owner."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )

    @property
    def pid(self) -> int:
        """Process id of the keeper."""
        return self._process.pid

    def watch(self, session: int) -> None:
        """End this session when the owner dies."""
        self._say(f"+{session}\n")

    def forget(self, session: int) -> None:
        """The session has ended; its number may be given to somebody else."""
        self._say(f"-{session}\n")

    def clear(self, folder: Path) -> None:
        """Remove this folder once the owner has died and the sessions are ended."""
        self._say(f"~{folder}\n")

    def close(self) -> None:
        """Let the keeper end what is left, and go."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        with suppress(
            OSError
        ):  # a keeper that was killed can no longer help, but the owner still can stop everything
            self._process.stdin.write(os.fsencode(line))
            self._process.stdin.flush()


def _keep(owner: int) -> None:
    """Run as the keeper: collect sessions and folders until the owner is gone, then end and remove them all at once."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sessions, folders = _told_by(owner)
    for session in sessions:
        signal_session(session, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for session in sessions:
        end_session(session, max(0.0, deadline - time.monotonic()))
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _told_by(owner: int) -> tuple[set[int], list[str]]:
    """Return the sessions and folders that the owner leaves behind, once it is gone."""
    sessions: set[int] = set()
    folders: list[str] = []
    pending = b""
    while True:
        # A forked copy of the owner may hold the pipe open, so its end is not the only sign. What the owner still wrote
        # is read first: it may have died before this process was up.
        orphaned = os.getppid() != owner
        if not select.select([0], [], [], 0.0 if orphaned else 0.5)[0]:
            if orphaned:
                return sessions, folders
            continue
        chunk = os.read(0, 4096)
        if not chunk:
            return sessions, folders
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if line[:1] == b"~":
                folders.append(os.fsdecode(line[1:]))
            else:
                (sessions.add if line[:1] == b"+" else sessions.discard)(int(line[1:]))


if __name__ == "__main__":
    _keep(int(sys.argv[1]))
