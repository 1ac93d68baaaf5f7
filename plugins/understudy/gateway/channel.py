"""The connection to one start of the challenger's process: calls with deadlines, copies for the mirror, and its answers.

Nothing here waits. Calls and copies under way are bounded in number and bytes, so that a process which does not read
what it is sent costs no more than that.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from understudy.gateway.frames import (
    LARGEST_ANSWER,
    Answer,
    Ask,
    Body,
    Copy,
    Ready,
    Rehearsed,
    Splitter,
    Start,
    Unloadable,
    frame,
    read_from_hosted,
)

__all__ = ["Channel", "Tally", "Told", "refusal"]

_MOST_CALLS = 64
_MOST_CALL_BYTES = 64 * 1024 * 1024
# Less than for calls: a call that comes after the copies waits until they are read.
_MOST_COPY_BYTES = 16 * 1024 * 1024
# Copies are sent in bunches, because each write costs as much as many copies.
_BUNCH_SECONDS = 0.005


@dataclass
class Tally:
    """What became of the rows that were offered to the mirror.

    Attributes:
        dropped: Not mirrored: the queue was full, or the process ended before it was their turn.
        written: Mirrored and in the event log.
        failed: Mirrored, but could not be logged.
        waiting: Requests, not rows, whose turn has not come.
    """

    waiting: int = 0
    dropped: int = 0
    written: int = 0
    failed: int = 0


@dataclass(frozen=True)
class Told:
    """What came of a call.

    Attributes:
        answers: One per row, JSON-safe; nothing where there is an error.
        cpu_ms: CPU time of the call, divided over its rows.
        seconds: Time from the call to this, all waiting included.
        error: Why there are no answers: a word, a colon and an explanation.
    """

    answers: list[Any] | None
    cpu_ms: float
    seconds: float
    error: str | None


@dataclass(frozen=True)
class _Call:
    future: asyncio.Future[Told]
    deadline: asyncio.TimerHandle
    size: int
    asked_at: float


class _Lane:
    """How much is under way, and since when nothing of it has come back.

    Args:
        most: How many calls or copies may be under way.
        most_bytes: How many bytes; one alone may be larger.
    """

    def __init__(self, most: int, most_bytes: int) -> None:
        self.under_way = 0
        self._bytes = 0
        self._progress = 0.0
        self._most = most
        self._most_bytes = most_bytes

    def take(self, size: int) -> bool:
        """Count one in if there is room for it."""
        full = self.under_way >= self._most or self._bytes + size > self._most_bytes
        if full and self.under_way:
            return False
        if not self.under_way:
            self._progress = time.monotonic()
        self.under_way += 1
        self._bytes += size
        return True

    def give(self, size: int) -> None:
        """Count one out."""
        self.under_way -= 1
        self._bytes -= size
        self._progress = time.monotonic()

    def idle_for(self, now: float) -> float:
        return now - self._progress


class Channel(asyncio.Protocol):
    """One connection, from the start of a process to its end.

    Args:
        start: What the process is told first.
        tally: Counts the mirror's rows.
        most_copies: Requests that may wait for the mirror.
        changed: Called when the process has loaded its version, could not, or has ended.

    Attributes:
        ready: What the process said once its version was loaded.
        refused: Why it could not load it.
        ended: Whether the connection is closed, by either side.
    """

    def __init__(self, start: Start, tally: Tally, most_copies: int, changed: Callable[[], None]) -> None:
        self.ready: Ready | None = None
        self.refused: str | None = None
        self.ended = False
        self._start = start
        self._tally = tally
        self._changed = changed
        self._transport: asyncio.Transport | None = None
        self._splitter = Splitter(LARGEST_ANSWER)
        self._numbers = itertools.count()
        self._calls: dict[int, _Call] = {}
        self._copies: deque[tuple[int, int]] = deque()
        self._bunch: list[bytearray] = []
        self._exposed = _Lane(_MOST_CALLS, _MOST_CALL_BYTES)
        self._mirrored = _Lane(most_copies, _MOST_COPY_BYTES)

    @property
    def under_way(self) -> int:
        """Calls and copies whose end the process has not reported."""
        return self._exposed.under_way + self._mirrored.under_way

    def ask(self, body: Body, rows: list[int] | None, timeout: float) -> asyncio.Future[Told]:
        """Ask for the answers to some rows.

        Args:
            body: The request.
            rows: Which of its rows; nothing is all of them.
            timeout: Seconds until the call is given up.

        Returns:
            What will be known at the deadline at the latest.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Told] = loop.create_future()
        size = len(body.content)
        if self.ended or self._transport is None:
            future.set_result(refusal("Down: the challenger's process has just ended"))
        elif not self._exposed.take(size):
            future.set_result(refusal(f"TooBusy: {self._exposed.under_way} calls are already waiting"))
        else:
            number, now = next(self._numbers), time.monotonic()
            deadline = loop.call_later(timeout, _give_up, future, timeout)
            self._calls[number] = _Call(future, deadline, size, now)
            self._transport.write(frame(Ask(number, body, rows, now + timeout)))
        return future

    def rehearse(self, copy: Copy) -> None:
        """Send a copy to the mirror, or drop and count it when too many are under way."""
        size = len(copy.body.content)
        rows = len(copy.event_ids)
        if self.ended or not self._mirrored.take(size):
            self._tally.dropped += rows
            return
        self._copies.append((rows, size))
        self._tally.waiting += 1
        if not self._bunch:
            asyncio.get_running_loop().call_later(_BUNCH_SECONDS, self._send_bunch)
        self._bunch.append(frame(copy))

    def stuck_for(self, now: float) -> float:
        """Return for how many seconds nothing has come back although every lane in use waits for something.

        Args:
            now: Monotonic seconds.
        """
        return min(
            (lane.idle_for(now) for lane in (self._exposed, self._mirrored) if lane.under_way), default=0.0
        )

    def close(self, why: str) -> None:
        """Close the connection and end every call with a reason. May be called again."""
        self.ended = True
        if self._transport is not None:
            self._transport.abort()
        for call in self._calls.values():
            call.deadline.cancel()
            if not call.future.done():
                call.future.set_result(refusal(why, time.monotonic() - call.asked_at))
        self._calls.clear()
        self._tally.dropped += sum(rows for rows, _ in self._copies)
        self._tally.waiting -= len(self._copies)
        self._copies.clear()
        self._bunch.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.write(frame(self._start))

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.close("ProcessEnded: the challenger's process ended while it was asked")
        self._changed()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        try:
            for message in self._splitter.feed(data):
                self._hear(message)
        except (ValueError, KeyError, IndexError) as error:  # msgspec's own errors are ValueErrors
            self.refused = (
                f"The challenger's process sent something that is no message ({type(error).__name__})."
            )
            self.connection_lost(None)

    def _hear(self, data: bytearray) -> None:
        message = read_from_hosted(data)
        match message:
            case Answer():
                self._settle(message)
            case Rehearsed():
                self._tally.written += message.written
                self._tally.failed += message.failed
                for _ in range(message.copies):
                    _, size = self._copies.popleft()
                    self._tally.waiting -= 1
                    self._mirrored.give(size)
            case Ready():
                self.ready = message
                self._changed()
            case Unloadable():
                self.refused = message.reason
                self._changed()

    def _settle(self, answer: Answer) -> None:
        call = self._calls.pop(answer.number)
        self._exposed.give(call.size)
        call.deadline.cancel()
        if call.future.done():
            return
        seconds = time.monotonic() - call.asked_at
        call.future.set_result(Told(answer.answers, answer.cpu_ms, seconds, answer.error))

    def _send_bunch(self) -> None:
        if self._transport is not None and self._bunch:
            self._transport.writelines(self._bunch)
        self._bunch = []


def refusal(why: str, seconds: float = 0.0) -> Told:
    """Return the end of a call without answers."""
    return Told(None, 0.0, seconds, why)


def _give_up(future: asyncio.Future[Told], timeout: float) -> None:
    if not future.done():
        future.set_result(refusal(f"Timeout: no answer within {timeout:g} s", timeout))
