"""Writes what was served, and says when it cannot: without a log nobody may count as exposed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from understudy.errors import UnderstudyError
from understudy.events.archive import torn_lines
from understudy.events.lines import RequestLine
from understudy.events.pseudonym import pseudonyms
from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.gateway.answers import logged_numbers
from understudy.gateway.batch import Batch, Rows, pick
from understudy.gateway.config import GatewayConfig
from understudy.gateway.routing import Envelopes, Route
from understudy.gateway.scoring import Answered, RowAnswer

__all__ = ["RequestLog", "Served"]

_RETRY_SECONDS = 1.0
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

    def write(self, lines: Sequence[RequestLine]) -> None:
        """Write lines, all of them or none.

        Raises:
            EventsUnwritable: Nothing was written; the next request after a second tries again.
        """
        if self.broken and time.monotonic() < self._next_try:
            self._writer.failed += sum(len(line.event_id) for line in lines)
            raise EventsUnwritable(self.broken)
        try:
            self._writer.append(lines)
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

    def line(self, served: Served, answered: Answered, rows: Rows = None) -> RequestLine:
        """Return the line of a request.

        Args:
            served: The request.
            answered: What came of its rows, each of which is an event.
            rows: Which rows these are.
        """
        columns, features = served.batch.table(self._not_features, rows)
        told = served.envelopes
        units = pseudonyms(pick(told.units, rows), self._config.pseudonym_key)
        numbers, finite = logged_numbers(answered.values)
        versions, latencies, cpu, fallbacks, errors = _by_field(answered.rows)
        if not all(finite):
            errors = [
                error or (None if whole else _NOT_FINITE) for error, whole in zip(errors, finite, strict=True)
            ]
        return RequestLine(
            served.request_id,
            served.trace_id,
            served.received_at,
            self._config.model,
            served.route.run_id,
            served.route.stage,
            served.generation,
            pick(told.event_ids, rows),
            pick(told.event_times, rows),
            pick(served.route.arms, rows),
            versions,
            units,
            pick(told.cohorts, rows),
            numbers,
            latencies,
            cpu,
            fallbacks,
            errors,
            columns,
            features,
        )


def _by_field(rows: Sequence[RowAnswer]) -> list[list[Any]]:
    """Return how rows were answered, as one list per field."""
    if rows and rows.count(rows[0]) == len(rows):
        return [[value] * len(rows) for value in astuple(rows[0])]
    return [[getattr(row, name) for row in rows] for name in RowAnswer.__struct_fields__]


def _left_by_others(config: GatewayConfig) -> int | None:
    try:
        found = torn_lines(config.events_dir / config.model)
    except (UnderstudyError, OSError) as error:
        _log.error("unfinished lines of the event log could not be counted: %s", error)
        return None
    if found:
        _log.warning("killed processes left %d unfinished lines in the event log; nobody reads them", found)
    return found
