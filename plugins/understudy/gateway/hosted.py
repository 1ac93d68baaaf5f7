"""The challenger's own process: loads one version, answers what it is asked, rehearses on copies, logs what came of them.

It is made to be lost. The kernel ends it first when memory runs out, and together with the gateway; whatever it does to
itself, the gateway starts another. It speaks only through the socket that it was given: its output goes nowhere.
"""

from __future__ import annotations

import ctypes
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from understudy.gateway.frames import (
    LARGEST_ANSWER,
    OUT_OF_MEMORY,
    Answer,
    Ask,
    Body,
    Copy,
    FromHosted,
    Ready,
    Rehearsed,
    Splitter,
    Start,
    ToHosted,
    Unloadable,
    frame,
    read_to_hosted,
)
from understudy.gateway.imports import importing

if TYPE_CHECKING:
    from understudy.events.lines import MirroredRow

__all__ = ["main"]

_THREADS = 2
# Below the gateway, which is at 0: on a full machine a challenger waits first, its mirror longest.
_NICE, _NICE_LOADING, _NICE_MIRROR = 5, 10, 19
_REPORT_SECONDS = 0.02
_LONGEST_MESSAGE = 2**32 - 1
_PR_SET_PDEATHSIG = 1


def main(arguments: Sequence[str]) -> NoReturn:
    """Live until the gateway closes the connection.

    Args:
        arguments: Number of the socket's file descriptor, and the gateway's process id.
    """
    descriptor, gateway = (int(argument) for argument in arguments)
    _be_expendable(gateway)
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)  # a process that the model starts must not keep it open
    _to_the_end(lambda: _live(connection))


def _live(connection: socket.socket) -> None:
    """Take messages until the gateway closes the connection; then nobody waits for anything any more."""
    messages = _messages(connection)
    start = next(messages, None)
    if isinstance(start, Start):
        resource.setrlimit(resource.RLIMIT_DATA, (start.memory, start.memory))
        hosted = _Hosted(start, connection)
        for message in messages:
            hosted.take(message)


def _to_the_end(work: Callable[[], None]) -> NoReturn:
    """Do what a thread is there for and end the process with it: one that has lost a thread answers nobody."""
    code = 1
    try:
        work()
        code = 0
    except MemoryError:
        code = OUT_OF_MEMORY
    finally:
        # A model's own threads and exit handlers might never end.
        os._exit(code)


def _be_expendable(gateway: int) -> None:
    os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    # A core would hold requests.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != gateway:  # it ended before it could be asked to take this process with it
        os._exit(0)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _messages(connection: socket.socket) -> Iterator[ToHosted]:
    splitter = Splitter(_LONGEST_MESSAGE)
    while data := connection.recv(1 << 18):
        for message in splitter.feed(data):
            yield read_to_hosted(message)


def _thread(work: Callable[[], None], name: str) -> None:
    threading.Thread(target=_to_the_end, args=(work,), name=name, daemon=True).start()


