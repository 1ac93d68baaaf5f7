"""Bounds on the level of one arm, and on harm that is made of several levels: bias and gaps between groups.

Most metrics are judged by the difference of the arms. Two are not: calibration asks how far each arm's mean of
(prediction - outcome) lies from zero, and a fairness gap asks how far groups lie apart within each arm. Both are put
together from sequences of single levels by interval arithmetic, which holds under any dependence between them.

Every bound here is one-sided and anytime-valid at the level that it is given (Waudby-Smith et al. 2024, arXiv
2103.06476). How alpha is shared among the levels is written at each function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.stats.cells import Cells, interval_table
from understudy.stats.losses import INDICATOR_KINDS
from understudy.stats.ratio import ArmMoments, difference_arrays, pooled_spread, shared_events
from understudy.stats.sequences import multiplier

__all__ = ["ArmLevels", "Harm", "arm_levels", "bias_harm", "gap_harm"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ArmLevels:
    """Level of one arm for every row of a table; every array is (..., row), NaN where undetermined.

    Attributes:
        level: ratio of sums, stages weighted by counts as in the difference of the arms.
        lower: lower bound.
        upper: upper bound.
        clock: events of the arm.
        determined: False means "the data cannot say".
    """

    level: Array
    lower: Array
    upper: Array
    clock: Array
    determined: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Harm:
    """Bounds on a harm, each valid at the alpha it was asked for; NaN where undetermined."""

    estimate: Array
    lower: Array
    upper: Array
    clock: Array
    determined: NDArray[np.bool_]


def arm_levels(cells: Cells, alpha: float, n_star: float) -> tuple[ArmLevels, ArmLevels]:
    """Return the levels of control and challenger.

    The squared standard error is the larger of the arm's own and of what both arms' spread would give it, as in the
    difference. The rate of an arm in which the event has never happened lies between 0 and ``1 - (alpha/2)^(1/n)``.

    Args:
        cells: The moments.
        alpha: Error budget of each single bound, below 0.5.
        n_star: Events of both arms at which the bounds should be tightest.
    """
    _, _, _, _, weights, _ = difference_arrays(cells.control, cells.challenger)
    arms = (cells.control, cells.challenger)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shared = pooled_spread(arms, weights)
        found = [_levels(cells.kinds, arm, weights, shared, alpha, n_star / 2) for arm in arms]
    return found[0], found[1]


def bias_harm(cells: Cells, alpha: float, n_star: float) -> Harm:
    """Bound |level of the challenger| - |level of control| per row: how much worse calibrated the challenger is.

    |m| is at most max(U, -L), which fails only on the side where m lies: one bound. It is at least max(L, -U, 0), which
    needs both. So three bounds at a third of alpha stand behind either bound of the harm.
    """
    control, challenger = (_absolute(arm) for arm in arm_levels(cells, alpha / 3, n_star))
    determined = control.determined & challenger.determined
    return Harm(
        np.where(determined, challenger.level - control.level, np.nan),
        np.where(determined, challenger.lower - control.upper, np.nan),
        np.where(determined, challenger.upper - control.lower, np.nan),
        control.clock + challenger.clock,
        determined,
    )


def gap_harm(
    cells: Cells,
    groups: Sequence[int],
    alpha: float,
    n_star: float,
    left_out: NDArray[np.bool_] | None = None,
) -> Harm:
    """Bound how much wider the gap between groups is on the challenger than on control.

    The gap of an arm is its largest group level minus its smallest. It widens by at most max(d_g) - min(d_h), d the
    differences of the arms: for the challenger's true extremes two bounds, at half of alpha each. It widens by at least
    the challenger's certain gap minus the control's possible one: 2 G + 2 bounds share alpha.

    Args:
        cells: The moments of all rows.
        groups: Rows of the groups.
        alpha: Error budget of each bound of the harm.
        n_star: Events of both arms at which the bounds should be tightest.
        left_out: Groups that do not count, (..., group).

    Returns:
        Arrays over the leading axes. Undetermined unless at least two groups count and each of them is determined.
    """
    picked = cells.rows(list(groups))
    gone = np.zeros(len(groups), dtype=bool) if left_out is None else left_out
    control, challenger = arm_levels(picked, alpha / (2 * len(groups) + 2), n_star)
    difference = interval_table(picked, alpha / 2, n_star)
    sound = (control.determined & challenger.determined & difference.determined) | gone
    determined = sound.all(axis=-1) & ((~gone).sum(axis=-1) >= 2)
    lower = _gap(challenger.lower, challenger.upper, gone) - _gap(control.upper, control.lower, gone)
    upper = _gap(difference.upper, difference.lower, gone)
    estimate = _gap(challenger.level, challenger.level, gone) - _gap(control.level, control.level, gone)
    clock = np.where(gone, 0.0, np.where(difference.clock > 0, difference.clock, 0.0)).sum(axis=-1)
    clean = [np.where(determined, value, np.nan) for value in (estimate, lower, upper)]
    return Harm(clean[0], clean[1], clean[2], clock, determined)


def _gap(high: Array, low: Array, gone: NDArray[np.bool_]) -> Array:
    """Return the largest of ``high`` minus the smallest of ``low``; a gap is never below zero."""
    top = np.where(gone | np.isnan(high), -np.inf, high).max(axis=-1)
    bottom = np.where(gone | np.isnan(low), np.inf, low).min(axis=-1)
    return np.asarray(np.maximum(top - bottom, 0.0))


def _absolute(arm: ArmLevels) -> ArmLevels:
    lower = np.maximum(np.maximum(arm.lower, -arm.upper), 0.0)
    upper = np.maximum(arm.upper, -arm.lower)
    return ArmLevels(np.abs(arm.level), lower, upper, arm.clock, arm.determined)


def _levels(
    kinds: tuple[str, ...], arm: ArmMoments, weights: Array, shared: Array, alpha: float, n_star: float
) -> ArmLevels:
    counted = weights > 0
    level = np.where(counted, weights * arm.ratio, 0.0).sum(axis=-1)
    scale = np.where(counted, weights / arm.sum_d, 0.0)
    unbiased = scale * np.where(counted, np.sqrt(arm.units / (arm.units - 1)), 0.0)
    own = np.einsum("...s,...st,...t->...", unbiased, arm.rr, unbiased)
    lent = shared * shared_events(arm) * _outer(scale)
    se = np.sqrt(np.maximum(own, lent.sum(axis=(-2, -1))))
    effective = 1 / np.einsum("...s,...st,...t->...", scale, arm.dd, scale)
    clock = np.where(counted, arm.clock, 0.0).sum(axis=-1)
    half = se * multiplier(clock, alpha, n_star, "one", effective - 1)
    determined = counted.any(axis=-1) & (se > 0) & np.isfinite(half) & np.isfinite(level)
    indicator = np.array([kind in INDICATOR_KINDS for kind in kinds], dtype=bool)
    quiet = indicator & counted.any(axis=-1) & (arm.sum_n == 0).all(axis=-1)
    # Nothing has happened in this arm: what the other arm's spread says about it is no bound on its own rate.
    rate = -np.expm1(np.log(alpha / 2) / arm.equal_units)
    lower = np.where(quiet, 0.0, np.where(determined, level - half, np.nan))
    upper = np.where(quiet, rate, np.where(determined, level + half, np.nan))
    sure = determined | quiet
    return ArmLevels(np.where(sure, level, np.nan), lower, upper, clock, sure)


def _outer(vector: Array) -> Array:
    return vector[..., :, None] * vector[..., None, :]
