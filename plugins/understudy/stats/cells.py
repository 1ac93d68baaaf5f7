"""Cells: the moments of every metric in every cohort, kept as arrays so that all of them are judged in one go.

A row is one metric in one cohort. Whatever stands before the row axis (replicates of a simulation) is carried along, so
that a live look, its reproduction and the rehearsal run the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.stats.losses import INDICATOR_KINDS
from understudy.stats.ratio import ArmMoments, Difference, compare, difference_arrays
from understudy.stats.sequences import Interval, Sided, log_e_values, multiplier, undetermined

__all__ = ["ALL", "Cell", "Cells", "IntervalTable", "interval_table"]

ALL = "all"

Array = NDArray[np.float64]

_ARRAYS = tuple(
    field.name for field in fields(ArmMoments) if field.name not in ("stages", "buckets", "events")
)


@dataclass(frozen=True, eq=False)
class Cell:
    """Moments of both arms for one metric in one cohort, on the harm scale (positive difference: challenger worse)."""

    metric: str
    kind: str
    cohort: str
    control: ArmMoments
    challenger: ArmMoments

    def difference(self) -> Difference:
        """Return challenger minus control."""
        return compare(self.control, self.challenger)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        arms = {"control": self.control.to_dict(), "challenger": self.challenger.to_dict()}
        return {"metric": self.metric, "kind": self.kind, "cohort": self.cohort, **arms}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Cell:
        """Rebuild what `to_dict` returned."""
        arms = (ArmMoments.from_dict(data[arm]) for arm in ("control", "challenger"))
        return cls(data["metric"], data["kind"], data["cohort"], *arms)


@dataclass(frozen=True, eq=False)
class Cells:
    """A table of cells.

    Attributes:
        metrics: name of the metric, per row.
        kinds: kind of the metric, per row.
        cohorts: ``"all"`` or a cohort like ``"origin=JFK"``, per row.
        control: moments of the control arm; arrays are (..., row, stage) and (..., row, stage, stage).
        challenger: the same of the challenger arm.
    """

    metrics: tuple[str, ...]
    kinds: tuple[str, ...]
    cohorts: tuple[str, ...]
    control: ArmMoments
    challenger: ArmMoments

    @classmethod
    def stack(cls, cells: Sequence[Cell], stages: Sequence[int] = ()) -> Cells:
        """Build a table from single cells, which must all have the same stages.

        Args:
            cells: The rows.
            stages: Labels of the stages when there is no row to take them from.
        """
        labels = cells[0].control.stages if cells else tuple(stages)
        return cls(
            tuple(cell.metric for cell in cells),
            tuple(cell.kind for cell in cells),
            tuple(cell.cohort for cell in cells),
            _stacked([cell.control for cell in cells], labels),
            _stacked([cell.challenger for cell in cells], labels),
        )

    def __len__(self) -> int:
        return len(self.metrics)

    def __iter__(self) -> Iterator[Cell]:
        return (self.row(index) for index in range(len(self)))

    def index(self, metric: str, cohort: str = ALL) -> int | None:
        """Return the row of a metric in a cohort; None if there is none."""
        for index, key in enumerate(zip(self.metrics, self.cohorts, strict=True)):
            if key == (metric, cohort):
                return index
        return None

    def row(self, index: int) -> Cell:
        """Return one row as a cell of its own."""
        picked = (_picked(arm, index) for arm in (self.control, self.challenger))
        return Cell(self.metrics[index], self.kinds[index], self.cohorts[index], *picked)

    def rows(self, indices: Sequence[int]) -> Cells:
        """Return a table of some rows, in the order asked for."""
        at = np.asarray(indices, dtype=np.int64)
        return Cells(
            tuple(self.metrics[index] for index in indices),
            tuple(self.kinds[index] for index in indices),
            tuple(self.cohorts[index] for index in indices),
            _picked(self.control, at),
            _picked(self.challenger, at),
        )


@dataclass(frozen=True, eq=False)
class IntervalTable:
    """Anytime-valid intervals of a table of cells; every array is (..., row).

    Attributes:
        estimate: challenger minus control; NaN where it could not be computed.
        se: its standard error; NaN where it could not be computed.
        df: degrees of freedom behind the standard error.
        clock: events of both arms.
        lower: lower bound; NaN where undetermined.
        upper: upper bound; NaN where undetermined.
        determined: False means "the data cannot say"; such a row must never pass anything.
        constant: the rate has been zero in both arms so far, or zero in one and one in the other, and the bounds come from
            that.
        never_happened: it has been zero in both.
        alpha: error budget, per row.
        n_star: where the sequences are tightest.
        sided: "one" or "two".
    """

    estimate: Array
    se: Array
    df: Array
    clock: Array
    lower: Array
    upper: Array
    determined: NDArray[np.bool_]
    constant: NDArray[np.bool_]
    never_happened: NDArray[np.bool_]
    alpha: Array
    n_star: float
    sided: Sided

    def row(self, index: int | tuple[int, ...]) -> Interval:
        """Return one row as an interval, with the word for why it is undetermined."""
        alpha = float(np.broadcast_to(self.alpha, self.estimate.shape)[index])
        estimate, se, clock = float(self.estimate[index]), float(self.se[index]), float(self.clock[index])
        if not self.determined[index]:
            return undetermined(_why(estimate, se, clock, alpha), clock, alpha, estimate, se)
        bounds = float(self.lower[index]), float(self.upper[index])
        reason = "never_happened" if self.never_happened[index] else None
        if self.constant[index] and reason is None:
            reason = "without_exception"
        return Interval(estimate, se, *bounds, int(clock), alpha, True, reason)

    def log_e(self, offset: ArrayLike = 0.0) -> Array:
        """Return the log e-value of each row against "harm is at most ``offset``" (two-sided: "is ``offset``").

        Undetermined rows say nothing: 0.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            found = log_e_values(
                self.estimate - np.asarray(offset, dtype=float),
                self.se,
                self.clock,
                self.alpha,
                self.n_star,
                self.sided,
                self.df,
            )
        return np.where(self.determined & ~self.constant & np.isfinite(found), found, 0.0)


