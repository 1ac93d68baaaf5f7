"""Sustained load of single rows on keep-alive connections, with every answer kept."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from urllib.parse import urlsplit

from tests.gateway.conftest import row, split

__all__ = ["Answer", "Load", "percentile"]


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes:
        unit: Number of the row that was asked about.
        sent_at: Monotonic seconds.
        seconds: Time to the whole answer.
        status: HTTP status; 0 where the connection failed, which is a lost request.
        content: The body, byte for byte.
        arm: What the gateway says of itself.
        version: The version that answered.
        request_id: The gateway's name for the request.
    """

    unit: int
    sent_at: float
    seconds: float
    status: int
    content: bytes = b""
    arm: str = ""
    version: str = ""
    request_id: str = ""


class Load:
    """Asks until it is left, from some threads at a steady pace.

    Args:
        url: Base URL of the gateway.
        units: Numbers of the rows, asked about in turn.
        rate: Requests a second over all threads.
        threads: How many may wait for an answer at once.
    """

    def __init__(self, url: str, units: Sequence[int], rate: float, threads: int) -> None:
        self.answers: list[Answer] = []
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._bodies = [(unit, json.dumps(split([row(unit)])).encode()) for unit in units]
        self._pause = threads / rate
        self._done = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(number, threads)) for number in range(threads)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def since(self, moment: float, until: float = float("inf")) -> list[Answer]:
        """Return the answers to what was asked between two moments (monotonic seconds)."""
        return [answer for answer in list(self.answers) if moment <= answer.sent_at < until]

    def wait_for(self, wanted: Callable[[Answer], bool], seconds: float) -> float:
        """Wait for an answer that has not been given yet and return after how many seconds it came."""
        began, seen = time.monotonic(), len(self.answers)
        while time.monotonic() - began < seconds:
            for answer in self.answers[seen:]:
                seen += 1
                if answer.sent_at >= began and wanted(answer):
                    return time.monotonic() - began
            time.sleep(0.005)
        raise AssertionError(f"no such answer within {seconds:g} s; the last was {self.answers[-1:]}")

    def _ask(self, number: int, threads: int) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        due = time.monotonic() + self._pause * number / threads
        position = number
        while not self._done.is_set():
            if (wait := due - time.monotonic()) > 0:
                time.sleep(wait)
            # Who is late does not hurry: a slow answer must not turn into a burst.
            due = max(due + self._pause, time.monotonic())
            unit, body = self._bodies[position % len(self._bodies)]
            position += threads
            self.answers.append(_asked(connection, unit, body))
        connection.close()


def _asked(connection: http.client.HTTPConnection, unit: int, body: bytes) -> Answer:
    sent_at = time.monotonic()
    try:
        connection.request("POST", "/invocations", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return Answer(unit, sent_at, time.monotonic() - sent_at, 0)
    seconds = time.monotonic() - sent_at
    if response.status != 200:
        return Answer(unit, sent_at, seconds, response.status)
    return Answer(
        unit,
        sent_at,
        seconds,
        200,
        content,
        response.headers["x-understudy-arm"],
        response.headers["x-understudy-version"],
        response.headers["x-request-id"],
    )


def percentile(answers: Sequence[Answer], share: float) -> float:
    """Return a percentile of the time to answer, in milliseconds; NaN where there are no answers."""
    ordered = sorted(answer.seconds for answer in answers)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1000 if ordered else float("nan")
