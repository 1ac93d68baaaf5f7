"""Writes what was served, and says when it cannot: without a log nobody may count as exposed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from operator import attrgetter

import msgspec

from understudy.errors import UnderstudyError
from understudy.events.archive import torn_lines
from understudy.events.lines import RequestLine, ServedRow
from understudy.events.pseudonym import pseudonym
from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.gateway.answers import logged_numbers
from understudy.gateway.batch import Batch
from understudy.gateway.config import GatewayConfig
from understudy.gateway.routing import Envelopes, Route
from understudy.gateway.scoring import RowAnswer

__all__ = ["RequestLog", "Served"]

_RETRY_SECONDS = 1.0
_value = attrgetter("value")
_NOT_FINITE = "NotFinite: the answer is NaN or infinite"
_log = logging.getLogger(__name__)


class Served(msgspec.Struct, frozen=True):
    """One request and how it was answered.

    Attributes:
        request_id: Its correlation id.
        trace_id: Its W3C trace id, if it belongs to a trace.
        received_at: Unix seconds.
        generation: Generation of the exposure that it was served under.
        body: Its body.
        content_type: Its ``Content-Type`` header.
        headers: All its headers.
        batch: Its rows.
        envelopes: What describes its rows.
        route: The arm of every row.
    """

    request_id: str
    trace_id: str | None
    received_at: float
    generation: int
    body: bytes
    content_type: str | None
    headers: Mapping[str, str]
    batch: Batch
    envelopes: Envelopes
    route: Route


class RequestLog:
    """The log of requests, with a memory of whether it works.

    Args:
        config: The gateway's configuration.
        writer: Where events go.

    Attributes:
        broken: Why events cannot be written at present, or nothing.
        torn_lines: Unfinished last lines that killed processes had left when this one began; nothing where that is unknown.
    """

    def __init__(self, config: GatewayConfig, writer: EventWriter) -> None:
        self.broken: str | None = None
        self._config = config
        self._writer = writer
        self._next_try = 0.0
        traffic = config.traffic
        self._not_features = traffic.envelope | traffic.private
        self.torn_lines = _left_by_others(config)

    def write(self, served: Served, answers: Sequence[RowAnswer], rows: Sequence[int] | None = None) -> None:
        """Write one line with the answered rows, each of which is an event.

        Args:
            served: The request.
            answers: What came of the rows.
            rows: Which rows these are; all of them unless it says otherwise.

        Raises:
            EventsUnwritable: Nothing was written; the next request after a second tries again.
        """
        if self.broken and time.monotonic() < self._next_try:
            self._writer.failed += len(answers)
            raise EventsUnwritable(self.broken)
        try:
            self._writer.append([self._line(served, answers, rows)])
        except EventsUnwritable as error:
            if not self.broken:
                _log.error(
                    "serving the champion only: %s See docs/runbooks/events-are-lost.md.", error.message
                )
            self.broken = error.message
            self._next_try = time.monotonic() + _RETRY_SECONDS
            raise
        if self.broken:
            _log.warning("events are written again")
            self.broken = None

    def _line(self, served: Served, answers: Sequence[RowAnswer], rows: Sequence[int] | None) -> RequestLine:
        columns, features = served.batch.table(self._not_features, rows)
        told, key = served.envelopes, self._config.pseudonym_key
        units = [pseudonym(unit, key) if unit else None for unit in told.units]
        numbers, finite = logged_numbers(list(map(_value, answers)))
        places = range(len(answers)) if rows is None else rows
        arms = served.route.arms
        return RequestLine(
            served.request_id,
            served.trace_id,
            served.received_at,
            self._config.model,
            served.route.run_id,
            served.route.stage,
            served.generation,
            [
                ServedRow(
                    told.event_ids[row],
                    told.event_times[row],
                    arms[row],
                    answer.version,
                    units[row],
                    told.cohorts[row],
                    number,
                    answer.latency_ms,
                    answer.cpu_ms,
                    answer.fallback,
                    answer.error or (None if whole else _NOT_FINITE),
                )
                for row, answer, number, whole in zip(places, answers, numbers, finite, strict=True)
            ],
            columns,
            features,
        )


def _left_by_others(config: GatewayConfig) -> int | None:
    try:
        found = torn_lines(config.events_dir / config.model)
    except (UnderstudyError, OSError) as error:
        _log.error("unfinished lines of the event log could not be counted: %s", error)
        return None
    if found:
        _log.warning("killed processes left %d unfinished lines in the event log; nobody reads them", found)
    return found
