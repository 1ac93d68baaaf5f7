"""Counting only what was already known: sums over past events, asked at many moments at once.

Everything a request may know about the past goes through :class:`PastEvents`. An event counts at a moment ``t``
only if it happened strictly before ``t``, so a feature built here cannot see the future by construction.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_TIME_BITS = (
    33  # epoch seconds fit until the year 2242; the group number sits above them in one sortable integer
)
_TIME_MASK = (1 << _TIME_BITS) - 1


class PastEvents:
    """Events of many groups, sorted once, summed over any past window by two binary searches.

    Args:
        groups: group number of each event (0, 1, 2, ...), shape (n,).
        times: epoch seconds at which the event became known, shape (n,).
        values: what is summed, shape (n,); must be finite.
    """

    def __init__(self, groups: Ints, times: Ints, values: Floats) -> None:
        keys = (groups.astype(np.int64) << _TIME_BITS) | times.astype(np.int64)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._sums = np.concatenate([[0.0], np.cumsum(values[order], dtype=np.float64)])

    def _before(self, groups: Ints, times: Ints) -> Ints:
        keys = (groups.astype(np.int64) << _TIME_BITS) | (times.astype(np.int64) & _TIME_MASK)
        return np.searchsorted(self._keys, keys, side="left").astype(np.int64)

    def within(self, groups: Ints, moments: Ints, seconds: int) -> tuple[Floats, Floats]:
        """Return count and sum of the events in ``[moment - seconds, moment)`` of each asked group."""
        return self._between(self._before(groups, moments - seconds), self._before(groups, moments))

    def latest(self, groups: Ints, moments: Ints, count: int) -> tuple[Floats, Floats]:
        """Return count and sum of the last ``count`` events strictly before each moment in the asked group."""
        first = self._before(groups, np.zeros_like(moments))
        end = self._before(groups, moments)
        return self._between(np.maximum(first, end - count), end)

    def _between(self, start: Ints, end: Ints) -> tuple[Floats, Floats]:
        return (end - start).astype(np.float64), self._sums[end] - self._sums[start]


def mean_or_null(count: Floats, total: Floats) -> Floats:
    """Return total / count, and NaN (never zero) where nothing was counted."""
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def shrunk_rate(count: Floats, total: Floats, prior: Floats, strength: float) -> Floats:
    """Return a rate pulled towards ``prior`` as if ``strength`` further events had shown exactly the prior."""
    return (total + strength * prior) / (count + strength)


def group_numbers(*columns: pd.Series) -> Ints:
    """Number the distinct combinations of the given columns, in sorted order, so that numbers are stable."""
    if len(columns) == 1:
        codes, _ = pd.factorize(columns[0], sort=True)
    else:
        codes, _ = pd.factorize(pd.MultiIndex.from_arrays(list(columns)), sort=True)
    return np.asarray(codes, dtype=np.int64)
