"""Asks the sandbox's gateway about labelled rows, tells it their outcomes, and remembers who answered."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from understudy.exposure import CHALLENGER, CONTROL, Exposure, assign
from understudy.spec import Experiment

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Answer", "Rows", "Traffic", "harmed", "taken_back"]

_SECONDS_AGO = 10 * 86400.0


@dataclass(frozen=True)
class Answer:
    """What came of one request.

    Attributes:
        arm: The arm of its units while they were exposed.
        units: How many units it asked about.
        sent_at: Monotonic seconds.
        status: HTTP status; 0 where nobody answered.
        version: The version that answered.
        served_as: The arm that the gateway gave them.
    """

    arm: str
    units: int
    sent_at: float
    status: int
    version: str = ""
    served_as: str = ""


class Rows:
    """Labelled rows as they are sent.

    Args:
        frame: The holdout.
        experiment: Says which columns are what.
        changed: Columns with other values than the frame has, for requests that have drifted.
    """

    def __init__(
        self, frame: pd.DataFrame, experiment: Experiment, changed: dict[str, Any] | None = None
    ) -> None:
        traffic = experiment.traffic
        hidden = {experiment.data.label, traffic.unit, traffic.event_id, traffic.event_time, *traffic.private}
        self.columns = [str(name) for name in frame.columns if name not in hidden]
        self.labels = [float(label) for label in frame[experiment.data.label]]
        sent = frame.assign(**(changed or {}))[self.columns]
        text = sent.to_json(orient="values", date_format="iso")
        self.values = [json.dumps(row)[1:-1] for row in json.loads(text)]
        self.cohorts = [
            {column: str(value) for column, value in zip(traffic.cohorts, row, strict=True)}
            for row in frame.reindex(columns=list(traffic.cohorts)).itertuples(index=False)
        ]
        self.head = json.dumps([*self.columns, traffic.unit, traffic.event_id, traffic.event_time])

    def __len__(self) -> int:
        return len(self.values)


class Traffic:
    """Asks from some threads until it is left.

    Args:
        url: Base URL of the gateway.
        rows: What is asked about, in turn, each time by another unit.
        exposure: Splits the units into arms for as long as this lasts.
        name: Begins the ids of units and events, so that no two scenarios share any.
        threads: How many ask at once.
        rate: Units a second over all threads.
        rows_each: Rows of a request. Each request has one arm only, so that its time is that of one version.
        arrives: Whether a unit of an arm arrives at all, by its number.
    """

    def __init__(
        self,
        url: str,
        rows: Rows,
        exposure: Exposure | None,
        name: str,
        *,
        threads: int = 2,
        rate: float = 4000.0,
        rows_each: int = 20,
        arrives: Callable[[str, int], bool] = lambda arm, number: True,
    ) -> None:
        self.answers: list[Answer] = []
        parts = urlsplit(url)
        self._address = (parts.hostname or "", parts.port or 80)
        self._rows, self._exposure, self._name, self._arrives = rows, exposure, name, arrives
        self._numbers = itertools.count()
        self._pause = rows_each * threads / rate
        self._rows_each = rows_each
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(threads)]
        self.began = math.inf

    def __enter__(self) -> Traffic:
        self.began = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads:
            thread.join()

    def answered_by(self, version: str) -> list[Answer]:
        """Return the answers of a version so far."""
        return [answer for answer in list(self.answers) if answer.version == version]

    def wait_for(self, wanted: Callable[[Answer], bool], seconds: float) -> bool:
        """Wait for an answer to something that is sent from now on; tell whether it came."""
        since = time.monotonic()
        while time.monotonic() - since < seconds:
            if any(answer.sent_at >= since and wanted(answer) for answer in self.answers[-200:]):
                return True
            time.sleep(0.02)
        return False

    def wait_for_units(self, count: int, seconds: float) -> None:
        """Wait until so many units were answered, but no longer than this."""
        until = time.monotonic() + seconds
        while sum(answer.units for answer in list(self.answers)) < count and time.monotonic() < until:
            time.sleep(0.02)

    def _ask(self) -> None:
        connection = http.client.HTTPConnection(*self._address, timeout=30)
        waiting: dict[str, list[int]] = {}
        while not self._done.is_set():
            began = time.monotonic()
            arm, numbers = self._next(waiting)
            self.answers.append(self._sent(connection, arm, numbers))
            self._done.wait(max(0.0, self._pause - (time.monotonic() - began)))
        connection.close()

    def _next(self, waiting: dict[str, list[int]]) -> tuple[str, list[int]]:
        """Return the next units that ask together, all of one arm."""
        while True:
            number = next(self._numbers)
            arm = self._arm(number)
            if not self._arrives(arm, number):
                continue
            mine = waiting.setdefault(arm, [])
            mine.append(number)
            if len(mine) == self._rows_each:
                return arm, waiting.pop(arm)

    def _arm(self, number: int) -> str:
        if self._exposure is None:
            return CONTROL
        cohorts = self._rows.cohorts[number % len(self._rows)]
        live = self._exposure.lease_expires_at or 1
        return assign(self._exposure, self._unit(number), live - 1, cohorts)

    def _unit(self, number: int) -> str:
        return f"{self._name}-{number}"

    def _sent(self, connection: http.client.HTTPConnection, arm: str, numbers: Sequence[int]) -> Answer:
        at = time.time() - _SECONDS_AGO
        rows, unit = self._rows, self._unit
        data = ",".join(
            f'[{rows.values[number % len(rows)]},"{unit(number)}","{unit(number)}",{at}]'
            for number in numbers
        )
        body = f'{{"dataframe_split":{{"columns":{rows.head},"data":[{data}]}}}}'
        sent_at = time.monotonic()
        status, version, served_as = _post(connection, "/invocations", body)
        if status == 200:
            told = [
                {"event_id": unit(number), "outcome": rows.labels[number % len(rows)], "occurred_at": at + 1}
                for number in numbers
            ]
            _post(connection, "/outcomes", json.dumps({"outcomes": told}))
        return Answer(arm, len(numbers), sent_at, status, version, served_as)


def _post(connection: http.client.HTTPConnection, path: str, body: str) -> tuple[int, str, str]:
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, "", ""
    told = response.headers
    return response.status, told.get("x-understudy-version", ""), told.get("x-understudy-arm", "")


def harmed(answers: Sequence[Answer], version: str) -> int:
    """Count the units that got an answer of a version."""
    return int(np.sum([answer.units for answer in answers if answer.version == version], dtype=np.int64))


def taken_back(answer: Answer) -> bool:
    """Whether its units were exposed before and are not any more; that the champion helped out is something else."""
    return answer.status == 200 and answer.arm == CHALLENGER != answer.served_as
