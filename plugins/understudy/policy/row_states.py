"""The numeric core: moments in, the state of every metric in every cohort out.

Every array is (..., row). A live look has no leading axis; the rehearsal has one for its simulated runs. Both run this code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from understudy.policy.doubt import Doubt, doubts
from understudy.policy.plan import Rows, harm_rows, tightest, tolerance_rows
from understudy.spec import Better, Experiment, Metric, MetricKind
from understudy.stats.arm_levels import Harm, bias_harm, gap_harm
from understudy.stats.cells import Cells, IntervalTable, interval_table
from understudy.stats.sequences import Interval

__all__ = ["State", "States", "states", "tolerances"]

Mask = NDArray[np.bool_]


class State(IntEnum):
    """What one interval on the harm scale says about one margin."""

    UNDETERMINED = 0
    """There is no interval, or its numbers are in doubt."""
    SAFE = 1
    """At most the margin."""
    NOT_PROVEN_WORSE = 2
    """Could be better, could be worse than the margin."""
    DETERIORATED = 3
    """Worse than nothing, perhaps by more than the margin."""
    HARMFUL = 4
    """Worse by more than the margin."""


@dataclass(frozen=True, eq=False)
class States:
    """Intervals of all rows and what they mean.

    Attributes:
        rows: what each row is about.
        table: intervals on the harm scale; a missing row is NaN and undetermined.
        doubt: `Doubt` codes.
        missing: rows that the evidence does not have.
    """

    rows: Rows
    table: IntervalTable
    doubt: NDArray[np.int8]
    missing: Mask

    @cached_property
    def harmful(self) -> Mask:
        """Harm beyond the margin is proven. Doubtful numbers may prove harm: stopping is the safe side."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.table.determined & (self.table.lower > self.rows.margin))

    @cached_property
    def safe(self) -> Mask:
        """At most the margin is proven, and nothing is wrong with the numbers."""
        with np.errstate(invalid="ignore"):
            within = self.table.determined & (self.table.upper <= self.rows.margin)
        return np.asarray(within & (self.doubt == Doubt.NONE))

    @cached_property
    def better(self) -> Mask:
        """An improvement is proven, and nothing is wrong with the numbers."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.table.determined & (self.table.upper < 0) & (self.doubt == Doubt.NONE))

    @cached_property
    def code(self) -> NDArray[np.int8]:
        """`State` codes; a row that is worse within its margin is SAFE, for that is what the margin was declared for."""
        with np.errstate(invalid="ignore"):
            worse = self.table.determined & (self.table.lower > 0)
        known = self.table.determined & (self.doubt == Doubt.NONE)
        conditions = [self.harmful, ~known, self.safe, worse]
        codes = [State.HARMFUL, State.UNDETERMINED, State.SAFE, State.DETERIORATED]
        return np.select(conditions, codes, State.NOT_PROVEN_WORSE).astype(np.int8)

    def log_e(self) -> NDArray[np.float64]:
        """Return the log e-value of each row against "harm is at most the margin"; 0 says nothing.

        Where harm is put together from several bounds the e-value is all or nothing: 1 / alpha once harm is proven at
        alpha. Its expectation is the false-alarm rate divided by alpha, so at most 1.
        """
        whole = np.array([_is_plain(metric) for metric in self.rows.metrics], dtype=bool)
        with np.errstate(divide="ignore"):
            proven = np.where(self.harmful, -np.log(self.rows.alpha), -np.inf)
        return np.where(whole, self.table.log_e(self.rows.margin), proven)

    def interval(self, index: int) -> Interval:
        """Return one row of a live look as an interval, with the word for why it is undetermined."""
        found = self.table.row(index)
        if found.se is not None and not np.isfinite(found.se):
            found = replace(found, se=None)
        if self.missing[index]:
            return replace(found, reason="no_data")
        if not found.determined and self.rows.metrics[index].kind is MetricKind.FAIRNESS_GAP:
            return replace(found, reason="groups_too_thin")
        doubt = Doubt(int(self.doubt[index]))
        return found if doubt is Doubt.NONE else replace(found, reason=doubt.name.lower())


def states(
    experiment: Experiment, cohorts: Sequence[str], cells: Cells, contained: Mask | None = None
) -> States:
    """Judge every metric in every cohort for harm, at its part of alpha.

    Args:
        experiment: The frozen spec.
        cohorts: The cohorts registered before exposure.
        cells: Moments, with any leading axes.
        contained: Cohorts that were sent back to the champion, (..., cohort); only groups of a fairness gap care here.
    """
    return _judge(experiment, harm_rows(experiment, cohorts), cells, cohorts, contained)


def tolerances(
    experiment: Experiment,
    cohorts: Sequence[str],
    cells: Cells,
    scale: float = 1.0,
    contained: Mask | None = None,
) -> States:
    """Judge every deciding metric, about everyone, against its margin times ``scale``, at the whole alpha."""
    return _judge(experiment, tolerance_rows(experiment, scale), cells, cohorts, contained)


def _is_plain(metric: Metric) -> bool:
    composed = metric.kind in (MetricKind.CALIBRATION, MetricKind.FAIRNESS_GAP)
    return not composed and metric.better is not Better.SAME


def _judge(
    experiment: Experiment, rows: Rows, cells: Cells, cohorts: Sequence[str], contained: Mask | None
) -> States:
    n_star = tightest(experiment)
    at = {key: row for row, key in enumerate(zip(cells.metrics, cells.cohorts, strict=True))}
    source = np.array(
        [
            at.get((metric.name, cohort), -1)
            for metric, cohort in zip(rows.metrics, rows.cohorts, strict=True)
        ],
        dtype=np.int64,
    )
    same = np.array([metric.better is Better.SAME for metric in rows.metrics], dtype=bool)
    found = source >= 0
    present = np.flatnonzero(found)
    in_order = np.array_equal(source, np.arange(len(cells)))
    picked = cells if in_order else cells.rows(source[present].tolist())
    # A change in either direction is two questions, so each gets half of the budget.
    alpha = np.where(same, rows.alpha / 2, rows.alpha)
    table = _scattered(interval_table(picked, alpha[present], n_star), present, rows, n_star)
    table = _either_way(table, same)
    doubt = np.zeros(table.estimate.shape, dtype=np.int8)
    doubt[..., present] = doubts(tuple(rows.metrics[row] for row in present), picked)
    found_states = States(rows, table, doubt, ~found)
    for row, metric in enumerate(rows.metrics):
        if metric.kind is MetricKind.CALIBRATION and found[row] and rows.alpha[row] > 0:
            one = cells.rows([int(source[row])])
            _put(table, row, bias_harm(one, float(rows.alpha[row]), n_star), axis=True)
        elif metric.kind is MetricKind.FAIRNESS_GAP:
            _put_gap(experiment, found_states, row, cells, at, cohorts, contained)
    return found_states


def _put_gap(
    experiment: Experiment,
    found: States,
    row: int,
    cells: Cells,
    at: Mapping[tuple[str, str], int],
    cohorts: Sequence[str],
    contained: Mask | None,
) -> None:
    """Write a fairness gap into its row, from the rows of its metric in every registered group."""
    metric = found.rows.metrics[row]
    gone = [contained is not None and bool(contained[..., place].all()) for place in range(len(cohorts))]
    # A group that is contained everywhere need not be in the evidence any more.
    places = [n for n, cohort in enumerate(cohorts) if cohort.startswith(f"{metric.by}=") and not gone[n]]
    groups = [at.get((str(metric.of), cohorts[place]), -1) for place in places]
    found.missing[row] = len(groups) < 2 or min(groups) < 0
    if not found.missing[row]:
        left_out = None if contained is None else contained[..., places]
        harm = gap_harm(cells, groups, float(found.rows.alpha[row]), found.table.n_star, left_out)
        _put(found.table, row, harm)
        of = next(other for other in experiment.metrics if other.name == metric.of)
        found.doubt[..., row] = doubts((of,) * len(groups), cells.rows(groups)).max(axis=-1)


def _scattered(table: IntervalTable, present: NDArray[np.int64], rows: Rows, n_star: float) -> IntervalTable:
    """Spread the rows that the evidence has over all rows; the others say nothing."""
    shape = (*table.estimate.shape[:-1], len(rows))

    def spread(values: NDArray[np.float64], fill: float) -> NDArray[np.float64]:
        whole = np.full(shape, fill)
        whole[..., present] = values
        return whole

    def flags(values: Mask) -> Mask:
        return spread(values.astype(float), 0.0).astype(bool)

    return IntervalTable(
        estimate=spread(table.estimate, np.nan),
        se=spread(table.se, np.nan),
        df=spread(table.df, np.nan),
        clock=spread(table.clock, 0.0),
        lower=spread(table.lower, np.nan),
        upper=spread(table.upper, np.nan),
        determined=flags(table.determined),
        constant=flags(table.constant),
        never_happened=flags(table.never_happened),
        alpha=rows.alpha,
        n_star=n_star,
        sided="one",
    )


def _either_way(table: IntervalTable, same: Mask) -> IntervalTable:
    """Turn the rows whose harm is a change in either direction into intervals of the size of the change."""
    if not same.any():
        return table
    lower = np.maximum(np.maximum(table.lower, -table.upper), 0.0)
    upper = np.maximum(table.upper, -table.lower)
    return replace(
        table,
        estimate=np.where(same, np.abs(table.estimate), table.estimate),
        lower=np.where(same, lower, table.lower),
        upper=np.where(same, upper, table.upper),
    )


def _put(table: IntervalTable, row: int, harm: Harm, axis: bool = False) -> None:
    """Write a harm that is put together from several bounds into its row."""
    for name in ("estimate", "lower", "upper", "clock", "determined"):
        values = getattr(harm, name)
        getattr(table, name)[..., row] = values[..., 0] if axis else values
    table.se[..., row] = np.nan
    table.constant[..., row] = False
    table.never_happened[..., row] = False
