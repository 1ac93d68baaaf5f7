"""Writes what was served, and says when it cannot: without a log nobody may count as exposed."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from understudy.events.pseudonym import pseudonym
from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.gateway.answers import finite, logged_number
from understudy.gateway.batch import Batch
from understudy.gateway.config import GatewayConfig
from understudy.gateway.routing import Envelope, Route
from understudy.gateway.scoring import RowAnswer

__all__ = ["RequestLog", "Served"]

_RETRY_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Served:
    """One request and how it was answered.

    Attributes:
        request_id: Its correlation id.
        received_at: Unix seconds.
        generation: Generation of the exposure that it was served under.
        batch: Its rows.
        envelopes: The envelope of every row.
        route: The arm of every row.
    """

    request_id: str
    received_at: float
    generation: int
    batch: Batch
    envelopes: list[Envelope]
    route: Route


class RequestLog:
    """The log of requests, with a memory of whether it works.

    Args:
        config: The gateway's configuration.
        writer: Where events go.

    Attributes:
        broken: Why events cannot be written at present, or nothing.
    """

    def __init__(self, config: GatewayConfig, writer: EventWriter) -> None:
        self.broken: str | None = None
        self._config = config
        self._writer = writer
        self._next_try = 0.0
        traffic = config.traffic
        self._not_features = traffic.envelope | traffic.private

    def write(self, served: Served, answers: dict[int, RowAnswer]) -> None:
        """Write one event per answered row.

        Raises:
            EventsUnwritable: Nothing was written; the next request after a second tries again.
        """
        if self.broken and time.monotonic() < self._next_try:
            self._writer.failed += len(answers)
            raise EventsUnwritable(self.broken)
        try:
            self._writer.append(self._events(served, answers))
        except EventsUnwritable as error:
            if not self.broken:
                _log.error("serving the champion only: %s", error.message)
            self.broken = error.message
            self._next_try = time.monotonic() + _RETRY_SECONDS
            raise
        if self.broken:
            _log.warning("events are written again")
            self.broken = None

    def _events(self, served: Served, answers: dict[int, RowAnswer]) -> Iterator[dict[str, Any]]:
        features = served.batch.features(self._not_features)
        key = self._config.pseudonym_key
        for row, answer in answers.items():
            envelope = served.envelopes[row]
            prediction = logged_number(answer.value)
            broken = answer.value is not None and not finite(answer.value)
            yield {
                "event_id": envelope.event_id,
                "request_id": served.request_id,
                "received_at": served.received_at,
                "event_time": envelope.event_time,
                "model": self._config.model,
                "run": served.route.run_id,
                "stage": served.route.stage,
                "generation": served.generation,
                "arm": served.route.arms[row],
                "version": answer.version,
                "fallback": answer.fallback,
                "unit": None if envelope.unit is None else pseudonym(envelope.unit, key),
                "cohorts": envelope.cohorts,
                "features": features[row],
                "prediction": prediction,
                "error": answer.error or ("NotFinite: the answer is NaN or infinite" if broken else None),
                "latency_ms": round(answer.latency_ms, 3),
                # A row's share of a large batch may be less than a microsecond.
                "cpu_ms": None if answer.cpu_ms is None else round(answer.cpu_ms, 6),
            }
