"""Error budgets: how many bad answers the challenger has given, against how many it may give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.spec import Budget, Experiment
from understudy.stats.cells import ALL, Cells

__all__ = ["Spending", "budgets_allow", "spending"]


@dataclass(frozen=True, eq=False)
class Spending:
    """What one budget has cost so far; arrays are (...).

    Attributes:
        budget: the budget.
        stage: bad challenger answers at this stage; NaN if they could not be counted.
        service: the same over the whole run, plus what other runs spent before.
    """

    budget: Budget
    stage: NDArray[np.float64]
    service: NDArray[np.float64]

    @property
    def counted(self) -> NDArray[np.bool_]:
        """Whether the bad answers could be counted."""
        return np.asarray(np.isfinite(self.stage) & np.isfinite(self.service))

    @property
    def spent(self) -> NDArray[np.bool_]:
        """Whether nothing is left: the next bad answer would be one too many."""
        with np.errstate(invalid="ignore"):
            service = self.service >= self.budget.service
            stage = np.asarray(False if self.budget.stage is None else self.stage >= self.budget.stage)
        return np.asarray(service | stage)


def spending(
    experiment: Experiment, cells: Cells, stage: int, spent_before: dict[str, float] | None = None
) -> tuple[Spending, ...]:
    """Count the bad challenger answers of every budget.

    Args:
        experiment: The frozen spec.
        cells: Moments of metrics that are 0 or 1 an event, so that the sum of the numerator is a count.
        stage: Index of the stage, from 1; a stage without events has cost nothing.
        spent_before: Per metric, what other runs spent within the budget's window; missing is 0.
    """
    found = []
    for budget in experiment.budgets:
        row = cells.index(budget.metric, ALL)
        if row is None:
            nothing = np.full(cells.control.total.shape[:-1], np.nan)
            found.append(Spending(budget, nothing, nothing))
            continue
        bad = cells.challenger.sum_n[..., row, :]
        here = np.array([label == stage for label in cells.challenger.stages], dtype=bool)
        before = (spent_before or {}).get(budget.metric, 0.0)
        found.append(Spending(budget, bad[..., here].sum(axis=-1), bad.sum(axis=-1) + _number(before)))
    return tuple(found)


def budgets_allow(spendings: tuple[Spending, ...]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether every budget leaves advancement open, and whether one of them ends the run."""
    open_, ended = np.asarray(True), np.asarray(False)
    for item in spendings:
        open_ = open_ & item.counted & ~item.spent
        if item.budget.on_spent == "roll_back":
            ended = ended | item.spent
    return np.asarray(open_), np.asarray(ended)


def _number(value: ArrayLike) -> NDArray[np.float64]:
    return np.asarray(value, dtype=float)
