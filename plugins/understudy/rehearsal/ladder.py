"""Many runs climb a ladder at once: the spec's own policy, look by look, on simulated traffic."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from understudy import policy
from understudy.exposure import TOTAL_WEIGHT, weights
from understudy.rehearsal.history import Floats, History, Ints
from understudy.rehearsal.rings import arms_of
from understudy.spec import Experiment, MetricKind

__all__ = ["Ending", "Endings", "Ladder", "looks_of"]

MOST_LOOKS = 10
"""Looks per stage that are rehearsed. A stage with more of them is looked at this often, closer together at first."""


class Ending(IntEnum):
    """How a simulated run ended."""

    PROMOTED = 0
    ROLLED_BACK = 1
    """Harm was claimed, or the evidence was called unsound."""
    TIMED_OUT = 2
    NOT_SHIPPED = 3
    """It climbed to the top, and the ship rule did not promote it."""
    LAPSED = 4
    """Nothing came for so long that the exposure ended by itself."""

    @property
    def decided(self) -> bool:
        """Whether the policy came to a decision."""
        return self in (Ending.PROMOTED, Ending.ROLLED_BACK)


_CLAIMS = (
    policy.Cause.HARM,
    policy.Cause.COHORT_HARM,
    policy.Cause.TOO_MANY_CONTAINED,
    policy.Cause.UNSOUND,
    policy.Cause.BUDGET_SPENT,
)


def ending_of(cause: NDArray[np.int8]) -> Ints:
    """Return how a run ends that is rolled back for a cause."""
    return np.where(np.isin(cause, _CLAIMS), Ending.ROLLED_BACK, Ending.TIMED_OUT).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Endings:
    """How each run ended; arrays are (run,).

    Attributes:
        ending: `Ending` codes.
        stage: stage at the end, from 1.
        seconds: since the start of exposure.
        events: requests of both arms until then.
        units: units that had seen the challenger by then.
        contained: cohorts that were sent back to the champion.
    """

    ending: Ints
    stage: Ints
    seconds: Floats
    events: Floats
    units: Floats
    contained: Ints

    @classmethod
    def joined(cls, parts: list[Endings]) -> Endings:
        """Put several batches of runs behind one another."""
        names = ("ending", "stage", "seconds", "events", "units", "contained")
        return cls(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def looks_of(soak: float, timeout: float, every: float, most: int = MOST_LOOKS) -> Ints:
    """Return which looks of a stage are rehearsed, counted from 1.

    All of them if there are few. Otherwise the first, the first after the soak, the last (the first after the time-out)
    and others between them in a geometric row.
    """
    last = math.floor(timeout / every) + 1
    if last <= most:
        return np.arange(1, last + 1)
    soaked = min(last, math.ceil(soak / every - 1e-9))
    inner = np.round(np.geomspace(1, last, most - 1)).astype(np.int64)
    return np.unique([1, max(soaked, 1), *inner, last]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class Ladder:
    """A spec as the simulation needs it.

    Attributes:
        experiment: the spec, with deciding metrics only.
        history: the history, with the same metrics.
        challenger: (stage,) planned share of the challenger; of a ring's units where the stage is a ring's.
        control: (stage,) planned share of control.
        arms: (arm, stage, combination) share of units in each arm, by what they belong to: the challenger's from the left
            edge of the hash range, then control's from the right edge.
        looks: per stage, which looks are rehearsed.
    """

    experiment: Experiment
    history: History
    challenger: Floats
    control: Floats
    arms: Floats
    looks: tuple[Ints, ...]

    @classmethod
    def of(cls, experiment: Experiment, history: History) -> Ladder:
        """Prepare a spec.

        Args:
            experiment: The spec.
            history: A history that has every deciding metric but fairness gaps.

        Raises:
            NoHistory: A ring never came in it.
        """
        deciding = experiment.model_copy(update={"metrics": experiment.deciding})
        wanted = [item.name for item in experiment.deciding if item.kind is not MetricKind.FAIRNESS_GAP]
        gaps = [item.of for item in experiment.deciding if item.kind is MetricKind.FAIRNESS_GAP and item.of]
        index = [history.metrics.index(name) for name in dict.fromkeys([*wanted, *gaps])]
        kept = history.with_values(
            metrics=tuple(history.metrics[i] for i in index),
            kinds=tuple(history.kinds[i] for i in index),
            delayed=tuple(history.delayed[i] for i in index),
            numerator=history.numerator[index],
            denominator=history.denominator[index],
        )
        split = np.array([weights(stage.percent) for stage in experiment.stages], dtype=float) / TOTAL_WEIGHT
        looks = tuple(
            looks_of(stage.soak, stage.timeout, experiment.look_every) for stage in experiment.stages
        )
        return cls(deciding, kept, split[:, 0], split[:, 2], arms_of(experiment, kept), looks)

    @property
    def real_looks(self) -> tuple[int, ...]:
        """How many looks each stage would have in production, at most."""
        return tuple(int(looks[-1]) for looks in self.looks)
