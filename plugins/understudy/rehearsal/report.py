"""What a rehearsal found, with Monte-Carlo error, and whether the spec's ceilings are met."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import bdtr, betaincinv

from understudy.rehearsal.history import Floats
from understudy.rehearsal.ladder import Ending, Endings
from understudy.rehearsal.worlds import Shape, Truth, World
from understudy.spec import Experiment, Risk

__all__ = [
    "CONFIDENCE",
    "RULE",
    "Ceiling",
    "Delay",
    "Report",
    "Share",
    "WorldResult",
    "ceilings_of",
    "found_in",
]

CONFIDENCE = 0.95
RULE = (
    "A ceiling is met only if the upper 95 % bound of the simulated figure is below it, in the worst of its worlds: exact "
    "binomial for shares, order statistics for medians, the normal one for means. A figure that is unknown is not met."
)


@dataclass(frozen=True)
class Share:
    """A share of simulated runs.

    Attributes:
        count: so many runs.
        of: of so many.
        value: the share.
        se: its Monte-Carlo standard error.
        lower: exact one-sided 95 % bound (Clopper, Pearson 1934).
        upper: the same from above.
    """

    count: int
    of: int
    value: float
    se: float
    lower: float
    upper: float

    @classmethod
    def of_runs(cls, count: int, of: int) -> Share:
        """Return the share of ``count`` in ``of`` runs, of which there is at least one."""
        share = count / of
        lower = 0.0 if count == 0 else float(betaincinv(count, of - count + 1, 1 - CONFIDENCE))
        upper = 1.0 if count == of else float(betaincinv(count + 1, of - count, CONFIDENCE))
        return cls(count, of, share, math.sqrt(share * (1 - share) / of), lower, upper)


@dataclass(frozen=True)
class Delay:
    """How long something took, over all runs; a run in which it never happened took for ever.

    Attributes:
        median: half of the runs took at most this; None: it never happened in half of them.
        nine_tenths: the same for nine in ten.
        median_upper: upper 95 % bound of the median; None: there is none.
    """

    median: float | None
    nine_tenths: float | None
    median_upper: float | None

    @classmethod
    def of_runs(cls, values: Floats) -> Delay:
        """Return the delay; ``values`` holds infinity where it never happened."""
        ordered = np.sort(values)
        n = len(ordered)
        ranks = np.arange(n + 1)
        # The value of rank k (from 1) bounds the median from above when at least k of n coins fall short of it.
        bound = int(np.searchsorted(bdtr(ranks - 1, n, 0.5), CONFIDENCE)) if n else 0
        return cls(
            _at(ordered, math.ceil(0.5 * n)), _at(ordered, math.ceil(0.9 * n)), _at(ordered, max(bound, 1))
        )


@dataclass(frozen=True)
class WorldResult:
    """What happened in one world.

    Attributes:
        world: the world.
        promoted: runs that promoted the challenger.
        rolled_back: runs that claimed harm or unsound evidence.
        undecided: all other runs; the challenger is not promoted and exposure ends.
        endings: runs by ending.
        stages: runs by the stage that they ended in, from the first.
        detection_seconds: time from first exposure until harm was claimed.
        detection_events: requests of both arms until then.
        detection_units: units that had seen the challenger by then.
        exposed_units: mean of the units that had seen the challenger when the run ended; for a promotion, everyone.
        exposed_units_se: its Monte-Carlo standard error.
        promotion_seconds: time from first exposure to promotion.
    """

    world: World
    promoted: Share
    rolled_back: Share
    undecided: Share
    endings: Mapping[str, int]
    stages: tuple[int, ...]
    detection_seconds: Delay
    detection_events: Delay
    detection_units: Delay
    exposed_units: float
    exposed_units_se: float
    promotion_seconds: Delay

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self) | {
            "world": self.world.to_dict(),
            "endings": dict(self.endings),
            "stages": list(self.stages),
        }


def found_in(world: World, endings: Endings, population: float, stages: int) -> WorldResult:
    """Summarise the runs of one world.

    Args:
        world: The world.
        endings: How each run ended.
        population: Units there are in all; a promoted challenger reaches them all.
        stages: Stages of the ladder.
    """
    n = len(endings.ending)
    promoted, claimed = endings.ending == Ending.PROMOTED, endings.ending == Ending.ROLLED_BACK
    exposed = np.where(promoted, np.maximum(endings.units, population), endings.units)
    return WorldResult(
        world,
        Share.of_runs(int(promoted.sum()), n),
        Share.of_runs(int(claimed.sum()), n),
        Share.of_runs(int((~promoted & ~claimed).sum()), n),
        {code.name.lower(): int((endings.ending == code).sum()) for code in Ending},
        tuple(int((endings.stage == stage).sum()) for stage in range(1, stages + 1)),
        Delay.of_runs(np.where(claimed, endings.seconds, np.inf)),
        Delay.of_runs(np.where(claimed, endings.events, np.inf)),
        Delay.of_runs(np.where(claimed, endings.units, np.inf)),
        float(exposed.mean()),
        float(exposed.std(ddof=1) / math.sqrt(n)) if n > 1 else 0.0,
        Delay.of_runs(np.where(promoted, endings.seconds, np.inf)),
    )


@dataclass(frozen=True)
class Ceiling:
    """One ceiling of the spec and what the rehearsal says about it.

    Attributes:
        name: field of ``risk``.
        limit: the ceiling.
        value: the worst figure; None if unknown.
        bound: its upper Monte-Carlo bound; None if there is none.
        world: where it was the worst.
        met: whether the bound is below the ceiling.
        sentence: the same in words.
    """

    name: str
    limit: float
    value: float | None
    bound: float | None
    world: str | None
    met: bool
    sentence: str


@dataclass(frozen=True)
class Report:
    """A whole rehearsal.

    Attributes:
        experiment: name of the experiment.
        spec_digest: digest of the spec.
        history: summary of the history.
        replicates: runs per world.
        looks: per stage, looks rehearsed and looks there are at most.
        worlds: what happened in each world.
        ceilings: the ceilings declared; empty if there are none.
        fix: the smallest change that meets the ceilings, if one was looked for.
        seconds: how long it took.
    """

    experiment: str
    spec_digest: str
    history: Mapping[str, Any]
    replicates: int
    looks: tuple[tuple[int, int], ...]
    worlds: tuple[WorldResult, ...]
    ceilings: tuple[Ceiling, ...] = ()
    fix: Mapping[str, Any] | None = None
    seconds: float = 0.0

    @property
    def met(self) -> bool:
        """Whether every declared ceiling is met."""
        return all(ceiling.met for ceiling in self.ceilings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, the same as comes back from JSON."""
        content = {
            "experiment": self.experiment,
            "spec_digest": self.spec_digest,
            "history": dict(self.history),
            "replicates": self.replicates,
            "looks": [{"rehearsed": rehearsed, "real": real} for rehearsed, real in self.looks],
            "rule": RULE,
            "worlds": [world.to_dict() for world in self.worlds],
            "ceilings": [asdict(ceiling) for ceiling in self.ceilings],
            "met": self.met,
            "fix": None if self.fix is None else dict(self.fix),
            "seconds": self.seconds,
        }
        return json.loads(json.dumps(content, allow_nan=False))  # type: ignore[no-any-return]


