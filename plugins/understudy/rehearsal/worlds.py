"""The worlds that a policy is rehearsed in: what is true of the challenger there, and what the traffic is like."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.rehearsal.history import History
from understudy.spec import Experiment

__all__ = ["Effect", "Shape", "Truth", "World", "reshaped", "worlds_of"]

AUTOCORRELATION = 0.3
"""Lag-1 correlation of a unit's successive events in the autocorrelated world."""
HEAVY_SIGMA = 1.5
"""Spread of the lognormal factor of the heavy-tailed world (mean one)."""
MERGED = 5
"""So many units become one in the world of repeating units."""
LATE_SHARE = 0.5
"""Share of labels that are late in the world of late labels; the costlier half of the events."""
LATE_FACTOR = 4.0
"""How many times as long they take."""


class Truth(StrEnum):
    """What the challenger really is."""

    SAME = "same"
    HARM = "harm"
    GAIN = "gain"


class Shape(StrEnum):
    """What the traffic is like."""

    AS_RECORDED = "as_recorded"
    HEAVY_TAILED = "heavy_tailed"
    REPEATING = "repeating"
    AUTOCORRELATED = "autocorrelated"
    LATE_LABELS = "late_labels"
    OUTAGES = "outages"


@dataclass(frozen=True)
class Effect:
    """How the challenger differs in one metric.

    Attributes:
        metric: the metric.
        size: true difference on the harm scale (positive: worse) of those whom it concerns.
        cohort: the one cohort that it concerns; None for everyone.
        inside: whether it concerns those in the cohort, or all others.
    """

    metric: str
    size: float
    cohort: str | None = None
    inside: bool = True


@dataclass(frozen=True)
class World:
    """One world.

    Attributes:
        name: stable name.
        sentence: what is so in it, for people.
        truth: what the challenger is.
        times_margin: the harm in margins; 0 without harm.
        effects: how the challenger differs.
        shape: what the traffic is like.
    """

    name: str
    sentence: str
    truth: Truth
    times_margin: float = 0.0
    effects: tuple[Effect, ...] = ()
    shape: Shape = Shape.AS_RECORDED

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self) | {"truth": self.truth.value, "shape": self.shape.value}


_NULLS = (
    ("no_effect", "The challenger answers exactly as well as the champion.", Shape.AS_RECORDED),
    ("heavy_tails", "No difference; a few events count for most of every sum.", Shape.HEAVY_TAILED),
    ("repeating_units", f"No difference; {MERGED} times fewer units come {MERGED} times as often.", Shape.REPEATING),
    ("autocorrelation", f"No difference; a unit's next event resembles its last ({AUTOCORRELATION:g}).", Shape.AUTOCORRELATED),
    ("late_labels", f"No difference; the costlier half of the outcomes takes {LATE_FACTOR:g} times as long.", Shape.LATE_LABELS),
    ("outages", "No difference; traffic stops for a while, and later both arms answer with no numbers.", Shape.OUTAGES),
)  # fmt: skip


def worlds_of(experiment: Experiment, history: History) -> tuple[World, ...]:
    """Return the worlds of an experiment: none, harm at and at twice each margin, harm in one cohort, the hoped-for gain.

    Where a guardrail is harmed the primary gains what is hoped for: such a challenger is tempting, and one that gains
    nothing would not be promoted anyway.

    Args:
        experiment: The spec.
        history: The champion's past; it names the cohorts and their sizes.
    """
    primary = experiment.primary
    margin = float(primary.margin or 0.0)
    hoped = experiment.risk.hoped_gain if experiment.risk and experiment.risk.hoped_gain else margin
    gain = Effect(primary.name, -hoped)
    found = [World(name, sentence, Truth.SAME, shape=shape) for name, sentence, shape in _NULLS]
    for metric in experiment.deciding:
        if metric.name not in history.metrics or metric.margin is None:
            continue
        for times, word in ((1.0, "exactly its margin"), (2.0, "twice its margin")):
            harm = Effect(metric.name, times * metric.margin)
            tempting = metric.name != primary.name and primary.name in history.metrics
            sentence = f"{metric.name} is worse by {word}, {harm.size:g}"
            sentence += f", while {primary.name} gains {hoped:g}." if tempting else "."
            effects = (harm, gain) if tempting else (harm,)
            found.append(World(f"harm_{metric.name}_{times:g}x", sentence, Truth.HARM, times, effects))
    cohort = _largest_cohort(history)
    if primary.name not in history.metrics:
        return tuple(found)
    if cohort is not None:
        sentence = f"{primary.name} is worse by twice its margin, {2 * margin:g}, in {cohort}, and gains {hoped:g} elsewhere."
        effects = (
            Effect(primary.name, 2 * margin, cohort),
            Effect(primary.name, -hoped, cohort, inside=False),
        )
        found.append(World("harm_in_one_cohort", sentence, Truth.HARM, 2.0, effects))
    found.append(
        World(
            "hoped_gain", f"{primary.name} is better by the hoped-for {hoped:g}.", Truth.GAIN, effects=(gain,)
        )
    )
    return tuple(found)


