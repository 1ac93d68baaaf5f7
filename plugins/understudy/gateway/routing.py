"""Who is asked what: the envelope of each row, its arm, and the version that should answer it."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import msgspec

from understudy.exposure import CHALLENGER, UNEXPOSED, Exposure, arms, assign
from understudy.gateway.batch import Batch, spellings
from understudy.gateway.config import TrafficColumns
from understudy.gateway.protocol import bad_request

__all__ = ["Envelopes", "Route", "read_envelopes", "route", "secrets_in"]

_NO_COHORTS: dict[str, str] = {}


class Envelopes(msgspec.Struct, frozen=True):
    """What describes the rows of a request without being a feature of them; each list has one item per row.

    Attributes:
        units: Raw value of the randomised unit; empty where a row has none.
        event_ids: Name of the event; where the client sent none it is the request's id, which the answer tells, if that is new.
        event_times: Unix second at which it happened; now, when the client sent none.
        cohorts: Value of each cohort column, as text.
    """

    units: list[str]
    event_ids: list[str]
    event_times: list[float]
    cohorts: list[dict[str, str]]


class Route(msgspec.Struct, frozen=True):
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


def read_envelopes(
    batch: Batch, traffic: TrafficColumns, headers: Mapping[str, str], received_at: float, request_id: str
) -> Envelopes:
    """Read the envelope of every row: from its own columns, else from the request's headers, else made up.

    Args:
        batch: The request.
        traffic: Which columns and headers mean what.
        headers: The request's headers, by lower-case name.
        received_at: Unix seconds, used as the event's time where the client sent none.
        request_id: The request's correlation id.

    Raises:
        MlflowException: A unit, event id or event time cannot be used; the message names row and column, no value.
    """
    named, size = traffic.headers, batch.size
    # What no column and no header is named for is not looked for: most requests are a single row, which costs microseconds.
    return Envelopes(
        _texts(batch, traffic.unit, _unit_of_all(traffic, headers)),
        _event_ids(batch, traffic, headers, request_id),
        _times(batch, traffic, headers, received_at)
        if traffic.event_time or named.event_time
        else [received_at] * size,
        _cohorts(batch, traffic) if traffic.cohorts else [_NO_COHORTS] * size,
    )


def route(exposure: Exposure, envelopes: Envelopes, now: float, *, counted: bool) -> Route:
    """Decide every row's arm.

    Args:
        exposure: What is published and applied.
        envelopes: The rows.
        now: Unix seconds; the lease is held against it.
        counted: Whether events can be logged. When they cannot, nobody is exposed: unseen harm cannot be stopped.
    """
    units = envelopes.units
    live = exposure.live(now)
    if not counted or (not live and exposure.exposed):
        return Route((UNEXPOSED,) * len(units), None, 0)
    if not live:
        decided = [UNEXPOSED] * len(units)
    elif exposure.rings or exposure.contained:
        decided = [
            assign(exposure, unit, now, cohorts)
            for unit, cohorts in zip(units, envelopes.cohorts, strict=True)
        ]
    else:
        decided = arms(exposure.model, units, exposure.percent)
    return Route(tuple(decided), exposure.run_id, exposure.stage)


def secrets_in(batch: Batch, traffic: TrafficColumns, headers: Mapping[str, str]) -> set[str]:
    """Return how a message may spell what is private in a request."""
    return batch.secrets(traffic.secret) | spellings([_unit_of_all(traffic, headers) or None])


def _unit_of_all(traffic: TrafficColumns, headers: Mapping[str, str]) -> str:
    """Return the unit of every row that has none of its own, or an empty text."""
    name = traffic.headers.unit
    return headers.get(name, "") if name else ""


def _cohorts(batch: Batch, traffic: TrafficColumns) -> list[dict[str, str]]:
    columns = {
        name: list(map(_shown, column))
        for name in traffic.cohorts
        if name not in traffic.secret and (column := batch.column(name)) is not None
    }
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return rows or [_NO_COHORTS] * batch.size


def _texts(batch: Batch, name: str | None, otherwise: str) -> list[str]:
    """Return a column as text; something else where it has no value."""
    column = batch.column(name) if name else None
    if column is None:
        return [otherwise] * batch.size
    if _plain(column):
        return column
    return [_text(value, name, row) or otherwise for row, value in enumerate(column)]


def _plain(column: list[Any]) -> bool:
    """Return whether all of a column is text that every part of the product takes as it is; usually it is."""
    try:
        return all(column) and "".join(column).isascii()
    except TypeError:
        return False


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


def _event_ids(
    batch: Batch, traffic: TrafficColumns, headers: Mapping[str, str], request_id: str
) -> list[str]:
    """Return the name of every row's event; rows without one of their own are numbered from one name for all."""
    header = traffic.headers.event_id
    base = (headers.get(header) if header else None) or _unused(request_id, headers)
    ends = _ends(batch.size)
    if traffic.event_id is None:
        return [base + end for end in ends]
    names = _texts(batch, traffic.event_id, "")
    return [own or base + end for own, end in zip(names, ends, strict=True)]


@lru_cache(maxsize=4)
def _ends(size: int) -> list[str]:
    """Return what follows the common name in the name of each row's event; the first has it alone."""
    return ["", *[f"-{row}" for row in range(1, size)]][:size]


def _unused(request_id: str, headers: Mapping[str, str]) -> str:
    """Return a name that no other event has: the request's own, unless the client chose it and may choose it again."""
    return os.urandom(16).hex() if request_id == headers.get("x-request-id") else request_id


def _times(
    batch: Batch, traffic: TrafficColumns, headers: Mapping[str, str], received_at: float
) -> list[float]:
    name, header, otherwise = traffic.event_time, traffic.headers.event_time, received_at
    if header and (text := headers.get(header)):
        otherwise = _seconds(text, f"Header {header!r} must be a number of seconds since 1970.")
    column = batch.column(name) if name else None
    if column is None:
        return [otherwise] * batch.size
    return [
        otherwise
        if value is None
        else _seconds(value, f"Row {row}: column {name!r} must be a number of seconds since 1970, or null.")
        for row, value in enumerate(column)
    ]


def _seconds(value: Any, rule: str) -> float:
    """Return a time.

    Raises:
        MlflowException: It is none; the message is the rule.
    """
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise bad_request(rule)
    return seconds


def _shown(value: Any) -> str:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else str(value)
