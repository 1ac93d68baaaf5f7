"""How far each stage exposes each combination of cohorts: rings are exposed further than everybody else."""

from __future__ import annotations

import numpy as np

from understudy.errors import NoHistory
from understudy.exposure import TOTAL_WEIGHT, weights
from understudy.rehearsal.history import Floats, History
from understudy.spec import Experiment, reach_of

__all__ = ["arms_of"]


def arms_of(experiment: Experiment, history: History) -> Floats:
    """Return the share of units in each arm, (arm, stage, combination), the challenger first.

    Args:
        experiment: The spec.
        history: The champion's past.

    Raises:
        NoHistory: A ring never came in the past, so nobody knows how much of it would come.
    """
    size = len(experiment.stages), history.member.shape[0]
    percent = np.zeros(size)
    for number in range(1, len(experiment.stages) + 1):
        everyone, rings = reach_of(experiment.stages, number)
        percent[number - 1] = everyone
        for cohort, further in rings.items():
            if cohort not in history.cohorts:
                raise NoHistory(
                    f"Ring {cohort} of {experiment.name} never came in the champion's past, so nobody knows how much of "
                    "it would. Let its traffic reach the champion for a while, or leave the ring out."
                )
            inside = history.member[:, history.cohorts.index(cohort)] > 0
            percent[number - 1, inside] = np.maximum(percent[number - 1, inside], further)
    known, where = np.unique(percent, return_inverse=True)
    challenger, _, control = (
        np.array([weights(float(value)) for value in known], dtype=float).T / TOTAL_WEIGHT
    )
    return np.stack([challenger, control])[:, np.asarray(where).reshape(size)]
