"""Who is asked what: the envelope of each row, its arm, and the version that should answer it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from understudy.exposure import CHALLENGER, UNEXPOSED, Exposure, assign
from understudy.gateway.batch import Batch
from understudy.gateway.config import TrafficColumns
from understudy.gateway.protocol import bad_request

__all__ = ["Envelope", "Route", "read_envelopes", "route", "secrets_in"]


@dataclass(frozen=True)
class Envelope:
    """What describes one row without being a feature of it.

    Attributes:
        unit: Raw value of the randomised unit, if there is one.
        event_id: Name of the event; made up when the client sent none.
        event_time: Unix second at which it happened; now, when the client sent none.
        cohorts: Value of each cohort column, as text.
    """

    unit: str | None
    event_id: str
    event_time: float
    cohorts: dict[str, str]


@dataclass(frozen=True)
class Route:
    """The arm of every row of a request, decided at one moment.

    Attributes:
        arms: One per row.
        run_id: The run that is being served, if exposure or a mirror is on.
        stage: Its stage; 0 when nobody is exposed.
    """

    arms: tuple[str, ...]
    run_id: str | None
    stage: int

    @property
    def challenger_rows(self) -> list[int]:
        """Rows that the challenger should answer."""
        return [row for row, arm in enumerate(self.arms) if arm == CHALLENGER]

    @property
    def champion_rows(self) -> list[int]:
        """Rows that the champion answers."""
        return [row for row, arm in enumerate(self.arms) if arm != CHALLENGER]


def read_envelopes(batch: Batch, traffic: TrafficColumns, received_at: float) -> list[Envelope]:
    """Read the envelope of every row.

    Args:
        batch: The request.
        traffic: Which columns mean what.
        received_at: Unix seconds, used as the event's time where the client sent none.

    Raises:
        MlflowException: A unit, event id or event time cannot be used; the message names row and column, no value.
    """
    units = _texts(batch, traffic.unit)
    event_ids = _texts(batch, traffic.event_id)
    times = _times(batch, traffic.event_time, received_at)
    cohorts = {
        name: [_shown(value) for value in column]
        for name in traffic.cohorts
        if name not in traffic.secret and (column := batch.column(name)) is not None
    }
    return [
        Envelope(
            unit=units[row] or None,
            event_id=event_ids[row] or uuid4().hex,
            event_time=times[row],
            cohorts={name: column[row] for name, column in cohorts.items()},
        )
        for row in range(batch.size)
    ]


def route(exposure: Exposure, envelopes: Sequence[Envelope], now: float, *, counted: bool) -> Route:
    """Decide every row's arm.

    Args:
        exposure: What is published and applied.
        envelopes: The rows.
        now: Unix seconds; the lease is held against it.
        counted: Whether events can be logged. When they cannot, nobody is exposed: unseen harm cannot be stopped.
    """
    lapsed = exposure.exposed and not exposure.live(now)
    if lapsed or not counted:
        return Route((UNEXPOSED,) * len(envelopes), None, 0)
    arms = tuple(assign(exposure, envelope.unit, now, envelope.cohorts) for envelope in envelopes)
    return Route(arms, exposure.run_id, exposure.stage)


def secrets_in(batch: Batch, traffic: TrafficColumns) -> set[str]:
    """Return the raw values of a request that no message may quote."""
    found: set[str] = set()
    for name in traffic.secret:
        found.update(str(value) for value in batch.column(name) or () if value is not None)
    return found


def _texts(batch: Batch, name: str | None) -> list[str]:
    """Return a column as text; empty where it has no value."""
    column = batch.column(name) if name else None
    if column is None:
        return [""] * batch.size
    return [_text(value, name, row) for row, value in enumerate(column)]


def _text(value: Any, name: str | None, row: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, (list, dict)):
        raise bad_request(
            f"Row {row}: column {name!r} holds a {type(value).__name__}, but must be text or a number."
        )
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise bad_request(f"Row {row}: column {name!r} is not valid Unicode text.") from None
    return text


def _times(batch: Batch, name: str | None, received_at: float) -> list[float]:
    column = batch.column(name) if name else None
    if column is None:
        return [received_at] * batch.size
    times = []
    for row, value in enumerate(column):
        if value is None:
            times.append(received_at)
            continue
        try:
            seconds = float(value)
        except (TypeError, ValueError, OverflowError):
            seconds = math.nan
        if not math.isfinite(seconds) or isinstance(value, bool):
            raise bad_request(f"Row {row}: column {name!r} must be a number of seconds since 1970, or null.")
        times.append(seconds)
    return times


def _shown(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