def interval_table(cells: Cells, alpha: ArrayLike, n_star: float, sided: Sided = "one") -> IntervalTable:
    """Return the anytime-valid interval of every row, positive meaning harm.

    Args:
        cells: The moments.
        alpha: Error budget of each row, already divided over metrics and cohorts; a row whose budget is 0 is undetermined.
        n_star: Events of both arms at which the intervals should be tightest; fix it before the first look. Being ten
            times off widens them by about a tenth and never breaks them.
        sided: "one" gives two bounds that each hold at alpha, "two" gives one interval.
    """
    budget = np.asarray(alpha, dtype=float)
    estimate, se, df, clock, _, _ = difference_arrays(cells.control, cells.challenger)
    usable = (budget > 0) & np.isfinite(estimate) & (se > 0) & np.isfinite(se) & (clock >= 2) & (df > 0)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        half = se * multiplier(clock, np.where(budget > 0, budget, 0.01), n_star, sided, df)
    determined = usable & np.isfinite(half)
    lower, upper = (np.where(determined, estimate + sign * half, np.nan) for sign in (-1, 1))
    never = [_never(cells.kinds, arm) for arm in (cells.control, cells.challenger)]
    always = [_always(cells.kinds, arm) for arm in (cells.control, cells.challenger)]
    quiet = never[0] & never[1] & (se == 0) & (budget > 0)
    # Where both arms always fail, nothing works, and that is nothing to conclude from.
    opposed = (never[0] & always[1] | always[0] & never[1]) & (se == 0) & (budget > 0)
    constant = quiet | opposed
    if constant.any():
        # Where both are quiet, each bound of the difference needs one arm's bound; where they are opposed, both arms'.
        share = budget / (2 if sided == "one" else 4) / np.where(opposed, 2, 1)
        control, challenger = (
            _rate_bounds(arm, share, ever)
            for arm, ever in zip((cells.control, cells.challenger), always, strict=True)
        )
        lower = np.where(constant, challenger[0] - control[1], lower)
        upper = np.where(constant, challenger[1] - control[0], upper)
        determined = determined | constant
    return IntervalTable(
        estimate, se, df, clock, lower, upper, determined, constant, quiet, budget, float(n_star), sided
    )


def _never(kinds: Sequence[str], arm: ArmMoments) -> NDArray[np.bool_]:
    """Tell the rows of rates that have been zero in an arm so far."""
    return np.asarray(_indicators(kinds) & (arm.sum_n == 0).all(axis=-1))


def _always(kinds: Sequence[str], arm: ArmMoments) -> NDArray[np.bool_]:
    """Tell the rows of rates that have been one in an arm so far, which has seen something."""
    whole = (arm.sum_n == arm.sum_d).all(axis=-1) & (arm.sum_d > 0).any(axis=-1)
    return np.asarray(_indicators(kinds) & whole)


def _indicators(kinds: Sequence[str]) -> NDArray[np.bool_]:
    return np.array([kind in INDICATOR_KINDS for kind in kinds], dtype=bool)


def _rate_bounds(arm: ArmMoments, alpha: Array, always: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Bound a rate that has been zero, or one, so far.

    While none of n independent units has had the event, ``(1 - r)^-n`` is a test martingale against a rate of r or more,
    so ``1 - alpha^(1/n)`` bounds the rate at any look; where all had it, the same bounds what is missing to one. Units
    count as if equally busy, which is the fewer. Half of alpha, because the ordinary sequence takes over with the first
    event that is different.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        slack = -np.expm1(np.log(alpha) / arm.equal_units)
    return np.where(always, 1 - slack, 0.0), np.where(always, 1.0, slack)


def _why(estimate: float, se: float, clock: float, alpha: float) -> str:
    if not alpha > 0:
        return "no_alpha"
    if not clock >= 2 or not math.isfinite(estimate):
        return "too_few_units"
    if se == 0:
        return "zero_variance"
    return "no_standard_error" if not math.isfinite(se) else "too_few_units"


def _stacked(parts: Sequence[ArmMoments], stages: tuple[int, ...]) -> ArmMoments:
    if any((part.stages, part.buckets) != (stages, parts[0].buckets) for part in parts):
        raise ValueError("cells of one table must have the same stages and the same kind of clusters")
    if not parts:
        nothing = np.zeros((0, 0, len(stages)))
        return ArmMoments.from_units(nothing, nothing, stages)
    arrays = {name: np.stack([getattr(part, name) for part in parts]) for name in _ARRAYS}
    counted = any(part.events is not None for part in parts)
    events = np.stack([part.clock for part in parts]) if counted else None
    return ArmMoments(stages, **arrays, buckets=parts[0].buckets, events=events)


def _picked(arm: ArmMoments, at: int | NDArray[np.int64]) -> ArmMoments:
    """Pick rows: the row axis is the last of ``total``, and every other array has its stages behind it."""
    axis = arm.total.ndim - 1
    arrays = {name: np.asarray(np.take(getattr(arm, name), at, axis=axis)) for name in _ARRAYS}
    events = None if arm.events is None else np.asarray(np.take(arm.events, at, axis=axis))
    return ArmMoments(arm.stages, **arrays, buckets=arm.buckets, events=events)