class _Hosted:
    """The version, its two lanes and the connection.

    Args:
        start: What to load.
        connection: The way to the gateway.
    """

    def __init__(self, start: Start, connection: socket.socket) -> None:
        self._start = start
        self._connection = connection
        self._sending = threading.Lock()
        self._asked: queue.SimpleQueue[Ask] = queue.SimpleQueue()
        self._copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()
        self._spent = False
        # Threads inherit the priority of the one that makes them, and nobody may raise it again.
        for number in range(_THREADS):
            _thread(self._answer_calls, f"exposed-{number}")
        threading.Thread(target=self._load, name="load", daemon=True).start()

    def take(self, message: ToHosted) -> None:
        """Queue what the gateway sent."""
        match message:
            case Ask():
                self._asked.put(message)
            case Copy():
                self._copies.put(message)
            case _:
                raise ValueError("the version is already being loaded")

    def _load(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE_LOADING)
        try:
            with importing():
                from understudy.gateway.loading import load_version

            start = self._start
            sys.dont_write_bytecode = True  # a model's own code lies among the files that are checked again
            folder = Path(start.folder)
            self._loaded = load_version(
                start.model, start.version, start.traffic, folder, start.digest, start.timeout
            )
        except BaseException as error:  # a model's code may raise anything
            self._send(Unloadable(_described(error, ())))
            os._exit(1)
        _thread(self._rehearse, "mirror")
        loaded = self._loaded
        for number in range(_THREADS, loaded.threads):
            _thread(self._answer_calls, f"exposed-{number}")
        self._send(Ready(loaded.digest, loaded.compiled.how if loaded.compiled else None, loaded.upstream))

    def _answer_calls(self) -> None:
        while True:
            ask = self._asked.get()
            if time.monotonic() > ask.until:
                self._send(Answer(ask.number, None, 0.0, "Timeout: nobody waits any more"))
                continue
            found = self._score(ask.body, ask.rows)
            if found.error is not None:
                self._send(Answer(ask.number, None, 0.0, found.error))
            else:
                self._send_answers(Answer(ask.number, found.answers, found.cpu_ms or 0.0, None))
            self._leave_if_spent()
            del ask, found  # an idle thread must not keep a request in memory

    def _rehearse(self) -> None:
        """Score copies one by one and report in bunches: each report wakes the gateway."""
        from understudy.events.writer import EventsUnwritable, EventWriter

        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE_MIRROR)
        start = self._start
        writer = EventWriter(Path(start.events_dir), start.model, "mirrors")
        done, reported = 0, 0.0
        counted = (0, 0)
        while True:
            try:
                copy = self._copies.get(timeout=_REPORT_SECONDS if done else None)
            except queue.Empty:
                copy = None
            if copy is not None:
                with suppress(EventsUnwritable):  # counted, and shown in /status
                    writer.append(self._rehearsed(copy))
                done += 1
            now = time.monotonic()
            if copy is None or now - reported > _REPORT_SECONDS or self._spent:
                self._send(Rehearsed(done, writer.written - counted[0], writer.failed - counted[1]))
                done, reported, counted = 0, now, (writer.written, writer.failed)
            self._leave_if_spent()

    def _rehearsed(self, copy: Copy) -> list[MirroredRow]:
        from understudy.events.lines import MirroredRow
        from understudy.gateway.answers import logged_number

        started = time.perf_counter()
        found = self._score(copy.body, copy.rows)
        latency = round((time.perf_counter() - started) * 1000, 3)
        answers = found.answers or [None] * len(copy.event_ids)
        return [
            MirroredRow(
                event_id=event_id,
                request_id=copy.request_id,
                trace_id=copy.trace_id,
                received_at=copy.received_at,
                event_time=event_time,
                model=self._start.model,
                run=copy.run_id,
                version=self._start.version,
                prediction=logged_number(answer),
                error=found.error,
                latency_ms=latency,
                cpu_ms=found.cpu_ms,
            )
            for event_id, event_time, answer in zip(copy.event_ids, copy.event_times, answers, strict=True)
        ]

    def _score(self, body: Body, rows: list[int] | None) -> _Found:
        from understudy.gateway.answers import problem_with

        batch = None
        try:
            batch = self._loaded.read(body.content, body.content_type)
            scored = self._loaded.score(batch, rows)
            count = batch.size if rows is None else len(rows)
            error = problem_with(scored.answers, count, None)
            countable = isinstance(scored.answers, list) and len(scored.answers) == count
            return _Found(scored.answers if countable else None, scored.cpu_ms, error)
        except MemoryError:
            self._spent = True
            return _Found(None, None, "MemoryError: the memory that the challenger may use is full")
        except BaseException as raised:  # a model may raise anything, SystemExit too
            secrets = set() if batch is None else batch.secrets(self._start.traffic.secret)
            return _Found(None, None, _described(raised, secrets))

    def _send_answers(self, answer: Answer) -> None:
        try:
            data = frame(answer)
            problem = "TooLarge: more than can be sent" if len(data) > LARGEST_ANSWER else None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            problem = f"WrongType: an answer is not JSON ({type(error).__name__})"
        if problem is None:
            self._write(data)
        else:
            self._send(Answer(answer.number, None, 0.0, problem))

    def _send(self, message: FromHosted) -> None:
        self._write(frame(message))

    def _write(self, data: bytearray) -> None:
        try:
            with self._sending:
                self._connection.sendall(data)
        except OSError:
            os._exit(0)

    def _leave_if_spent(self) -> None:
        if self._spent:
            os._exit(OUT_OF_MEMORY)


@dataclass(frozen=True)
class _Found:
    """What a call gave: one answer per row, or none; the CPU time of each row; what is wrong with them."""

    answers: list[Any] | None
    cpu_ms: float | None
    error: str | None


def _described(error: BaseException, secrets: Iterable[str]) -> str:
    from understudy.gateway.redaction import describe

    return describe(error, secrets)


if __name__ == "__main__":
    main(sys.argv[1:])
