"""Rehearses the challenger on copies of the champion's requests, behind a bounded queue and never in their way."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from queue import Empty, Full, Queue
from typing import Any

from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.gateway.answers import logged_number, problem_with
from understudy.gateway.batch import Batch
from understudy.gateway.config import TrafficColumns
from understudy.gateway.pool import LoadedModel
from understudy.gateway.redaction import describe
from understudy.gateway.routing import Envelope, secrets_in

__all__ = ["Copy", "Mirror"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """Rows that the champion has answered and the challenger may rehearse on."""

    request_id: str
    received_at: float
    run_id: str | None
    batch: Batch
    rows: list[int]
    envelopes: list[Envelope]
    challenger: LoadedModel


class _Lane:
    """The queue of one challenger, and the state of the thread that empties it."""

    def __init__(self, version: str, waiting: int) -> None:
        self.version = version
        self.queue: Queue[Copy] = Queue(maxsize=waiting)
        self.stopping = threading.Event()
        self.done = threading.Event()


class Mirror:
    """Scores copies and logs them, on one thread per challenger.

    Args:
        model: Registered model name.
        traffic: Columns of its requests.
        writer: Where mirrored events go.
        queue: Requests that may wait; more are dropped.

    Attributes:
        dropped: Rows that were not mirrored because the queue was full.
        scored: Rows that were mirrored and logged.
    """

    def __init__(self, model: str, traffic: TrafficColumns, writer: EventWriter, queue: int) -> None:
        self.dropped = 0
        self.scored = 0
        self._model = model
        self._traffic = traffic
        self._writer = writer
        self._waiting = queue
        self._lane: _Lane | None = None

    def offer(self, copy: Copy) -> None:
        """Queue a copy, or drop and count it when the queue is full. Never waits."""
        if self._lane is None or self._lane.version != copy.challenger.version:
            # A new challenger does not wait for an old one that may hang.
            if self._lane is not None:
                self._lane.stopping.set()
            self._lane = _Lane(copy.challenger.version, self._waiting)
            threading.Thread(target=self._work, args=(self._lane,), name="mirror", daemon=True).start()
        try:
            self._lane.queue.put_nowait(copy)
        except Full:
            self.dropped += len(copy.rows)

    def close(self, timeout: float) -> None:
        """Score what is queued, for at most ``timeout`` seconds, then stop."""
        if self._lane is not None:
            self._lane.stopping.set()
            self._lane.done.wait(timeout)

    def _work(self, lane: _Lane) -> None:
        while True:
            try:
                copy = lane.queue.get(timeout=0.1)
            except Empty:
                if lane.stopping.is_set():
                    lane.done.set()
                    return
                continue
            try:
                self._writer.append(self._events(copy))
                self.scored += len(copy.rows)
            except EventsUnwritable as error:
                _log.warning("%s", error.message)
            except Exception as error:  # the mirror goes on, whatever one copy did
                _log.error("mirroring failed: %s", type(error).__name__)
            del copy  # an idle thread must not keep the challenger in memory

    def _events(self, copy: Copy) -> list[dict[str, Any]]:
        started = time.perf_counter()
        answers: list[Any] = [None] * len(copy.rows)
        error: str | None = None
        try:
            everything = len(copy.rows) == copy.batch.size
            scored = copy.challenger.score(copy.batch, None if everything else copy.rows).answers
            error = problem_with(scored, len(copy.rows), None)
            if error is None or (isinstance(scored, list) and len(scored) == len(copy.rows)):
                answers = scored
        except BaseException as raised:  # a model may raise anything
            error = describe(raised, secrets_in(copy.batch, self._traffic))
        latency = round((time.perf_counter() - started) * 1000, 3)
        return [
            {
                "event_id": copy.envelopes[row].event_id,
                "request_id": copy.request_id,
                "received_at": copy.received_at,
                "event_time": copy.envelopes[row].event_time,
                "model": self._model,
                "run": copy.run_id,
                "version": copy.challenger.version,
                "prediction": logged_number(answer),
                "error": error,
                "latency_ms": latency,
            }
            for row, answer in zip(copy.rows, answers, strict=True)
        ]
