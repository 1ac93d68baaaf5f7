"""Counts of a run that only ever grow, and the quality block of a look made from them."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from understudy.events.query import ARMS
from understudy.stats.evidence import ArmQuality, Quality, StageUnits
from understudy.stats.srm import Split

__all__ = ["KEPT_TIMES", "ArmCounts", "Counters", "Ripeness", "newest_times", "split_parts", "watermark"]

KEPT_TIMES = 100
"""Distinct event times that are remembered, the newest."""

_TENTH = 10
Shares = Mapping[int, Mapping[str, float]]


@dataclass
class ArmCounts:
    """Counts of one arm.

    Attributes:
        events: served events.
        errors: answered with an error, or with something that is no number.
        fallbacks: answered by the champion in the arm's place.
        non_finite: predictions that were neither a finite number nor an error.
        units: distinct units over all stages.
        answered: events whose outcome was told, ripe or not.
        settled: ripe events that nothing more is expected of.
        labelled: those of them that had an outcome.
    """

    events: int = 0
    errors: int = 0
    fallbacks: int = 0
    non_finite: int = 0
    units: int = 0
    answered: int = 0
    settled: int = 0
    labelled: int = 0


@dataclass(frozen=True)
class Ripeness:
    """How one arm's events stand at a look: ripe and not settled, ripe with an outcome and not settled before."""

    waiting: tuple[int, int]
    labelled: tuple[int, int]


@dataclass
class Counters:
    """Counts of a run, stored with every increment so that a new process can go on from them.

    Attributes:
        arms: counts of control and challenger.
        stages: units of control, of challenger, and in both, per stage.
        splits: units per arm for each part of the ladder whose shares are in one proportion, with its stages.
        left_out: events that count nowhere, by reason: "unit", "skew", "arm", "version".
        duplicates: repeated event ids among the requests of its two arms.
        repeated_outcomes: further lines for an event whose outcome was told already.
        outcomes_before_event: outcomes that occurred before their event.
        non_finite_outcomes: lines with an outcome or value that is not a finite number.
        newest_received_at: wall clock of the run's newest request.
    """

    arms: tuple[ArmCounts, ArmCounts] = field(default_factory=lambda: (ArmCounts(), ArmCounts()))
    stages: dict[int, list[int]] = field(default_factory=dict)
    splits: dict[int, tuple[list[int], list[int]]] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    duplicates: int = 0
    repeated_outcomes: int = 0
    outcomes_before_event: int = 0
    non_finite_outcomes: int = 0
    newest_received_at: float | None = None

    def copy(self) -> Counters:
        """Return a copy that can be counted on."""
        return copy.deepcopy(self)

    def stage(self, stage: int) -> list[int]:
        """Return the counts of a stage, to be changed."""
        return self.stages.setdefault(stage, [0, 0, 0])

    def split(self, part: int, stages: Iterable[int] = ()) -> list[int]:
        """Return the counts of a part of the ladder, to be changed, and note stages that were seen in it."""
        members, counts = self.splits.setdefault(part, ([], [0, 0]))
        members[:] = sorted({*members, *stages})
        return counts

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        content = dict(vars(self))
        content["arms"] = [dict(vars(arm)) for arm in self.arms]
        content["stages"] = {str(stage): counts for stage, counts in self.stages.items()}
        content["splits"] = {str(part): [list(side) for side in both] for part, both in self.splits.items()}
        return content

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Counters:
        """Rebuild what `to_dict` returned."""
        control, challenger = (ArmCounts(**arm) for arm in data["arms"])
        parts: dict[str, Any] = {
            "arms": (control, challenger),
            "stages": {int(stage): list(counts) for stage, counts in data["stages"].items()},
            "splits": {int(part): (list(both[0]), list(both[1])) for part, both in data["splits"].items()},
            "left_out": dict(data["left_out"]),
        }
        return cls(**{**data, **parts})

    def quality(self, shares: Shares, ripe: Ripeness, **more: Any) -> Quality:
        """Return the quality block of a look.

        Args:
            shares: planned shares per stage.
            ripe: how events stand at this look.
            more: fields of the block that are not counted here.
        """
        arms = [self._arm(index, ripe) for index in range(2)]
        stages = tuple(_stage_units(stage, self.stages[stage], shares) for stage in sorted(self.stages))
        return Quality(
            control=arms[0],
            challenger=arms[1],
            stages=stages,
            splits=tuple(self._splits(shares)),
            multi_arm_units=sum(stage.both for stage in stages),
            without_unit=self.left_out.get("unit", 0),
            skewed=self.left_out.get("skew", 0),
            unknown_arms=self.left_out.get("arm", 0),
            wrong_version=self.left_out.get("version", 0),
            duplicates=self.duplicates,
            repeated_outcomes=self.repeated_outcomes,
            outcomes_before_event=self.outcomes_before_event,
            non_finite_outcomes=self.non_finite_outcomes,
            newest_received_at=self.newest_received_at,
            **more,
        )

    def _arm(self, index: int, ripe: Ripeness) -> ArmQuality:
        arm = self.arms[index]
        matured, labelled = arm.settled + ripe.waiting[index], arm.labelled + ripe.labelled[index]
        return ArmQuality(
            units=arm.units,
            events=arm.events,
            matured=matured,
            labelled=labelled,
            missing=matured - labelled,
            early=arm.answered - labelled,
            errors=arm.errors,
            fallbacks=arm.fallbacks,
            non_finite=arm.non_finite,
        )

    def _splits(self, shares: Shares) -> Iterator[Split]:
        for part in sorted(self.splits):
            members, counts = self.splits[part]
            planned = tuple(float(shares[part][arm]) for arm in ARMS) if part in shares else (0.0, 0.0)
            yield Split(tuple(members), tuple(counts), planned)


def split_parts(shares: Shares) -> dict[int, int]:
    """Return the part of the ladder that each planned stage belongs to, named by its first stage.

    Units stay in their arm while a ladder grows in one proportion, so counting them again at each stage would count one
    coincidence again and again. A stage that nobody planned is a part of its own.
    """
    parts: dict[int, int] = {}
    before: tuple[float, int] | None = None
    for stage in sorted(shares):
        total = sum(float(shares[stage][arm]) for arm in ARMS)
        proportion = float(shares[stage]["challenger"]) / total if total > 0 else -1.0
        if before is None or abs(before[0] - proportion) >= 1e-9:
            before = (proportion, stage)
        parts[stage] = before[1]
    return parts


def newest_times(known: Sequence[float], found: Iterable[float]) -> tuple[float, ...]:
    """Return the newest distinct event times, newest first."""
    return tuple(sorted({*known, *found}, reverse=True)[:KEPT_TIMES])


def watermark(times: Sequence[float]) -> float | None:
    """Return the event time up to which the world has moved on.

    It is the newest event time but for a tenth of the distinct ones, at most nine, so that a few wild times of the
    future do not declare everything ripe; it works for replayed traffic, where no clock says what is wild.

    Args:
        times: the newest distinct event times, newest first; all of them while there are fewer than a hundred.
    """
    if not times:
        return None
    return times[min(_TENTH, math.ceil(len(times) / _TENTH)) - 1]


def _stage_units(stage: int, counts: Sequence[int], shares: Shares) -> StageUnits:
    planned = [float(shares[stage][arm]) if stage in shares else None for arm in ARMS]
    return StageUnits(stage, counts[0], counts[1], planned[0], planned[1], counts[2])
