"""What is wrong with a bad twin: changes of requests and answers that cost a known amount. Pure numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.spec import Scenario

__all__ = ["TUNED", "Plant", "loss", "lost", "mixed_up", "spoilt", "tune"]

Array = NDArray[np.float64]

_TINY = 1e-6
_SEVERITIES = 2.0 ** np.arange(-8, 9, 0.25)
_ENOUGH = 3.0
"""A planted fault costs at least so many margins, where it can."""

_SMALL = 1.75
"""What the small harm costs, in margins: the least that a policy has to find, and not much more."""

TUNED = frozenset(
    {
        Scenario.FLIPPED_SIGN,
        Scenario.SHUFFLED_COHORT,
        Scenario.STALE_FEATURE,
        Scenario.TRAINING_OUT_OF_SYNC,
        Scenario.MISCALIBRATED,
        Scenario.SMALL_HARM,
    }
)
"""Scenarios whose answers are finite and wrong: how wrong is measured on labelled rows before they are planted."""


@dataclass(frozen=True)
class Plant:
    """A fault as the twin is told of it.

    Attributes:
        scenario: Which one.
        severity: How strong; 1 is the fault as it is.
        centre: Log-odds of the champion's mean answer.
        columns: Features that the fault is about.
        seconds: How long an answer is held back.
    """

    scenario: Scenario
    severity: float = 1.0
    centre: float = 0.0
    columns: tuple[str, ...] = ()
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fault as JSON-safe data."""
        return {**self.__dict__, "scenario": self.scenario.value, "columns": list(self.columns)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Plant:
        """Rebuild a fault from :meth:`to_dict`."""
        return cls(**data | {"scenario": Scenario(data["scenario"]), "columns": tuple(data["columns"])})


def mixed_up(plant: Plant, columns: dict[str, Any]) -> dict[str, Any]:
    """Return the features as the twin gets them.

    Args:
        plant: The fault.
        columns: Each feature as an array of shape (rows,).

    Returns:
        The same features. A stale one has the first row's value in every row; out of sync, each row has the row before's.
    """
    if plant.scenario is Scenario.STALE_FEATURE:
        return {
            name: values[[0] * len(values)] if name in plant.columns else values
            for name, values in columns.items()
        }
    if plant.scenario is Scenario.TRAINING_OUT_OF_SYNC:
        return {name: np.roll(values, 1) for name, values in columns.items()}
    return columns


def spoilt(plant: Plant, answers: Array, cohort: NDArray[np.bool_]) -> Array:
    """Return what the twin answers.

    Args:
        plant: The fault.
        answers: Probabilities as the champion gives them for the features that the twin got, shape (rows,).
        cohort: Rows that belong to the cohort of a shuffled cohort, shape (rows,).

    Returns:
        Shape (rows,). NaN where the fault is a missing value that nobody handles.
    """
    kind = plant.scenario
    if kind is Scenario.FLIPPED_SIGN:
        answers = 1.0 - answers
    elif kind is Scenario.SHUFFLED_COHORT:
        answers = answers.copy()
        answers[cohort] = np.roll(answers[cohort], max(1, int(cohort.sum()) // 2))
    elif kind is Scenario.NULL_HANDLING:
        return np.where(np.arange(len(answers)) % 4 == 0, np.nan, answers)
    if kind in (Scenario.MISCALIBRATED, Scenario.SMALL_HARM):
        # Away from where most answers are: the other way a rare outcome would hardly cost anything.
        return _expit(_logit(answers) + (plant.severity if plant.centre <= 0 else -plant.severity))
    if kind in TUNED:
        changed = _expit(plant.centre + plant.severity * (_logit(answers) - plant.centre))
        return np.where(cohort, changed, answers) if kind is Scenario.SHUFFLED_COHORT else changed
    return answers


def loss(kind: str, answers: Array, labels: Array) -> float:
    """Return how bad answers are by a metric's kind: ``brier``, ``log_loss`` or ``accuracy``; lower is better."""
    if kind == "log_loss":
        kept = np.clip(answers, 1e-15, 1 - 1e-15)
        return float(-np.mean(labels * np.log(kept) + (1 - labels) * np.log(1 - kept)))
    if kind == "accuracy":
        return float(np.mean((answers >= 0.5) != (labels >= 0.5)))
    return float(np.mean((answers - labels) ** 2))


def lost(kind: str, bad: Array, good: Array, labels: Array) -> float:
    """Return how much worse the first answers are than the second."""
    return loss(kind, bad, labels) - loss(kind, good, labels)


def tune(
    plant: Plant,
    answered: Callable[[Plant], tuple[Array, NDArray[np.bool_]]],
    labels: Array,
    kind: str,
    margin: float,
) -> tuple[Plant, float]:
    """Make a fault just as strong as it has to be to count as harm.

    Args:
        plant: The fault at severity 1.
        answered: Returns the champion's answers to the features that the twin gets, and the rows of the cohort.
        labels: True outcomes of those rows, 0 or 1.
        kind: Kind of the metric that finds it.
        margin: Its margin.

    Returns:
        The fault, and how much worse its answers are by the metric. Where no severity costs enough, the costliest.
    """
    answers, cohort = answered(plant)
    good, _ = answered(Plant(Scenario.HEALTHY))
    plant = Plant(
        plant.scenario, 1.0, float(_logit(np.asarray([good.mean()]))[0]), plant.columns, plant.seconds
    )
    wanted = margin * (_SMALL if plant.scenario is Scenario.SMALL_HARM else _ENOUGH)
    tried: list[tuple[Plant, float]] = []
    additive = plant.scenario in (Scenario.SMALL_HARM, Scenario.MISCALIBRATED)
    for severity in _SEVERITIES if additive else _SEVERITIES[_SEVERITIES >= 1.0]:
        candidate = Plant(plant.scenario, float(severity), plant.centre, plant.columns, plant.seconds)
        cost = lost(kind, spoilt(candidate, answers, cohort), good, labels)
        if cost >= wanted:
            return candidate, cost
        tried.append((candidate, cost))
    return max(tried, key=lambda item: item[1])


def _logit(p: Array) -> Array:
    kept = np.clip(p, _TINY, 1 - _TINY)
    return np.asarray(np.log(kept / (1 - kept)), dtype=np.float64)


def _expit(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -40, 40))), dtype=np.float64)
