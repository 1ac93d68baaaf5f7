"""Quantiles of latencies and the like: intervals from order statistics, without a guess about the distribution.

Of n independent values the number below the p-quantile is Binomial(n, p), so the values at the ranks
``n p -+ z sqrt(n p (1-p))`` enclose it. Requests of one unit resemble each other; the variance of the rank is then
larger by the factor of Deng, Knoblich, Lu (KDD 2018), estimated at the quantile itself (`cluster_factor`), and the ranks
lie further apart. The standard error is the interval's width over 2z.

This is the reading at the end. While a run is watched, judge the share of requests slower than a fixed limit
(`LogHistogram.share_above`, or the metric ``latency_over``): a mean of zeros and ones, which merges.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from understudy.stats.plain import plain_fields
from understudy.stats.sequences import Sided, multiplier

__all__ = [
    "QuantileDifference",
    "Quantiles",
    "cluster_factor",
    "quantile_difference",
    "quantiles",
    "rank_bounds",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Quantiles:
    """One quantile with its interval, per entry of the leading axes; NaN where undetermined.

    Attributes:
        q: which quantile, 0 to 1.
        estimate: the value at rank ``ceil(n q)``.
        lower: lower bound.
        upper: upper bound; both together hold at ``alpha``.
        se: standard error, from the width.
        n: values counted.
        non_finite: values left out.
        alpha: budget of the interval.
        determined: False means "the data cannot say".
        reason: stable word for why; "" where determined.
    """

    q: float
    estimate: Array
    lower: Array
    upper: Array
    se: Array
    n: Array
    non_finite: Array
    alpha: float
    determined: NDArray[np.bool_]
    reason: NDArray[np.str_]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; undetermined numbers are null."""
        return plain_fields(self)


