"""The lines of the event log: what is written about a request, a mirrored row and an outcome, and how it is encoded.

A line is one request with all its rows: what is the same for each of them is written once, what is not is a list with one item
per row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

__all__ = ["Line", "MirroredRow", "OutcomeLine", "RequestLine", "encode"]


class RequestLine(msgspec.Struct, frozen=True, gc=False):
    """One request; each of its rows is an event.

    Attributes:
        request_id: Its correlation id.
        trace_id: W3C trace id, 32 hex digits; nothing where the request belongs to no trace.
        received_at: Unix seconds.
        model: Registered model name.
        run: The run that was served; nothing when neither exposure nor mirror was on.
        stage: Its stage, 0 when nobody was exposed.
        generation: Generation of the exposure.
        event_id: Of each row, the name of the event; its outcome comes under the same name.
        event_time: Of each row, the Unix second at which it happened.
        arm: Of each row, ``"challenger"``, ``"control"`` or ``"unexposed"``.
        version: Of each row, the version that answered.
        unit: Of each row, the pseudonym of the randomised unit; nothing where the row has none.
        cohorts: Of each row, the value of each cohort column, as text.
        prediction: Of each row, the number that stands for the answer; nothing where there is none.
        latency_ms: Of each row, the time to answer.
        cpu_ms: Of each row, its share of the CPU time that the version which answered spent on the call.
        fallback: Of each row, whether the champion answered in the challenger's place.
        error: Of each row, why it did, or what is wrong with the answer.
        columns: Names of the logged features: no envelope, nothing private.
        features: Of each row, its values in the order of ``columns``; empty lists where rows have no names.
    """

    request_id: str
    trace_id: str | None
    received_at: float
    model: str
    run: str | None
    stage: int
    generation: int
    event_id: Sequence[str]
    event_time: Sequence[float]
    arm: Sequence[str]
    version: Sequence[str]
    unit: Sequence[str | None]
    cohorts: Sequence[dict[str, str]]
    prediction: Sequence[float | None]
    latency_ms: Sequence[float]
    cpu_ms: Sequence[float | None]
    fallback: Sequence[bool]
    error: Sequence[str | None]
    columns: Sequence[str]
    features: Sequence[Sequence[Any]]

    def events(self) -> Iterator[dict[str, Any]]:
        """Yield every row as the fields of its event, but for its features."""
        shared = {name: getattr(self, name) for name in _SHARED}
        for row in zip(*(getattr(self, name) for name in _BY_ROW), strict=False):
            yield shared | dict(zip(_BY_ROW, row, strict=True))


class MirroredRow(msgspec.Struct, frozen=True, gc=False):
    """One row that the challenger rehearsed on; the fields mean what they mean in `RequestLine`."""

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


_FIELDS = RequestLine.__struct_fields__
_SHARED = _FIELDS[: _FIELDS.index("event_id")]
_BY_ROW = _FIELDS[_FIELDS.index("event_id") : _FIELDS.index("columns")]

Line = RequestLine | MirroredRow | OutcomeLine


def encode(lines: Sequence[Line]) -> bytes:
    """Return lines as JSON, each with its newline.

    Numbers that are not finite become null, and half a surrogate pair, which is no text, becomes U+FFFD.
    """
    try:
        return _encoder.encode_lines(lines)
    except UnicodeEncodeError:
        return _encoder.encode_lines(
            [_readable(msgspec.to_builtins(line, enc_hook=_plain)) for line in lines]
        )


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
