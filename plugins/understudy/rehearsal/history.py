"""What is known of the champion before anybody is exposed: who comes, how often, and what each answer cost.

A history is a list of entries: one unit, one moment, one combination of cohorts, and for every metric what it added to
numerator and denominator. Simulated traffic is drawn from it unit by unit, whole paths at a time, so that heavy tails,
repeated units, likeness within a unit and cohorts stay as they were.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.stats.losses import INDICATOR_KINDS

__all__ = ["History"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_DIGITS = 9


@dataclass(frozen=True, eq=False)
class History:
    """The champion's own past, entry by entry in the order of time.

    Attributes:
        model: registered model name.
        metrics: names of the metrics, in the order of the first axis of the sums.
        kinds: their kinds.
        delayed: per metric, whether it waits for the outcome.
        cohorts: the cohorts judged one by one, like ``"origin=JFK"``.
        member: (combination, cohort), 1 where the combination belongs to the cohort.
        unit: (entry,) number of the unit, from 0.
        at: (entry,) seconds since the history began.
        combination: (entry,) which combination of cohorts.
        numerator: (metric, entry) what the entry adds, on the harm scale.
        denominator: (metric, entry) its events (or other weight); 0 where the metric does not count it.
        delay: (entry,) seconds of wall clock until the outcome counts.
        span: seconds that the history covers; it repeats after that.
        scale: how many units of the traffic each unit of the history stands for.
        sources: where each metric's numbers come from, in words; ``"traffic"`` says the same of the arrivals.
    """

    model: str
    metrics: tuple[str, ...]
    kinds: tuple[str, ...]
    delayed: tuple[bool, ...]
    cohorts: tuple[str, ...]
    member: Floats
    unit: Ints
    at: Floats
    combination: Ints
    numerator: Floats
    denominator: Floats
    delay: Floats
    span: float
    scale: float = 1.0
    sources: Mapping[str, str] = field(default_factory=dict)

    @property
    def units(self) -> int:
        """Number of units in the history."""
        return int(self.unit.max()) + 1 if self.unit.size else 0

    @property
    def events_per_second(self) -> float:
        """Arrivals of the whole traffic, per second of wall clock."""
        return len(self.at) * self.scale / self.span

    def indicator(self, metric: int) -> bool:
        """Tell whether each event of a metric is 0 or 1."""
        return self.kinds[metric] in INDICATOR_KINDS

    def rate(self, metric: int) -> float:
        """Return the champion's own value of a metric; NaN if it never counted."""
        total = self.denominator[metric].sum()
        return float(self.numerator[metric].sum() / total) if total > 0 else float("nan")

    @cached_property
    def starts(self) -> Ints:
        """Where each unit's entries begin in `path`, with the end behind the last."""
        return np.concatenate([[0], np.bincount(self.unit, minlength=self.units).cumsum()]).astype(np.int64)

    @cached_property
    def path(self) -> Ints:
        """Entries sorted by unit and then by time."""
        return np.argsort(self.unit, kind="stable").astype(np.int64)

    @cached_property
    def persistence(self) -> float:
        """How much of a unit's peculiarity lasts, from 0 to 1.

        The correlation between both halves of the history of what units cost beyond the average, stepped up to the whole
        history (Spearman, Brown 1910); the largest over the metrics, because taking units for more alike than they are
        only makes the rehearsal more careful.
        """
        late = self.at >= self.span / 2
        found = [0.0]
        for metric in range(len(self.metrics)):
            rate = self.rate(metric)
            if not np.isfinite(rate):
                continue
            residual = self.numerator[metric] - rate * self.denominator[metric]
            halves = [
                np.bincount(self.unit[half], residual[half], self.units)
                for half in (np.flatnonzero(~late), np.flatnonzero(late))
            ]
            norm = float(np.sqrt((halves[0] ** 2).sum() * (halves[1] ** 2).sum()))
            found.append(float((halves[0] * halves[1]).sum()) / norm if norm > 0 else 0.0)
        half_length = min(1.0, max(found))
        return 2 * half_length / (1 + half_length)

    @cached_property
    def peers(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Units in an order that puts alike ones side by side: (order, place of a unit, first, last of its group).

        Alike means the same most frequent combination of cohorts, and then about as many entries.
        """
        size = self.member.shape[0]
        counts = np.bincount(self.unit * size + self.combination, minlength=self.units * size)
        main = counts.reshape(self.units, size).argmax(axis=1)
        order = np.lexsort((np.diff(self.starts), main)).astype(np.int64)
        place = np.empty_like(order)
        place[order] = np.arange(self.units)
        first = np.searchsorted(main[order], main, side="left").astype(np.int64)
        last = np.searchsorted(main[order], main, side="right").astype(np.int64) - 1
        return order, place, first, last

    def with_values(self, **changes: Any) -> History:
        """Return the history with other arrays."""
        return replace(self, **changes)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, numbers rounded to nine significant digits."""
        digest = hashlib.sha256()
        named = [self.model, self.metrics, self.kinds, self.delayed, self.cohorts, dict(self.sources)]
        digest.update(json.dumps([*named, f"{self.span:.9g}", f"{self.scale:.9g}"], sort_keys=True).encode())
        for name in _ARRAYS:
            digest.update(name.encode() + _rounded(getattr(self, name)).tobytes())
        return digest.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe summary; the entries themselves are in `arrays`."""
        label = [index for index, waits in enumerate(self.delayed) if waits]
        counted = (self.denominator[label] > 0).any(axis=0) if label else np.zeros(0, dtype=bool)
        waits = self.delay[counted] if label else np.zeros(0)
        return {
            "model": self.model,
            "units": self.units,
            "events": len(self.at),
            "stands_for": self.scale,
            "seconds": self.span,
            "events_per_second": self.events_per_second,
            "units_per_second": self.units * self.scale / self.span,
            "events_per_unit": len(self.at) / max(self.units, 1),
            "label_delay_seconds": float(np.median(waits)) if waits.size else None,
            "label_missing_share": float(1 - counted.mean()) if counted.size else None,
            "persistence": self.persistence,
            "metrics": {name: self._summary(index) for index, name in enumerate(self.metrics)},
            "cohorts": list(self.cohorts),
            "sources": dict(self.sources),
            "digest": self.digest,
        }

    def _summary(self, metric: int) -> dict[str, Any]:
        rate, weight = self.rate(metric), self.denominator[metric]
        counted = weight > 0
        known = bool(counted.any())
        residual = (self.numerator[metric] - rate * weight)[counted]
        return {
            "kind": self.kinds[metric],
            "value": rate if known else None,
            "spread": float(np.sqrt((residual**2).mean())) if known else None,
            "events": float(weight.sum()),
            "source": self.sources.get(self.metrics[metric]),
        }

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return everything as arrays, for `numpy.savez`; `from_arrays` reads them back."""
        named = {
            "model": self.model,
            "metrics": self.metrics,
            "kinds": self.kinds,
            "delayed": self.delayed,
            "cohorts": self.cohorts,
            "span": self.span,
            "scale": self.scale,
            "sources": dict(self.sources),
        }
        return {"facts": np.array(json.dumps(named))} | {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> History:
        """Rebuild what `arrays` returned.

        Raises:
            KeyError: something is missing.
            ValueError: something is of another shape or kind.
        """
        facts = json.loads(str(arrays["facts"]))
        listed = {name: tuple(facts[name]) for name in ("metrics", "kinds", "delayed", "cohorts")}
        content = {name: np.asarray(arrays[name]) for name in _ARRAYS}
        entries = {content[name].shape[-1] for name in _ARRAYS if name != "member"}
        if len(entries) != 1:
            raise ValueError(f"arrays of {sorted(entries)} entries; they must be equally long")
        return cls(**{**facts, **listed, **content})


_ARRAYS = ("member", "unit", "at", "combination", "numerator", "denominator", "delay")


def _rounded(values: NDArray[Any]) -> NDArray[Any]:
    """Round to so many significant digits that the last bits, which depend on the machine, do not count."""
    if values.dtype.kind != "f":
        return np.ascontiguousarray(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = np.where((values == 0) | ~np.isfinite(values), 0.0, np.floor(np.log10(np.abs(values))))
        step = 10.0 ** (size - _DIGITS + 1)
        return np.ascontiguousarray(np.where(np.isfinite(values), np.round(values / step), values)) + 0.0