@dataclass(frozen=True, eq=False)
class QuantileDifference:
    """Challenger's quantile minus control's, per entry of the leading axes; NaN where undetermined.

    Attributes:
        estimate: the difference.
        se: its standard error.
        lower: lower bound (one-sided: holds alone at alpha).
        upper: upper bound (one-sided: holds alone at alpha).
        clock: values of both arms.
        alpha: budget of the interval.
        determined: False means "the data cannot say".
        reason: stable word for why; "" where determined.
    """

    estimate: Array
    se: Array
    lower: Array
    upper: Array
    clock: Array
    alpha: float
    determined: NDArray[np.bool_]
    reason: NDArray[np.str_]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; undetermined numbers are null."""
        return plain_fields(self)


def quantiles(values: ArrayLike, q: float, alpha: float = 0.05, factor: ArrayLike = 1.0) -> Quantiles:
    """Return a quantile of values [..., n] with its interval.

    Args:
        values: measurements; pad rows of different lengths with NaN. What is not a finite number is left out.
        q: which quantile.
        alpha: budget of the interval.
        factor: how much repeated units inflate the variance of a rank, see `cluster_factor`; below 1 counts as 1,
            NaN makes the result undetermined.

    Raises:
        ValueError: q or alpha outside (0, 1), or no axis at all.
    """
    x = np.asarray(values, dtype=float)
    if x.ndim < 1:
        raise ValueError("values have no axis; pass an array")
    finite = np.isfinite(x)
    n = finite.sum(axis=-1).astype(float)
    low, high, reason = rank_bounds(n, q, alpha, factor)
    ordered = np.sort(np.where(finite, x, np.inf), axis=-1)
    at = np.clip(np.ceil(n * q), 1, None)
    estimate = np.where(n > 0, _at_rank(ordered, at), np.nan)
    lower, upper = _at_rank(ordered, low), _at_rank(ordered, high)
    reason = np.where((reason == "") & (lower == upper), "bounds_coincide", reason)
    good = reason == ""
    with np.errstate(invalid="ignore", over="ignore"):
        width = np.where(good, upper - lower, np.nan)
    return Quantiles(
        q=q,
        estimate=estimate,
        lower=np.where(good, lower, np.nan),
        upper=np.where(good, upper, np.nan),
        se=width / (2 * _z(alpha, "two")),
        n=n,
        non_finite=x.shape[-1] - n,
        alpha=alpha,
        determined=good,
        reason=reason,
    )


def rank_bounds(
    n: ArrayLike, q: float, alpha: float, factor: ArrayLike = 1.0
) -> tuple[Array, Array, NDArray[np.str_]]:
    """Return (lower rank, upper rank, reason) of the interval of a quantile among n values, ranks from 1.

    Undetermined, with ranks 1, if ``n <= z^2 factor max(q/(1-q), (1-q)/q)`` or a rank would lie outside 1..n.

    Raises:
        ValueError: q or alpha outside (0, 1).
    """
    if not 0 < q < 1 or not 0 < alpha < 1:
        raise ValueError(f"q is {q!r} and alpha {alpha!r}; both must lie between 0 and 1")
    size = np.asarray(n, dtype=float)
    spread = np.maximum(np.asarray(factor, dtype=float), 1.0)  # NaN stays NaN
    with np.errstate(invalid="ignore", over="ignore"):
        half = _z(alpha, "two") * np.sqrt(size * q * (1 - q) * spread)
        low, high = np.floor(size * q - half), np.ceil(size * q + half) + 1
        inside = (low >= 1) & (high <= size)
    checks = [size < 2, ~np.isfinite(spread), ~inside]
    words = ["too_few_values", "no_cluster_factor", "too_few_values"]
    reason = np.asarray(np.select(np.broadcast_arrays(*checks), words, default=""))
    good = reason == ""
    return np.where(good, low, 1.0), np.where(good, high, 1.0), reason


def quantile_difference(
    control: Quantiles,
    challenger: Quantiles,
    alpha: float,
    sided: Sided = "two",
    n_star: float | None = None,
) -> QuantileDifference:
    """Return challenger minus control.

    Args:
        control: quantile of the control arm.
        challenger: the same quantile of the challenger.
        alpha: budget of the interval (one-sided: of each bound).
        sided: "one" or "two".
        n_star: None for one look at a planned end; otherwise the number of values of both arms at which a
            confidence sequence, which may be looked at all the time, is tightest.

    Raises:
        ValueError: different quantiles, or alpha outside (0, 1).
    """
    if control.q != challenger.q:
        raise ValueError(f"quantiles {control.q} and {challenger.q}: both arms need the same")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    clock = control.n + challenger.n
    times = np.asarray(_z(alpha, sided)) if n_star is None else multiplier(clock, alpha, n_star, sided)
    with np.errstate(invalid="ignore", over="ignore"):
        estimate = challenger.estimate - control.estimate
        se = np.hypot(control.se, challenger.se)
        half = se * times
    known = np.where(control.reason == "", challenger.reason, control.reason)
    lost = (known == "") & ~(np.isfinite(estimate) & np.isfinite(half))
    reason = np.where(lost, "no_standard_error", known)
    good = reason == ""
    return QuantileDifference(
        estimate=estimate,
        se=se,
        lower=np.where(good, estimate - half, np.nan),
        upper=np.where(good, estimate + half, np.nan),
        clock=clock,
        alpha=alpha,
        determined=good,
        reason=reason,
    )


def cluster_factor(values: ArrayLike, units: ArrayLike, q: float) -> float:
    """Return how much larger than Binomial the variance of "share at or below the quantile" is, at least 1.

    Args:
        values: measurements [n]; what is not a finite number is left out.
        units: unit of each.
        q: which quantile.

    Returns:
        The factor; NaN with fewer than two units or a share of 0 or 1, which nothing can be said about.

    Raises:
        ValueError: lengths differ, or q outside (0, 1).
    """
    x, u = np.asarray(values, dtype=float), np.asarray(units)
    if x.shape != u.shape or x.ndim != 1 or not 0 < q < 1:
        raise ValueError(f"shapes {x.shape} and {u.shape}, q {q!r}: one unit per value, q between 0 and 1")
    finite = np.isfinite(x)
    x, u = x[finite], u[finite]
    if not x.size:
        return math.nan
    ordered = np.sort(x)
    below = x <= ordered[max(math.ceil(x.size * q), 1) - 1]
    share = float(below.mean())
    _, code = np.unique(u, return_inverse=True)
    count = int(code.max()) + 1
    if count < 2 or share in (0.0, 1.0):
        return math.nan
    residual = np.bincount(code, below - share, count)
    robust = float((residual**2).sum()) * count / (count - 1)
    return max(float(robust / (x.size * share * (1 - share))), 1.0)


def _at_rank(ordered: Array, rank: Array) -> Array:
    if not ordered.shape[-1]:
        return np.full(ordered.shape[:-1], np.nan)
    index = np.clip(rank.astype(np.int64) - 1, 0, ordered.shape[-1] - 1)
    return np.take_along_axis(ordered, np.broadcast_to(index, ordered.shape[:-1])[..., None], axis=-1)[..., 0]


def _z(alpha: float, sided: Sided) -> float:
    return -float(ndtri(alpha if sided == "one" else alpha / 2))
