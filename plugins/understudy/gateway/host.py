"""Keeps a challenger in a process of its own: starts it, watches it, kills it when it hangs, starts it again.

Nothing here waits on the challenger, and nothing that it does reaches the gateway but answers of a bounded size: it has
its own memory with a limit, its own priority below the gateway's, its own process group, and no file of the gateway's but
one socket.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from understudy.gateway.channel import Channel, Tally, Told, refusal
from understudy.gateway.config import TrafficColumns
from understudy.gateway.frames import OUT_OF_MEMORY, Body, Copy, Start
from understudy.gateway.workers import Workers

__all__ = ["Host", "HostSettings"]

# The challenger reads no pseudonyms and signs nothing, so it need not know the keys to that.
_KEPT_FROM_IT = ("UNDERSTUDY_PSEUDONYM_KEY", "UNDERSTUDY_SIGNING_KEY")
_TICK_SECONDS = 0.25
_EXIT_SECONDS = 2.0
_DRAIN_SECONDS = 3.0
_STARTS_AT_ONCE = 64
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostSettings:
    """What every challenger of a gateway keeps to.

    Attributes:
        model: Registered model name.
        traffic: The columns of its requests.
        events_dir: Root of the event log.
        memory: Bytes of data that the process may hold.
        most_copies: Requests that may wait for the mirror.
        timeout: Seconds that a challenger's own server has for an answer, where there is one.
        load_seconds: Time within which a version must be loaded.
        hung_seconds: Time after which a process of which nothing comes back is killed.
        first_pause: Seconds until a process that ended is started again; it doubles each time.
        longest_pause: What it doubles up to; a process that lasted longer begins anew.
    """

    model: str
    traffic: TrafficColumns
    events_dir: Path
    memory: int
    most_copies: int
    timeout: float = 2.0
    load_seconds: float = 120.0
    hung_seconds: float = 60.0
    first_pause: float = 1.0
    longest_pause: float = 60.0


class Host:
    """One challenger version in a process of its own. Make it on the event loop; it starts at once.

    Args:
        version: The version.
        settings: What it keeps to.
        digests: Digest of each version whose files have been seen; this one's is looked up and added.
        tally: Counts the mirror's rows.
        launcher: The thread that starts processes. It must outlive them: they are killed with the thread that made them.

    Attributes:
        trouble: Why it cannot answer now; nothing while it can.
        decided: Whether it has been loaded or has failed to load at least once.
        starts: How often a process was started.
        pid: The process, while there is one.
        compiled: How the version was compiled, once it is loaded; nothing where it answers through MLflow.
        upstream: Address of the server that answers for it, once that is known; nothing where its process does.
    """

    def __init__(
        self,
        version: str,
        settings: HostSettings,
        digests: MutableMapping[str, str],
        tally: Tally,
        launcher: Workers,
    ) -> None:
        self.version = version
        self._settings = settings
        self.trouble: str | None = f"{self._name()} is being loaded."
        self.decided = False
        self.starts = 0
        self.pid: int | None = None
        self.compiled: str | None = None
        self.upstream: str | None = None
        self._digests = digests
        self._tally = tally
        self._launcher = launcher
        self._channel: Channel | None = None
        self._changed = asyncio.Event()
        self._leaving_at: float | None = None
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-challenger-"))
        self._running = asyncio.create_task(self._run())

    @property
    def ready(self) -> bool:
        """Whether it is loaded and answers."""
        return self._channel is not None

    @property
    def digest(self) -> str | None:
        """What its files hash to, once they were seen."""
        return self._digests.get(self.version)

    def ask(self, body: Body, rows: list[int] | None, timeout: float) -> asyncio.Future[Told]:
        """Ask for the answers to some rows. It never raises and never waits.

        Args:
            body: The request.
            rows: Which of its rows; nothing is all of them.
            timeout: Seconds until the call is given up.

        Returns:
            What will be known at the deadline at the latest.
        """
        if self._channel is not None:
            return self._channel.ask(body, rows, timeout)
        refused: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        refused.set_result(refusal(f"Down: {self.trouble}"))
        return refused

    def rehearse(self, copy: Copy) -> None:
        """Hand a copy to the mirror, or drop and count it when that is behind."""
        if self._channel is None:
            self._tally.dropped += len(copy.event_ids)
        else:
            self._channel.rehearse(copy)

    def retire(self, grace: float) -> None:
        """Let it end once what is under way has been answered.

        Args:
            grace: Seconds in which requests that have already chosen it may still come.
        """
        if self._leaving_at is None:
            self._leaving_at = time.monotonic() + grace
            self._changed.set()

    async def ended(self) -> None:
        """Wait until its process is gone and its files are removed."""
        await self._running

    async def _run(self) -> None:
        pause = self._settings.first_pause
        try:
            while self._leaving_at is None:
                began = time.monotonic()
                await self._live()
                if self._leaving_at is not None:
                    break
                if time.monotonic() - began > self._settings.longest_pause:
                    pause = self._settings.first_pause
                self.trouble = f"{self.trouble} It is started again after {pause:g} s."
                self.decided = True
                _log.warning("%s See docs/runbooks/challenger-keeps-dying.md.", self.trouble)
                resting_until = time.monotonic() + pause
                while self._leaving_at is None and (left := resting_until - time.monotonic()) > 0:
                    await self._nap(left)
                pause = min(2 * pause, self._settings.longest_pause)
        except Exception as error:  # what is left of a challenger is that it does not answer
            self.trouble = f"{self._name()} is given up: {type(error).__name__}."
            self.decided = True
            _log.exception("the challenger's process cannot be kept")
        finally:
            await asyncio.shield(self._launcher.submit(self._clean, _STARTS_AT_ONCE))

    async def _live(self) -> None:
        """Go through one life of the process and note why it ended."""
        ours, theirs = socket.socketpair()
        process: subprocess.Popen[bytes] | None = None
        channel = Channel(self._start(), self._tally, self._settings.most_copies, self._changed.set)
        try:
            process = await self._launcher.submit(lambda: _spawn(theirs), _STARTS_AT_ONCE)
            self.starts += 1
            self.pid = process.pid
            theirs.close()
            await asyncio.get_running_loop().create_unix_connection(lambda: channel, sock=ours)
            self.trouble = await self._watch(process, channel)
        except OSError as error:
            why = error.strerror or type(error).__name__
            self.trouble = f"{self._name()}: no process could be started ({why})."
        finally:
            self._channel = None
            theirs.close()
            channel.close("ProcessEnded: the challenger's process was stopped while it was asked")
            if process is None:
                ours.close()
            else:
                await self._end(process)

    async def _watch(self, process: subprocess.Popen[bytes], channel: Channel) -> str:
        settings = self._settings
        began = time.monotonic()
        while True:
            await self._nap(_TICK_SECONDS)
            now = time.monotonic()
            if channel.refused is not None:
                return f"{self._name()} cannot be loaded: {channel.refused}"
            if channel.ended or process.poll() is not None:
                return await self._how_it_ended(process, loaded=self._channel is not None)
            if channel.ready is not None and self._channel is None:
                self._digests[self.version], self.compiled = channel.ready.digest, channel.ready.compiled
                self.upstream = channel.ready.upstream
                self._channel, self.trouble, self.decided = channel, None, True
                _log.info("%s answers in process %s", self._name(), process.pid)
            if self._channel is None and now - began > settings.load_seconds:
                return f"{self._name()} cannot be loaded: it took longer than {settings.load_seconds:g} s."
            if channel.stuck_for(now) > settings.hung_seconds:
                return f"{self._name()}: its process hung for {settings.hung_seconds:g} s and was killed."
            if self._leaving_at is not None:
                drained = now >= self._leaving_at and not channel.under_way
                if drained or now >= self._leaving_at + _DRAIN_SECONDS:
                    return f"{self._name()} is no longer wanted."

    async def _how_it_ended(self, process: subprocess.Popen[bytes], *, loaded: bool) -> str:
        # The socket closes a moment before there is an exit code.
        until = time.monotonic() + _TICK_SECONDS
        while process.poll() is None and time.monotonic() < until:
            await asyncio.sleep(0.01)
        code = process.returncode
        if code is None:
            how = "closed its connection"
        elif code == OUT_OF_MEMORY:
            how = (
                f"reached the {self._settings.memory >> 20} MiB of memory that a challenger may use and ended"
            )
        else:
            how = f"ended with signal {-code}" if code < 0 else f"ended with exit code {code}"
        return f"{self._name()}: its process {how}{'' if loaded else ' before it was loaded'}."

    async def _end(self, process: subprocess.Popen[bytes]) -> None:
        """Kill what is left of the process and of those that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        until = time.monotonic() + _EXIT_SECONDS
        while process.poll() is None and time.monotonic() < until:
            await asyncio.sleep(0.01)
        self.pid = None

    async def _nap(self, seconds: float) -> None:
        """Sleep, but not past the next thing that happens."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)
        self._changed.clear()

    def _start(self) -> Start:
        settings = self._settings
        return Start(
            settings.model,
            self.version,
            settings.traffic,
            str(self._folder),
            self._digests.get(self.version),
            str(settings.events_dir),
            settings.memory,
            settings.timeout,
        )

    def _clean(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _name(self) -> str:
        return f"Version {self.version} of {self._settings.model}"


def _spawn(theirs: socket.socket) -> subprocess.Popen[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in _KEPT_FROM_IT}
    return subprocess.Popen(
        [sys.executable, "-m", "understudy.gateway.hosted", str(theirs.fileno()), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        # A model may print what it was asked, and that is private.
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        env=environment,
        process_group=0,
    )
