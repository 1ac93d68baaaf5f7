"""How far do groups lie apart, and does the challenger widen that gap? Bounds that hold at every look.

The gap of an arm is its largest group mean minus its smallest. Each bound below holds alone with probability at least
1 - alpha over all looks and is put together from one-sided confidence sequences (`understudy.stats.sequences`), whatever
depends on whatever (union bound):

* A gap is at most ``max U - min L``: only the bounds of the two truly extreme groups have to hold, alpha / 2 each.
* A gap is at least ``max L - min U``: all 2 G bounds have to hold, alpha / (2 G) each.
* It widens by at most ``max U(d) - min L(d)``, d the groups' differences between the arms: for the challenger's truly
  extreme groups g and h it widens by no more than d_g - d_h, alpha / 2 each.
* It widens by at least the challenger's certain gap minus the control's possible one, alpha / (2 G + 2) each.

This is conservative: real errors stay well below alpha. The point value is that of fairlearn's
``MetricFrame.difference(method="between_groups")``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.stats.ratio import ArmMoments
from understudy.stats.sequences import Interval, multiplier, undetermined

__all__ = ["GroupBounds", "GroupGap", "GroupMeans", "Widening", "arm_gap", "widening"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class GroupMeans:
    """One metric in every group of one column, for one arm; arrays have one value per group.

    Attributes:
        groups: names, each once.
        mean: mean, rate or ratio.
        se: its standard error, with the randomised unit as cluster.
        clock: observations (events); has to grow at least as fast as the information does.
        df: degrees of freedom behind the standard error; infinity if it is known.
        units: distinct units.
    """

    groups: tuple[str, ...]
    mean: Array
    se: Array
    clock: Array
    df: Array
    units: Array

    @classmethod
    def of(
        cls,
        groups: tuple[str, ...],
        mean: ArrayLike,
        se: ArrayLike,
        clock: ArrayLike,
        df: ArrayLike,
        units: ArrayLike,
    ) -> GroupMeans:
        """Check the shapes and build it.

        Raises:
            ValueError: not one value per group, or a group is named twice.
        """
        arrays = [np.asarray(part, dtype=float) for part in (mean, se, clock, df, units)]
        names = tuple(str(group) for group in groups)
        if len(set(names)) != len(names) or any(part.shape != (len(names),) for part in arrays):
            shapes = [part.shape for part in arrays]
            raise ValueError(f"shapes {shapes} for groups {names}: one value per group, every group once")
        return cls(names, *arrays)

    @classmethod
    def from_moments(cls, arms: Mapping[str, ArmMoments]) -> GroupMeans:
        """Take the groups' moments in one arm; stages count by their events.

        Args:
            arms: moments per group, without leading axes.
        """
        rows = [_level(arm) for arm in arms.values()]
        columns = [np.array(column) for column in zip(*rows, strict=True)] or [np.empty(0)] * 5
        return cls.of(tuple(arms), *columns)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; what is not finite becomes null."""
        arrays = {name: getattr(self, name) for name in ("mean", "se", "clock", "df", "units")}
        return {"groups": list(self.groups)} | {
            name: [float(v) if np.isfinite(v) else None for v in part] for name, part in arrays.items()
        }


@dataclass(frozen=True)
class GroupBounds:
    """One group's mean; all groups' bounds hold together at alpha. Bounds are None while undetermined."""

    group: str
    mean: float | None
    lower: float | None
    upper: float | None
    units: int

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class GroupGap:
    """Gap of one arm.

    Attributes:
        interval: the gap with its bounds, each at alpha; its standard error is None.
        highest: group with the largest mean; None if undetermined.
        lowest: group with the smallest mean; None if undetermined.
        groups: every group.
        blamed: groups that keep the gap from being determined.
    """

    interval: Interval
    highest: str | None
    lowest: str | None
    groups: tuple[GroupBounds, ...]
    blamed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Widening:
    """How much further the groups lie apart on the challenger than on control.

    Attributes:
        interval: challenger's gap minus control's, each bound at alpha; positive means wider.
        control: gap of the control arm.
        challenger: gap of the challenger arm.
    """

    interval: Interval
    control: GroupGap
    challenger: GroupGap

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def arm_gap(means: GroupMeans, alpha: float, n_star: float, min_units: int = 2) -> GroupGap:
    """Return the gap of one arm.

    Args:
        means: every group that counts. One with fewer than `min_units` units, without variance or without a
            usable number makes the gap undetermined: leaving it out would hide it.
        alpha: error budget of each bound, below 0.5.
        n_star: observations of one group at which the bounds should be tightest.
        min_units: smallest number of units that says something about a group.

    Raises:
        ValueError: alpha or n_star out of range.
    """
    size = max(len(means.groups), 1)
    wide = _bounds(means, alpha / (2 * size), n_star)
    reason, blamed = _unusable(means, min_units)
    total = float(np.where(np.isfinite(means.clock), means.clock, 0.0).sum())
    groups = tuple(
        GroupBounds(
            name, _number(means.mean[i]), _number(wide[0][i]), _number(wide[1][i]), _count(means.units[i])
        )
        for i, name in enumerate(means.groups)
    )
    if reason:
        return GroupGap(undetermined(reason, total, alpha), None, None, groups, blamed)
    tight = _bounds(means, alpha / 2, n_star)
    with np.errstate(over="ignore"):
        estimate, upper = float(np.ptp(means.mean)), float(tight[1].max() - tight[0].min())
        lower = max(float(wide[0].max() - wide[1].min()), 0.0)
    interval = _interval(estimate, lower, upper, total, alpha)
    high, low = (means.groups[int(i)] for i in (means.mean.argmax(), means.mean.argmin()))
    return GroupGap(interval, high, low, groups)


