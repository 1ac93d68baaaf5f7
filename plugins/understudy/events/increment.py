"""What one look adds to the evidence: moments of the events that became countable since the look before.

An increment is written once and never changed. Packed, it is a few arrays behind a small header, compressed; unpacked,
it is the same numbers to the last bit.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.events.query import EvidenceQuery

__all__ = ["BUCKETS", "Increment", "pack", "unpack"]

BUCKETS = 256
"""Unit buckets: the first two hex digits of a pseudonym."""

Array = NDArray[np.float64]
Codes = NDArray[np.int32]

_HEAD = 4
_LEVEL = 1  # of compression: the rest of it costs ten times the time for a tenth of the space


@dataclass(frozen=True, eq=False)
class Increment:
    """Rows of moments and of units that were counted for the first time.

    A row of moments belongs to one stage, arm, hour of event time, unit bucket and combination of cohort values. The
    arrays of moments are (metric, row). Units are apart from events, because one unit has many events and several hours:
    a row of ``unit_*`` says how many units a metric counted for the first time in a stage, over everybody
    (``unit_column`` -1) or within one value of a cohort column, and what is known of their past.

    Attributes:
        tuples: combinations of cohort values, one value a cohort column; rows name them by position.
        stage: stage per row.
        arm: 0 control, 1 challenger, per row.
        hour: hours of event time since 1970, per row.
        bucket: unit bucket per row.
        cohort: position in ``tuples`` per row.
        n: events counted, by metric and row.
        mean: mean of the metric on the harm scale; 0 where n is 0.
        m2: sum of squared deviations from that mean.
        bad: events that should have counted, but whose value was not a finite number.
        d: sum of denominators, for ratios; 0 for others.
        unit_metric: position of the metric, per row of units.
        unit_column: position of the cohort column within which the unit is new, or -1.
        unit_stage: stage.
        unit_arm: arm.
        unit_bucket: bucket.
        unit_cohort: combination of cohort values of the unit's first event.
        unit_n: units.
        unit_xn: sum of numerators of their past.
        unit_xd: sum of denominators of their past.
        latency_arm: arm, per occupied bin of the latency histograms.
        latency_bin: bin.
        latency_n: answers in it; bin -1 counts those without a usable latency.
    """

    tuples: tuple[tuple[str, ...], ...]
    stage: Codes
    arm: Codes
    hour: Codes
    bucket: Codes
    cohort: Codes
    n: Array
    mean: Array
    m2: Array
    bad: Array
    d: Array
    unit_metric: Codes
    unit_column: Codes
    unit_stage: Codes
    unit_arm: Codes
    unit_bucket: Codes
    unit_cohort: Codes
    unit_n: Array
    unit_xn: Array
    unit_xd: Array
    latency_arm: Codes
    latency_bin: Codes
    latency_n: Array

    @classmethod
    def of(cls, metrics: int, **given: Any) -> Increment:
        """Build from some of the arrays; what is left out is empty."""
        found: dict[str, Any] = {"tuples": tuple(tuple(part) for part in given.pop("tuples", ()))}
        rows = len(given.get("stage", ()))
        for field in fields(cls)[1:]:
            shape = (metrics, rows) if field.name in _BY_METRIC else None
            kind = np.int32 if field.type == "Codes" else np.float64
            value = given.pop(field.name, None)
            found[field.name] = np.zeros(shape or 0, kind) if value is None else np.asarray(value, kind)
        if given:
            raise TypeError(f"unknown: {sorted(given)}")
        return cls(**found)

    @classmethod
    def from_columns(
        cls,
        columns: dict[str, NDArray[Any]],
        query: EvidenceQuery,
        tuples: tuple[tuple[str, ...], ...],
        **more: Any,
    ) -> Increment:
        """Build from the columns that the expression `moments` gives, with ``cohort`` naming one of ``tuples``."""
        plain = {name: np.ma.filled(column, 0) for name, column in columns.items()}
        keys = {name: plain[name] for name in ("stage", "arm", "hour", "bucket", "cohort")}
        shape = (len(query.metrics), len(keys["stage"]))
        rows = {name: np.zeros(shape) for name in _BY_METRIC}
        for name, index in itertools.product(_BY_METRIC, range(shape[0])):
            if f"{name}{index}" in plain:
                rows[name][index] = plain[f"{name}{index}"]
        return cls.of(len(query.metrics), tuples=tuples, **keys, **rows, **more)

    @property
    def rows(self) -> int:
        """Rows of moments and of units."""
        return int(self.stage.size + self.unit_n.size)

    def pack(self) -> bytes:
        """Return the increment as bytes."""
        return pack({"tuples": self.tuples}, [getattr(self, field.name) for field in fields(self)[1:]])

    @classmethod
    def unpack(cls, data: bytes) -> Increment:
        """Rebuild what `pack` returned.

        Raises:
            ValueError: it is not what `pack` returned.
        """
        head, arrays = unpack(data)
        names = [field.name for field in fields(cls)[1:]]
        tuples = tuple(tuple(part) for part in head["tuples"])
        return cls(tuples, **dict(zip(names, arrays, strict=True)))

    @classmethod
    def together(cls, increments: Sequence[Increment]) -> Increment:
        """Return increments one behind the other; adding the result is the same, to the last bit, as adding each."""
        tuples: dict[tuple[str, ...], int] = {}
        columns: dict[str, list[NDArray[Any]]] = {field.name: [] for field in fields(cls)[1:]}
        for increment in increments:
            codes = np.array(
                [tuples.setdefault(part, len(tuples)) for part in increment.tuples], dtype=np.int32
            )
            for name, parts in columns.items():
                array = getattr(increment, name)
                parts.append(codes[array] if name in ("cohort", "unit_cohort") else array)
        return cls(tuple(tuples), **{name: np.concatenate(parts, axis=-1) for name, parts in columns.items()})


_BY_METRIC = ("n", "mean", "m2", "bad", "d")


def pack(head: dict[str, Any], arrays: Sequence[NDArray[Any]]) -> bytes:
    """Return a small JSON header and arrays as compressed bytes."""
    plain = [np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for array in arrays]
    text = json.dumps(head | {"arrays": [(array.dtype.str, array.shape) for array in plain]}).encode()
    body = b"".join(array.tobytes() for array in plain)
    return zlib.compress(len(text).to_bytes(_HEAD, "little") + text + body, _LEVEL)


def unpack(data: bytes) -> tuple[dict[str, Any], list[NDArray[Any]]]:
    """Return the header and arrays that `pack` was given.

    Raises:
        ValueError: it is not what `pack` returned.
    """
    try:
        raw = zlib.decompress(data)
        at = _HEAD + int.from_bytes(raw[:_HEAD], "little")
        head = json.loads(raw[_HEAD:at])
        arrays: list[NDArray[Any]] = []
        for name, shape in head.pop("arrays"):
            kind, count = np.dtype(name), math.prod(shape)
            found = np.frombuffer(raw, kind, count, at).reshape(shape)
            arrays.append(found.astype(kind.newbyteorder("="), copy=False))
            at += count * kind.itemsize
    except (zlib.error, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"these are no moments: {error}") from error
    return head, arrays
