"""Which rows a decision is made of, and what error budget each of them gets. Fixed before the first look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from understudy.exposure import CHALLENGER, CONTROL, TOTAL_WEIGHT, weights
from understudy.spec import Experiment, Metric, MetricKind
from understudy.stats.cells import ALL

__all__ = ["COHORT_BUDGET", "Rows", "harm_rows", "mask_of", "shares", "tightest", "tolerance_rows"]

COHORT_BUDGET = 0.5
"""Part of alpha that is spent on cohorts; the rest is spent on everyone together."""


@dataclass(frozen=True, eq=False)
class Rows:
    """One row a metric and cohort.

    Attributes:
        metrics: the metric of each row.
        cohorts: ``"all"`` or a cohort of each row.
        alpha: error budget of each row.
        margin: largest tolerated harm of each row; NaN where none is declared.
        registered: every cohort that was registered before exposure.
        deciding: whether a row may decide.
        overall: whether a row is about everyone.
        by_cohort: deciding rows of each registered cohort, (cohort, metric).
    """

    metrics: tuple[Metric, ...]
    cohorts: tuple[str, ...]
    alpha: NDArray[np.float64]
    margin: NDArray[np.float64]
    registered: tuple[str, ...] = ()
    deciding: NDArray[np.bool_] = field(init=False)
    overall: NDArray[np.bool_] = field(init=False)
    by_cohort: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        deciding = np.array([metric.decides for metric in self.metrics], dtype=bool)
        overall = np.array([cohort == ALL for cohort in self.cohorts], dtype=bool)
        inside = np.flatnonzero(deciding & ~overall)
        each = inside.size // max(len(self.registered), 1)
        object.__setattr__(self, "deciding", deciding)
        object.__setattr__(self, "overall", overall)
        object.__setattr__(self, "by_cohort", inside.reshape(len(self.registered), each))

    def __len__(self) -> int:
        return len(self.metrics)


def harm_rows(experiment: Experiment, cohorts: Sequence[str]) -> Rows:
    """Return the rows that are judged for harm, with the error budget of rollback divided over them.

    Half of alpha goes to everyone together and half to the cohorts (all of it to everyone if there are none), evenly
    over the deciding metrics and the registered cohorts. The budget stays as it is when a cohort is contained. Dry runs
    are judged as if they decided, and watched metrics at the whole alpha; neither spends anything of the budget.
    """
    return _harm_rows(experiment, tuple(cohorts))


@lru_cache(maxsize=16)
def _harm_rows(experiment: Experiment, cohorts: tuple[str, ...]) -> Rows:
    # The same for every look of a run, and thousands of cohorts take longer to name than to judge.
    deciding = experiment.deciding
    by_cohort = [metric for metric in deciding if metric.kind is not MetricKind.FAIRNESS_GAP]
    overall = experiment.alpha / len(deciding) * (1 - COHORT_BUDGET if cohorts else 1)
    each = experiment.alpha * COHORT_BUDGET / max(len(by_cohort) * len(cohorts), 1)
    rows: list[tuple[Metric, str, float]] = [(metric, ALL, overall) for metric in deciding]
    rows += [(metric, cohort, each) for cohort in cohorts for metric in by_cohort]
    for metric in experiment.metrics:
        if metric.dry_run:
            rows.append((metric, ALL, overall))
            if metric.kind is not MetricKind.FAIRNESS_GAP:
                rows += [(metric, cohort, each) for cohort in cohorts]
        elif not metric.decides:
            rows.append((metric, ALL, experiment.alpha))
    return _rows(rows, cohorts)


def tolerance_rows(experiment: Experiment, scale: float) -> Rows:
    """Return one row a deciding metric, about everyone, at the whole alpha, with margins times ``scale``.

    Dividing alpha protects against false alarms. Here the error is to pass a metric that is worse than tolerated, and
    since all of them must pass, asking more of each adds nothing.
    """
    return _rows([(metric, ALL, experiment.alpha) for metric in experiment.deciding], (), scale)


def _rows(rows: list[tuple[Metric, str, float]], registered: tuple[str, ...], scale: float = 1.0) -> Rows:
    margins = [np.nan if metric.margin is None else metric.margin * scale for metric, _, _ in rows]
    return Rows(
        tuple(metric for metric, _, _ in rows),
        tuple(cohort for _, cohort, _ in rows),
        np.array([alpha for _, _, alpha in rows], dtype=float),
        np.array(margins, dtype=float),
        registered,
    )


def mask_of(cohorts: Sequence[str], contained: Sequence[str]) -> NDArray[np.bool_]:
    """Return which of the registered cohorts are contained."""
    return np.array([cohort in contained for cohort in cohorts], dtype=bool)


def tightest(experiment: Experiment) -> float:
    """Tune the intervals for the early stages: they have the least evidence, and late ones lose little by it."""
    return experiment.planned_events / 10


def shares(percent: float) -> dict[str, float]:
    """Return the planned shares of control and challenger at a stage, as parts of all units."""
    challenger, _, control = weights(percent)
    return {CONTROL: control / TOTAL_WEIGHT, CHALLENGER: challenger / TOTAL_WEIGHT}