def widening(
    control: GroupMeans, challenger: GroupMeans, alpha: float, n_star: float, min_units: int = 2
) -> Widening:
    """Return how much the challenger widens the gap against control, with a bound on either side.

    Args:
        control: groups of the control arm.
        challenger: the same groups of the challenger arm, in the same order.
        alpha: error budget of each bound, below 0.5.
        n_star: observations of one group in one arm at which the bounds should be tightest.
        min_units: smallest number of units that says something about a group in one arm.

    Raises:
        ValueError: the arms have other groups, or alpha or n_star is out of range.
    """
    if control.groups != challenger.groups:
        raise ValueError(f"groups {control.groups} and {challenger.groups}: both arms need the same groups")
    gaps = [arm_gap(means, alpha, n_star, min_units) for means in (control, challenger)]
    total = float(sum(gap.interval.n for gap in gaps))
    for gap in gaps:
        if not gap.interval.determined:
            interval = undetermined(gap.interval.reason or "no_gap", total, alpha)
            return Widening(interval, gaps[0], gaps[1])
    budget = alpha / (2 * len(control.groups) + 2)
    before, after = (_bounds(means, budget, n_star) for means in (control, challenger))
    least = max(after[0].max() - after[1].min(), 0.0) - (before[1].max() - before[0].min())
    low, high = _bounds(_difference(control, challenger), alpha / 2, 2 * n_star)
    estimate = float(np.ptp(challenger.mean) - np.ptp(control.mean))
    interval = _interval(estimate, float(least), float(high.max() - low.min()), total, alpha)
    return Widening(interval, gaps[0], gaps[1])


def _difference(control: GroupMeans, challenger: GroupMeans) -> GroupMeans:
    """Challenger minus control per group, with Satterthwaite's degrees of freedom."""
    v0, v1 = control.se**2, challenger.se**2
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        share = v1 / (v0 + v1)
        df = 1 / (share**2 / challenger.df + (1 - share) ** 2 / control.df)
    return GroupMeans(
        control.groups,
        challenger.mean - control.mean,
        np.hypot(control.se, challenger.se),
        control.clock + challenger.clock,
        df,
        np.minimum(control.units, challenger.units),
    )


def _bounds(means: GroupMeans, alpha: float, n_star: float) -> tuple[Array, Array]:
    with np.errstate(invalid="ignore", over="ignore"):
        half = means.se * multiplier(means.clock, alpha, n_star, "one", means.df)
        return means.mean - half, means.mean + half


def _interval(estimate: float, lower: float, upper: float, total: float, alpha: float) -> Interval:
    if not np.isfinite([estimate, lower, upper]).all():
        return undetermined("too_few_units", total, alpha, estimate)
    return Interval(estimate, None, lower, upper, int(total), alpha, True)


def _unusable(means: GroupMeans, min_units: int) -> tuple[str | None, tuple[str, ...]]:
    """Reason why the groups cannot be compared, and which of them is to blame."""
    if len(means.groups) < 2:
        return "fewer_than_two_groups", ()
    with np.errstate(invalid="ignore"):
        enough = (means.units >= max(min_units, 2)) & (means.df > 0) & (means.clock >= 2)
        tests = {
            "too_few_units": enough & np.isfinite(means.clock),
            "no_estimate": np.isfinite(means.mean),
            "no_standard_error": np.isfinite(means.se) & (means.se >= 0),
            "zero_variance": means.se != 0,
        }
    for reason, fine in tests.items():
        if not fine.all():
            return reason, tuple(means.groups[i] for i in np.flatnonzero(~fine))
    return None, ()


def _level(arm: ArmMoments) -> tuple[float, float, float, float, float]:
    """Mean over all stages, its standard error, clock, degrees of freedom and units."""
    total = float(arm.sum_d.sum())
    if total <= 0:
        return np.nan, np.nan, 0.0, np.nan, float(arm.total)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.where(arm.units > 1, np.sqrt(arm.units / (arm.units - 1)), 1.0)
    variance = float(scale @ arm.rr @ scale) / total**2
    df = total**2 / float(arm.dd.sum()) - 1
    return float(arm.sum_n.sum()) / total, float(np.sqrt(variance)), total, df, float(arm.total)


def _number(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _count(value: Any) -> int:
    return int(value) if np.isfinite(value) else 0