def ceilings_of(experiment: Experiment, worlds: Sequence[WorldResult]) -> tuple[Ceiling, ...]:
    """Hold what was found against the ceilings that the spec declares."""
    if experiment.risk is None:
        return ()
    return tuple(
        _judged(name, float(limit), _figures(name, worlds))
        for name in Risk.model_fields
        if name in _WORDS and (limit := getattr(experiment.risk, name)) is not None
    )


_WORDS = {
    "false_promotion": "A challenger with a margin of harm is promoted in {} of the runs",
    "false_rollback": "A challenger that is no worse is rolled back in {} of the runs",
    "missed_harm": "A challenger with twice a margin of harm is promoted in {} of the runs",
    "harmed_units": "Twice a margin of harm reaches {} units on average before it is over",
    "detection": "Half of the runs find twice a margin of harm within {}",
    "promotion": "Half of the runs promote the hoped-for gain within {}",
}

_Figure = tuple[str, float | None, float | None]


def _figures(name: str, worlds: Sequence[WorldResult]) -> list[_Figure]:
    """Return (world, value, upper bound) of every world that a ceiling is about."""
    picked = [found for found in worlds if concerns(name, found.world)]
    if name in ("false_promotion", "missed_harm"):
        return [(found.world.name, found.promoted.value, found.promoted.upper) for found in picked]
    if name == "false_rollback":
        return [(found.world.name, found.rolled_back.value, found.rolled_back.upper) for found in picked]
    if name == "harmed_units":
        return [
            (found.world.name, found.exposed_units, found.exposed_units + 1.645 * found.exposed_units_se)
            for found in picked
        ]
    delays = [
        (found.world.name, found.detection_seconds if name == "detection" else found.promotion_seconds)
        for found in picked
    ]
    return [(world, delay.median, delay.median_upper) for world, delay in delays]


def concerns(name: str, world: World) -> bool:
    """Tell whether a ceiling is about a world.

    Harm in one cohort counts for missed harm, not for detection and harmed units: the cohort's own traffic is a part.
    Outages count for nothing: ending a run that nobody can see is right.
    """
    everyone = all(effect.cohort is None for effect in world.effects)
    if name == "false_promotion":
        return world.truth is Truth.HARM
    if name == "missed_harm":
        return world.truth is Truth.HARM and world.times_margin >= 2
    if name in ("harmed_units", "detection"):
        return world.truth is Truth.HARM and world.times_margin >= 2 and everyone
    if name == "false_rollback":
        return world.truth is not Truth.HARM and world.shape is not Shape.OUTAGES
    return world.truth is Truth.GAIN


def _judged(name: str, limit: float, figures: list[_Figure]) -> Ceiling:
    """Take the worst world; a ceiling without a world, or without a figure, is not met."""
    if not figures:
        sentence = f"{name}: no world of the rehearsal is about it, so it is not met."
        return Ceiling(name, limit, None, None, None, False, sentence)
    world, value, bound = max(figures, key=lambda figure: math.inf if figure[2] is None else figure[2])
    met = bound is not None and bound < limit
    shown = "no time: most never do" if value is None else _shown(name, value)
    upto = "an unknown number" if bound is None else _shown(name, bound)
    sentence = (
        f"{_WORDS[name].format(shown)} (at most {upto}; worst where {world.replace('_', ' ')}), and the ceiling is "
        f"{_shown(name, limit)}{'' if met else ': missed'}."
    )
    return Ceiling(name, limit, value, bound, world, met, sentence)


def _shown(name: str, value: float) -> str:
    if name in ("false_promotion", "false_rollback", "missed_harm"):
        return f"{value:.1%}"
    return f"{value:,.0f}" + (" s" if name in ("detection", "promotion") else "")


def _at(ordered: Floats, rank: int) -> float | None:
    """Return the value of a rank from 1; None where it is infinite or there is none."""
    if not 1 <= rank <= len(ordered):
        return None
    value = float(ordered[rank - 1])
    return value if math.isfinite(value) else None
