"""Intervals for proportions and for the gap between two groups' proportions, looked at once.

Wilson 1927, JASA 22:209: the bounds are the roots p of ``(x / n - p)^2 = z^2 p (1 - p) / n``. Newcombe 1998, Stat. Med.
17:873, method 10 (hybrid score): with Wilson bounds (l_i, u_i) of each group the difference ``d = p1 - p2`` lies in

    ``d - sqrt((p1 - l1)^2 + (u2 - p2)^2)`` to ``d + sqrt((u1 - p1)^2 + (p2 - l2)^2)``.

All behave at 0 and at n, where the usual interval collapses. For looks that repeat take `understudy.stats.sequences`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincinv, ndtri

__all__ = [
    "GroupGaps",
    "Proportion",
    "ProportionDifference",
    "clopper_pearson",
    "group_gaps",
    "newcombe",
    "newcombe_bounds",
    "wilson",
    "wilson_bounds",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Proportion:
    """A share with its interval; estimate and bounds are None with a reason."""

    estimate: float | None
    lower: float | None
    upper: float | None
    n: float
    alpha: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class ProportionDifference:
    """Share of the first group minus share of the second; estimate and bounds are None with a reason."""

    first: str
    second: str
    estimate: float | None
    lower: float | None
    upper: float | None
    alpha: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class GroupGaps:
    """How far the groups of one column lie apart.

    Attributes:
        gap: largest share minus smallest share; None if undetermined.
        lower: the gap is at least this; with `upper` at level alpha.
        upper: the gap is at most this.
        shares: every group's own share, each with an interval at alpha.
        pairs: every pair's difference at alpha over the number of pairs (they hold together).
        alpha: error budget of all pairs.
        reason: why it is undetermined; None otherwise.
    """

    gap: float | None
    lower: float | None
    upper: float | None
    shares: dict[str, Proportion]
    pairs: tuple[ProportionDifference, ...]
    alpha: float
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def wilson_bounds(successes: ArrayLike, n: ArrayLike, alpha: float) -> tuple[Array, Array]:
    """Vectorised Wilson bounds (lower, upper), within [0, 1]; NaN where the counts cannot be used.

    Args:
        successes: 0 to n per cell.
        n: trials per cell.
        alpha: error budget of each interval.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    x, size = np.broadcast_arrays(np.asarray(successes, dtype=float), np.asarray(n, dtype=float))
    z = -float(ndtri(alpha / 2))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        good = np.isfinite(x) & np.isfinite(size) & (size > 0) & (x >= 0) & (x <= size)
        p, shrink = x / size, z * z / size
        centre = (p + shrink / 2) / (1 + shrink)
        half = z * np.sqrt(p * (1 - p) / size + shrink / (4 * size)) / (1 + shrink)
        # At the ends the root is exactly 0 or 1; rounding must not put it outside or just beside.
        lower = np.where(x == 0, 0.0, np.clip(centre - half, 0, p))
        upper = np.where(x == size, 1.0, np.clip(centre + half, p, 1))
    return np.where(good, lower, np.nan), np.where(good, upper, np.nan)


def newcombe_bounds(
    first: ArrayLike, n_first: ArrayLike, second: ArrayLike, n_second: ArrayLike, alpha: float
) -> tuple[Array, Array]:
    """Vectorised bounds of ``first / n_first - second / n_second``; NaN where the counts cannot be used.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    (l1, u1), (l2, u2) = wilson_bounds(first, n_first, alpha), wilson_bounds(second, n_second, alpha)
    with np.errstate(divide="ignore", invalid="ignore"):
        p1 = np.asarray(first, dtype=float) / np.asarray(n_first, dtype=float)
        p2 = np.asarray(second, dtype=float) / np.asarray(n_second, dtype=float)
        gap = p1 - p2
        return gap - np.hypot(p1 - l1, u2 - p2), gap + np.hypot(u1 - p1, p2 - l2)


def wilson(successes: float, n: float, alpha: float = 0.05) -> Proportion:
    """Return the share with its Wilson interval; undetermined without trials or with impossible counts.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    lower, upper = wilson_bounds(successes, n, alpha)
    if not np.isfinite(lower):
        size = float(n) if np.isfinite(n) else 0.0
        return Proportion(None, None, None, size, alpha, _reason(n))
    return Proportion(float(successes) / float(n), float(lower), float(upper), float(n), alpha)


