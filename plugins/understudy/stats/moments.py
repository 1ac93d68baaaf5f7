"""Count, means and co-moments that merge: what a look keeps of rows that nobody reads twice.

Source: Chan, Golub, LeVeque (1983), The American Statistician 37:242. With ``n = n1 + n2`` and ``d = m2 - m1``
the mean of both is ``m1 + d n2 / n`` and the co-moments are ``M1 + M2 + d d' n1 n2 / n``. Never a sum of
squares: at an offset of 1e9 that route loses the variance altogether. The mean is kept as a number and its
rounding remainder, so that merging in another order gives the same numbers even at such an offset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.stats.plain import plain_fields

__all__ = ["Moments"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Moments:
    """Moments of k columns over rows, usually one row per unit.

    Attributes:
        columns: names of the k columns.
        n: rows counted, shape [...].
        mean: their means, rounded to double precision, shape [..., k]; 0 where n is 0.
        remainder: what rounding took from the mean, shape [..., k]; ``mean + remainder`` is the mean.
        m2: co-moments, sums of products of deviations from the mean, shape [..., k, k].
        non_finite: rows left out because one of their values was not a finite number, shape [...].
    """

    columns: tuple[str, ...]
    n: Array
    mean: Array
    remainder: Array
    m2: Array
    non_finite: Array

    @classmethod
    def empty(cls, columns: Sequence[str], shape: tuple[int, ...] = ()) -> Moments:
        """Return moments of nothing; merging them changes nothing."""
        k = len(columns)
        return cls(
            columns=tuple(columns),
            n=np.zeros(shape),
            mean=np.zeros((*shape, k)),
            remainder=np.zeros((*shape, k)),
            m2=np.zeros((*shape, k, k)),
            non_finite=np.zeros(shape),
        )

    @classmethod
    def from_rows(cls, rows: ArrayLike, columns: Sequence[str], present: ArrayLike | None = None) -> Moments:
        """Count rows.

        Args:
            rows: values, shape [..., row, k].
            columns: names of the last axis.
            present: which rows there are, shape [..., row]; all of them when left out. For arms of different sizes in one array.

        Raises:
            ValueError: the last axis does not match the columns.
        """
        x = np.asarray(rows, dtype=float)
        if x.ndim < 2 or x.shape[-1] != len(columns):
            raise ValueError(f"rows have shape {x.shape}; they must be (..., rows, {len(columns)})")
        there = np.ones(x.shape[:-1], bool) if present is None else np.asarray(present, dtype=bool)
        finite = np.isfinite(x).all(axis=-1)
        good = (there & finite)[..., None]
        n = good.sum(axis=-2).astype(float)
        size = np.maximum(n, 1.0)[..., None, :]
        with np.errstate(over="ignore", invalid="ignore"):
            anchor = (np.where(good, x, 0.0) / size).sum(axis=-2)
            from_anchor = np.where(good, x - anchor[..., None, :], 0.0)
            offset = from_anchor.sum(axis=-2) / size[..., 0, :]
            r = np.where(good, from_anchor - offset[..., None, :], 0.0)
            left = r.sum(axis=-2)
            m2 = np.swapaxes(r, -1, -2) @ r - _outer(left) / size
            mean, remainder = _two_sum(anchor, offset)
        lost = (there & ~finite).sum(axis=-1).astype(float)
        return cls(tuple(columns), n[..., 0], mean, remainder, m2, lost)

    @classmethod
    def from_aggregates(
        cls,
        columns: Sequence[str],
        n: ArrayLike,
        mean: ArrayLike,
        m2: ArrayLike,
        non_finite: ArrayLike = 0,
    ) -> Moments:
        """Take what an engine aggregated: count, averages [..., k] and co-moments ``(n - 1) cov`` [..., k, k].

        Engines give NULL (NaN) for the average of nothing and the variance of one row; both become 0.

        Raises:
            ValueError: shapes do not fit, or a count is negative or not a number.
        """
        count, average, second = (np.asarray(v, dtype=float) for v in (n, mean, m2))
        k = len(columns)
        if average.shape != (*count.shape, k) or second.shape != (*count.shape, k, k):
            raise ValueError(
                f"n {count.shape}, mean {average.shape}, m2 {second.shape} do not fit {k} columns"
            )
        if not (np.isfinite(count) & (count >= 0)).all():
            raise ValueError("a count is negative or not a number")
        average = np.where(count[..., None] > 0, average, 0.0)
        second = np.where(count[..., None, None] > 1, second, 0.0)
        lost = np.broadcast_to(np.asarray(non_finite, dtype=float), count.shape)
        return cls(tuple(columns), count, average, np.zeros_like(average), second, lost)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of the rows of both; leading axes broadcast.

        Raises:
            ValueError: the columns differ.
        """
        if self.columns != other.columns:
            raise ValueError(f"columns {self.columns} and {other.columns}: both parts need the same")
        shape = np.broadcast_shapes(self.n.shape, other.n.shape)
        return _stacked([self._spread(shape), other._spread(shape)]).merged(axis=0)

    def merged(self, axis: int = 0) -> Moments:
        """Return the moments of all parts along one of the leading axes, in one pass.

        Raises:
            ValueError: there is no such leading axis.
        """
        if not -self.n.ndim <= axis < self.n.ndim:
            raise ValueError(f"axis is {axis}; there are {self.n.ndim} leading axes")
        axis %= self.n.ndim
        if self.n.shape[axis] == 0:
            return Moments.empty(self.columns, self.n.shape[:axis] + self.n.shape[axis + 1 :])
        n = self.n.sum(axis=axis, keepdims=True)
        seen = self.n[..., None] > 0
        # Distances are taken from the largest part's mean: exact when the parts lie close together.
        largest = np.argmax(self.n, axis=axis, keepdims=True)[..., None]
        anchor = np.take_along_axis(self.mean, largest, axis=axis)
        with np.errstate(over="ignore", invalid="ignore"):
            distance = np.where(seen, (self.mean - anchor) + self.remainder, 0.0)
            share = self.n / np.maximum(n, 1.0)
            offset = (share[..., None] * distance).sum(axis=axis, keepdims=True)
            r = np.where(seen, distance - offset, 0.0)
            m2 = (self.m2 + _outer(r) * self.n[..., None, None]).sum(axis=axis)
            mean, remainder = _two_sum(anchor, offset)
        return Moments(
            columns=self.columns,
            n=n.squeeze(axis),
            mean=mean.squeeze(axis),
            remainder=remainder.squeeze(axis),
            m2=m2,
            non_finite=self.non_finite.sum(axis=axis),
        )

    @property
    def covariance(self) -> Array:
        """Sample covariances ``m2 / (n - 1)``, shape [..., k, k]; NaN below two rows."""
        n = self.n[..., None, None]
        return np.where(n >= 2, self.m2 / np.maximum(n - 1, 1.0), np.nan)

    @property
    def variance(self) -> Array:
        """Sample variances, shape [..., k]; NaN below two rows."""
        return np.diagonal(self.covariance, axis1=-2, axis2=-1)

    def row(self, index: int | tuple[int, ...]) -> Moments:
        """Return one entry of the leading axes."""
        return Moments(self.columns, *(np.asarray(getattr(self, name)[index]) for name in _ARRAYS))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return plain_fields(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Moments:
        """Rebuild what `to_dict` returned."""
        columns = tuple(data["columns"])
        shape, k = np.asarray(data["n"], dtype=float).shape, len(columns)
        tails: dict[str, tuple[int, ...]] = {"mean": (k,), "remainder": (k,), "m2": (k, k)}
        read = (np.array(data[name], dtype=float).reshape((*shape, *tails.get(name, ()))) for name in _ARRAYS)
        return cls(columns, *read)

    def _spread(self, shape: tuple[int, ...]) -> Moments:
        depth = self.n.ndim
        spread = (np.broadcast_to(a, shape + a.shape[depth:]) for a in (getattr(self, n) for n in _ARRAYS))
        return Moments(self.columns, *spread)


_ARRAYS = ("n", "mean", "remainder", "m2", "non_finite")


def _stacked(parts: Sequence[Moments]) -> Moments:
    return Moments(parts[0].columns, *(np.stack([getattr(part, name) for part in parts]) for name in _ARRAYS))


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Return the rounded sum and exactly what the rounding took (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    part = total - a
    remainder = (a - (total - part)) + (b - part)
    return total, np.where(np.isfinite(remainder), remainder, 0.0)


def _outer(vector: Array) -> Array:
    return vector[..., :, None] * vector[..., None, :]
