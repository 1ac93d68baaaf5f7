"""A histogram on a logarithmic scale: small, mergeable, and within half a percent of any quantile.

Bins grow by one percent from 0.001 to 1e8, the same for everybody, so that histograms of hours, gateways and buckets
add up. Values at or below 0.001 share a first bin, values of 1e8 and more a last one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from understudy.stats.plain import plain
from understudy.stats.quantiles import Quantiles, rank_bounds

__all__ = ["BINS", "LogHistogram"]

Array = NDArray[np.float64]

_LOWEST, _HIGHEST, _GROWTH = 1e-3, 1e8, 1.01
_INNER = math.ceil(math.log(_HIGHEST / _LOWEST) / math.log(_GROWTH))
# Edges of the bins (edge i, edge i + 1]; the first reaches down to zero, the last has no end.
_EDGES = np.concatenate([[0.0], _LOWEST * _GROWTH ** np.arange(_INNER + 1), [np.inf]])
BINS = _INNER + 2


@dataclass(frozen=True, eq=False)
class LogHistogram:
    """Counts per bin.

    Attributes:
        counts: values per bin, shape [..., BINS].
        unusable: values left out, negative or not finite, shape [...].
    """

    counts: NDArray[np.int64]
    unusable: NDArray[np.int64]

    @classmethod
    def from_values(cls, values: ArrayLike) -> LogHistogram:
        """Count values [..., n].

        Raises:
            ValueError: no axis at all.
        """
        x = np.asarray(values, dtype=float)
        if x.ndim < 1:
            raise ValueError("values have no axis; pass an array")
        usable = np.isfinite(x) & (x >= 0)
        rows = math.prod(x.shape[:-1])
        code = np.clip(np.searchsorted(_EDGES, x, side="left") - 1, 0, BINS - 1)
        code = code + BINS * np.arange(rows).reshape(*x.shape[:-1], 1)
        counts = np.bincount(code[usable], minlength=rows * BINS).reshape(*x.shape[:-1], BINS)
        return cls(counts, (~usable).sum(axis=-1))

    def merge(self, other: LogHistogram) -> LogHistogram:
        """Return the histogram of the values of both; leading axes broadcast."""
        return LogHistogram(self.counts + other.counts, np.asarray(self.unusable + other.unusable))

    @property
    def n(self) -> NDArray[np.int64]:
        """Values counted, shape [...]."""
        return np.asarray(self.counts.sum(axis=-1))

    def quantile(self, q: float) -> Array:
        """Return a quantile, shape [...], within 0.5 % (above 0.001); NaN when empty or beyond 1e8.

        Raises:
            ValueError: q outside (0, 1).
        """
        if not 0 < q < 1:
            raise ValueError(f"q is {q!r}; it must lie between 0 and 1")
        n = self.n.astype(float)
        return np.where(n > 0, _middle(self._bin_of(np.clip(np.ceil(n * q), 1, None))), np.nan)

    def interval(self, q: float, alpha: float = 0.05, factor: ArrayLike = 1.0) -> Quantiles:
        """Return a quantile with its order-statistic interval, bounds rounded outwards to the bins' edges.

        See `understudy.stats.quantiles.quantiles` for arguments, rules and errors.
        """
        low, high, reason = rank_bounds(self.n, q, alpha, factor)
        first, last = self._bin_of(low), self._bin_of(high)
        reason = np.where((reason == "") & (last == BINS - 1), "beyond_the_last_bin", reason)
        # Bounds in one bin may be one and the same value: as undetermined as if they were.
        reason = np.where((reason == "") & (first == last), "bounds_coincide", reason)
        good = reason == ""
        lower = np.where(good, _EDGES[first], np.nan)
        upper = np.where(good, _EDGES[last + 1], np.nan)
        return Quantiles(
            q=q,
            estimate=self.quantile(q),
            lower=lower,
            upper=upper,
            se=(upper - lower) / (2 * -float(ndtri(alpha / 2))),
            n=self.n.astype(float),
            non_finite=np.asarray(self.unusable, dtype=float),
            alpha=alpha,
            determined=good,
            reason=reason,
        )

    def share_above(self, limit: float) -> Array:
        """Return the share of values above a limit, shape [...]; NaN when empty.

        Exact when the limit is an edge, else the limit's own bin counts as above: never too small.

        Raises:
            ValueError: limit negative or not a number.
        """
        if not limit >= 0:
            raise ValueError(f"limit is {limit!r}; it must not be negative")
        first = int(np.searchsorted(_EDGES, limit, side="right")) - 1
        n = self.n
        above = self.counts[..., first:].sum(axis=-1)
        return np.asarray(np.divide(above, n, out=np.full(n.shape, np.nan), where=n > 0))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary that names occupied bins only."""
        rows = self.counts.reshape(-1, BINS)
        per_row = [{str(i): int(row[i]) for i in np.flatnonzero(row)} for row in rows]
        return {"shape": list(self.counts.shape[:-1]), "bins": per_row, "unusable": plain(self.unusable)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LogHistogram:
        """Rebuild what `to_dict` returned."""
        counts = np.zeros((len(data["bins"]), BINS), dtype=np.int64)
        for row, occupied in zip(counts, data["bins"], strict=True):
            for index, count in occupied.items():
                row[int(index)] = count
        shape = tuple(data["shape"])
        unusable = np.asarray(data["unusable"], dtype=np.int64).reshape(shape)
        return cls(counts.reshape(*shape, BINS), unusable)

    def _bin_of(self, rank: Array) -> NDArray[np.int64]:
        reached = np.cumsum(self.counts, axis=-1) >= np.asarray(rank)[..., None]
        return np.where(reached.any(axis=-1), reached.argmax(axis=-1), BINS - 1)


def _middle(code: NDArray[np.int64]) -> Array:
    """Return the geometric middle of a bin; 0 for the first and NaN for the last."""
    inner = np.clip(code, 1, BINS - 2)
    middle = np.sqrt(_EDGES[inner] * _EDGES[inner + 1])
    return np.where(code == 0, 0.0, np.where(code == BINS - 1, np.nan, middle))