def clopper_pearson(successes: int, n: int, alpha: float = 0.05) -> Proportion:
    """Return the share with its exact interval (Clopper and Pearson 1934), which covers at least 1 - alpha.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    if not _possible(successes, n):
        return Proportion(None, None, None, float(n) if np.isfinite(n) else 0.0, alpha, _reason(n))
    x = float(successes)
    lower = float(betaincinv(x, n - x + 1, alpha / 2)) if x else 0.0
    upper = float(betaincinv(x + 1, n - x, 1 - alpha / 2)) if x < n else 1.0
    return Proportion(x / n, lower, upper, float(n), alpha)


def newcombe(
    first: float,
    n_first: float,
    second: float,
    n_second: float,
    alpha: float = 0.05,
    names: tuple[str, str] = ("first", "second"),
) -> ProportionDifference:
    """Return the difference of two independent shares with Newcombe's hybrid score interval.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    lower, upper = newcombe_bounds(first, n_first, second, n_second, alpha)
    if not (np.isfinite(lower) and np.isfinite(upper)):
        reasons = [_reason(n) for x, n in ((first, n_first), (second, n_second)) if not _possible(x, n)] or [
            "bad_counts"
        ]
        return ProportionDifference(*names, None, None, None, alpha, reasons[0])
    gap = float(first) / float(n_first) - float(second) / float(n_second)
    return ProportionDifference(*names, gap, float(lower), float(upper), alpha)


def group_gaps(successes: ArrayLike, n: ArrayLike, groups: Sequence[str], alpha: float = 0.05) -> GroupGaps:
    """Return the gap between the highest and the lowest share with bounds that hold for all pairs together.

    Every pair gets ``alpha / pairs`` (Bonferroni), so the gap, whichever pair it belongs to, lies between the
    largest lower and the largest upper bound of all ordered pairs with probability at least 1 - alpha.

    Args:
        successes: per group.
        n: trials per group.
        groups: names, each once.
        alpha: error budget of all pairs.

    Raises:
        ValueError: lengths differ, a name repeats, or alpha is outside (0, 1).
    """
    x, size, names = np.ravel(np.asarray(successes, float)), np.ravel(np.asarray(n, float)), tuple(groups)
    if not x.size == size.size == len(names) or len(set(names)) != len(names):
        raise ValueError(f"{x.size} counts, {size.size} sizes and groups {names}: one each, every name once")
    shares = {name: wilson(a, b, alpha) for name, a, b in zip(names, x, size, strict=True)}
    indices = list(combinations(range(len(names)), 2))
    pairs = tuple(
        newcombe(x[i], size[i], x[j], size[j], alpha / len(indices), (names[i], names[j])) for i, j in indices
    )
    if len(names) < 2:
        return GroupGaps(None, None, None, shares, pairs, alpha, "fewer_than_two_groups")
    bounds = [(pair.lower, pair.upper) for pair in pairs if pair.lower is not None and pair.upper is not None]
    if len(bounds) < len(pairs):
        reason = next(share.reason for share in shares.values() if share.reason)
        return GroupGaps(None, None, None, shares, pairs, alpha, reason)
    rates = x / size
    lower = max(max(low, -high, 0.0) for low, high in bounds)
    upper = max(max(high, -low) for low, high in bounds)
    return GroupGaps(float(np.ptp(rates)), lower, upper, shares, pairs, alpha)


def _possible(x: float, n: float) -> bool:
    return bool(np.isfinite(x) and np.isfinite(n) and n > 0 and 0 <= x <= n)


def _reason(n: float) -> str:
    return "no_trials" if n == 0 else "bad_counts"