def _largest_cohort(history: History) -> str | None:
    """Return the cohort with the most events that is not nearly everyone."""
    if not history.cohorts:
        return None
    size = np.bincount(history.combination, minlength=history.member.shape[0]) @ history.member
    share = size / max(len(history.at), 1)
    size = np.where(share <= 0.6, size, -1.0)
    return history.cohorts[int(size.argmax())] if size.max() > 0 else None


def reshaped(history: History, shape: Shape, rng: np.random.Generator) -> History:
    """Return the history as it would be in a world of another shape; the averages stay what they were (nearly).

    Args:
        history: The champion's past.
        shape: The shape. Outages are made in the traffic, not here.
        rng: Source of chance.
    """
    if shape is Shape.HEAVY_TAILED:
        return _heavy(history, rng)
    if shape is Shape.REPEATING:
        return _merged(history)
    if shape is Shape.AUTOCORRELATED:
        return _autocorrelated(history, rng)
    if shape is Shape.LATE_LABELS:
        return _late(history, rng)
    return history


def _heavy(history: History, rng: np.random.Generator) -> History:
    """Multiply every event of real-valued metrics by a lognormal factor; give indicators to a few units.

    An indicator cannot be multiplied, so its ones are dealt out again, most of them to few units.
    """
    factor = np.exp(HEAVY_SIGMA * rng.standard_normal(len(history.at)) - HEAVY_SIGMA**2 / 2)
    weight = np.exp(HEAVY_SIGMA * rng.standard_normal(history.units))[history.unit]
    numerator = history.numerator.copy()
    for metric in range(len(history.metrics)):
        before = numerator[metric].sum()
        if history.indicator(metric):
            numerator[metric] = _dealt(numerator[metric], history.denominator[metric], weight, rng)
            continue
        numerator[metric] *= factor
        after = numerator[metric].sum()
        if after != 0:  # the sample mean of the factors is not exactly one
            numerator[metric] *= before / after
    return history.with_values(numerator=numerator)


def _dealt(
    ones: NDArray[np.float64],
    counted: NDArray[np.float64],
    weight: NDArray[np.float64],
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """Deal the same number of ones out again, in proportion to weights."""
    wanted = round(float(ones.sum()))
    able = np.flatnonzero(counted > 0)
    if wanted == 0 or wanted >= len(able):
        return ones
    # Gumbel's trick: the largest of log weight plus Gumbel noise are a weighted draw without replacement.
    keys = np.log(weight[able]) + rng.gumbel(size=len(able))
    dealt = np.zeros_like(ones)
    dealt[able[np.argpartition(-keys, wanted)[:wanted]]] = 1.0
    return dealt


def _merged(history: History) -> History:
    """Let every few alike units be one, so that the same traffic comes from fewer of them."""
    _, place, first, _ = history.peers
    group = (place - first) // MERGED + first  # never across groups: cohorts stay what they were
    _, merged = np.unique(group[history.unit], return_inverse=True)
    return history.with_values(unit=merged.astype(np.int64))


def _autocorrelated(history: History, rng: np.random.Generator) -> History:
    """Let a unit's event repeat its last one with a chance, which gives exactly that lag-1 correlation."""
    path = history.path
    unit = history.unit[path]
    place = np.arange(len(path))
    fresh = rng.random(len(path)) >= AUTOCORRELATION
    fresh[0:1] = True
    fresh[1:] |= unit[1:] != unit[:-1]
    source = path[np.maximum.accumulate(np.where(fresh, place, 0))]
    numerator, denominator = history.numerator.copy(), history.denominator.copy()
    numerator[:, path] = history.numerator[:, source]
    denominator[:, path] = history.denominator[:, source]
    return history.with_values(numerator=numerator, denominator=denominator)


def _late(history: History, rng: np.random.Generator) -> History:
    """Let the costlier half of the outcomes be late: what is late is rarely a fair sample."""
    waiting = [index for index, waits in enumerate(history.delayed) if waits]
    if not waiting:
        return history
    cost = history.numerator[waiting[0]] + 1e-9 * rng.random(len(history.at))
    late = cost >= np.quantile(cost, 1 - LATE_SHARE)
    return history.with_values(delay=np.where(late, LATE_FACTOR * history.delay, history.delay))
