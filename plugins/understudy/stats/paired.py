"""Two models on the same labelled rows: the paired difference, with the unit as the cluster.

This is a fixed-sample, offline comparison: looked at once, so an ordinary Student-t interval applies.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from understudy.stats.ratio import ArmMoments
from understudy.stats.sequences import Interval, Sided, undetermined

__all__ = ["PairedDifference", "holm", "paired_by_cohort", "paired_difference"]


@dataclass(frozen=True)
class PairedDifference:
    """Mean of (challenger - champion) per row.

    Attributes:
        cohort: "all", or a cohort such as "origin=JFK".
        interval: bounds at ``interval.alpha``, already divided over the cohorts asked about.
        units: clusters behind it.
        rows: rows with a finite difference.
        non_finite: rows left out.
        p: p-value of no difference (one-sided: of "not worse"); None if undetermined.
        p_holm: the same after Holm over the cohorts; None where there is nothing to correct.
    """

    cohort: str
    interval: Interval
    units: int
    rows: int
    non_finite: int
    p: float | None
    p_holm: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def paired_difference(
    champion: ArrayLike,
    challenger: ArrayLike,
    units: ArrayLike,
    alpha: float,
    sided: Sided = "two",
    cohort: str = "all",
) -> PairedDifference:
    """Compare two models' losses on the same rows (harm scale: positive means the challenger is worse).

    Args:
        champion: loss per row.
        challenger: loss per row.
        units: cluster of each row.
        alpha: error budget; one-sided, each of both bounds alone holds at alpha.
        sided: "one" or "two".
        cohort: name for the result.

    Raises:
        ValueError: lengths differ, or alpha is outside (0, 1).
    """
    a, b, u = np.asarray(champion, float), np.asarray(challenger, float), np.asarray(units)
    if not a.shape == b.shape == u.shape or a.ndim != 1:
        raise ValueError(f"shapes {a.shape}, {b.shape}, {u.shape}: losses and units need one value per row")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    with np.errstate(invalid="ignore"):
        difference = b - a
    good = np.isfinite(difference)
    _, codes = np.unique(u[good], return_inverse=True)
    size = int(codes.max()) + 1 if codes.size else 0
    numerator = np.bincount(codes, difference[good], size)[:, None]
    moments = ArmMoments.from_units(numerator, np.bincount(codes, minlength=size)[:, None])
    interval, p = _interval(moments, alpha, sided)
    return PairedDifference(cohort, interval, int(moments.total), int(good.sum()), int((~good).sum()), p)


def paired_by_cohort(
    champion: ArrayLike,
    challenger: ArrayLike,
    units: ArrayLike,
    cohorts: Mapping[str, ArrayLike],
    alpha: float,
    sided: Sided = "two",
) -> dict[str, PairedDifference]:
    """Compare overall and in every cohort.

    "all" holds at alpha; each "name=value" at alpha over the number of cohorts (Bonferroni), because the intervals must
    hold together. Holm for the p-values, which is never weaker.
    """
    a, b, u = np.asarray(champion, float), np.asarray(challenger, float), np.asarray(units)
    masks = {
        f"{name}={value}": text == value
        for name, column in sorted(cohorts.items())
        for text in (np.asarray(column).astype(str),)
        for value in sorted(set(text.tolist()))
    }
    found = {"all": paired_difference(a, b, u, alpha, sided)}
    cells = {
        key: paired_difference(a[mask], b[mask], u[mask], alpha / len(masks), sided, key)
        for key, mask in masks.items()
    }
    adjusted = holm({key: cell.p for key, cell in cells.items()})
    return found | {key: _with_holm(cell, adjusted[key]) for key, cell in cells.items()}


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Return Holm-adjusted p-values (Holm 1979, Scand. J. Stat. 6:65); an undetermined one counts and stays None."""
    order = sorted((p, key) for key, p in p_values.items() if p is not None)
    adjusted: dict[str, float | None] = dict.fromkeys(p_values)
    running = 0.0
    for rank, (p, key) in enumerate(order):
        running = max(running, min(1.0, p * (len(p_values) - rank)))
        adjusted[key] = running
    return adjusted


def _interval(moments: ArmMoments, alpha: float, sided: Sided) -> tuple[Interval, float | None]:
    n, rows = float(moments.total), float(moments.sum_d.sum())
    if n < 2:
        return undetermined("too_few_units", rows, alpha), None
    estimate = float(moments.ratio[0])
    se = float(np.sqrt(n / (n - 1) * moments.rr[0, 0]) / rows)
    if se == 0:
        return undetermined("zero_variance", rows, alpha, estimate, se), None
    df = rows**2 / float(moments.dd[0, 0]) - 1
    tail = alpha if sided == "one" else alpha / 2
    half = -float(stdtrit(df, tail)) * se
    if not np.isfinite(half):
        return undetermined("too_few_units", rows, alpha, estimate, se), None
    upper_tail = float(stdtr(df, -estimate / se))
    p = upper_tail if sided == "one" else 2 * min(upper_tail, 1 - upper_tail)
    return Interval(estimate, se, estimate - half, estimate + half, int(rows), alpha, True), p


def _with_holm(cell: PairedDifference, p_holm: float | None) -> PairedDifference:
    return PairedDifference(
        cell.cohort, cell.interval, cell.units, cell.rows, cell.non_finite, cell.p, p_holm
    )
