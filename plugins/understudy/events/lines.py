"""The lines of the event log: what is written about a request, a mirrored row and an outcome, and how it is encoded.

A line is one request with all its rows, so that what is the same for each of them is written once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

__all__ = ["Line", "MirroredRow", "OutcomeLine", "RequestLine", "ServedRow", "encode"]


class ServedRow(msgspec.Struct, frozen=True, gc=False):
    """One row of a request, which is one event, and how it was answered.

    Attributes:
        event_id: Name of the event; its outcome comes under the same name.
        event_time: Unix second at which it happened.
        arm: ``"challenger"``, ``"control"`` or ``"unexposed"``.
        version: Version that answered.
        unit: Pseudonym of the randomised unit; nothing where the row has none.
        cohorts: Value of each cohort column, as text.
        prediction: The number that stands for the answer; nothing where there is none.
        latency_ms: Time to answer.
        cpu_ms: CPU time of the version that answered, divided over the rows of the call.
        fallback: Whether the champion answered in the challenger's place.
        error: Why it did, or what is wrong with the answer.
    """

    event_id: str
    event_time: float
    arm: str
    version: str
    unit: str | None
    cohorts: dict[str, str]
    prediction: float | None
    latency_ms: float
    cpu_ms: float | None
    fallback: bool = False
    error: str | None = None


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    """One request.

    Attributes:
        request_id: Its correlation id.
        trace_id: W3C trace id, 32 hex digits; nothing where the request belongs to no trace.
        received_at: Unix seconds.
        model: Registered model name.
        run: The run that was served; nothing when neither exposure nor mirror was on.
        stage: Its stage, 0 when nobody was exposed.
        generation: Generation of the exposure.
        rows: The rows.
        columns: Names of the logged features: no envelope, nothing private.
        features: One list of values per row, in the order of ``columns``; empty lists where rows have no names.
    """

    request_id: str
    trace_id: str | None
    received_at: float
    model: str
    run: str | None
    stage: int
    generation: int
    rows: list[ServedRow]
    columns: list[str]
    features: list[list[Any]]


class MirroredRow(msgspec.Struct, frozen=True, gc=False):
    """One row that the challenger rehearsed on; the fields mean what they mean in `RequestLine` and `ServedRow`."""

    event_id: str
    request_id: str
    trace_id: str | None
    received_at: float
    event_time: float
    model: str
    run: str | None
    version: str
    prediction: float | None
    error: str | None
    latency_ms: float
    cpu_ms: float | None


class OutcomeLine(msgspec.Struct, frozen=True, gc=False):
    """What came of an event.

    Attributes:
        event_id: Name of the event.
        outcome: The label; nothing where only named values are told.
        values: Named numbers, such as revenue.
        occurred_at: Unix second at which it happened.
        received_at: Unix second at which it was told.
    """

    event_id: str
    outcome: float | None
    values: dict[str, float] | None
    occurred_at: float
    received_at: float


Line = RequestLine | MirroredRow | OutcomeLine


def encode(line: Line) -> bytes:
    """Return a line as JSON with its newline.

    Numbers that are not finite become null, and half a surrogate pair, which is no text, becomes U+FFFD.
    """
    try:
        return _encoder.encode(line) + b"\n"
    except UnicodeEncodeError:
        return _encoder.encode(_readable(msgspec.to_builtins(line, enc_hook=_plain))) + b"\n"


def _readable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {_readable(key): _readable(part) for key, part in value.items()}
    return [_readable(part) for part in value] if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    """Return what JSON can carry in place of a value that it cannot: NumPy's and pandas' own kinds, mostly."""
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return value.tolist()
    return str(value)


_encoder = msgspec.json.Encoder(enc_hook=_plain)
