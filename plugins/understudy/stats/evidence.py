"""Evidence: the numbers of one look, from which every decision can be made again.

It is plain data. Collecting it from the event log is the business of `understudy.events.evidence`; judging it
is the policy's. Nothing here touches a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from understudy.stats.cells import ALL, Cell, Cells
from understudy.stats.histogram import LogHistogram
from understudy.stats.srm import Split, SplitTest, sequential_srm

__all__ = ["ArmQuality", "Evidence", "Quality", "StageUnits", "split_test"]


@dataclass(frozen=True)
class StageUnits:
    """Distinct units per arm in one stage, the planned shares, and units that were seen in both arms of the stage."""

    stage: int
    control: int
    challenger: int
    control_share: float | None
    challenger_share: float | None
    both: int


@dataclass(frozen=True)
class ArmQuality:
    """What happened to one arm's events.

    Attributes:
        units: distinct units over all stages.
        events: served events.
        matured: events old enough for their outcome to be known.
        labelled: matured events with an outcome.
        missing: matured events without one (cancelled, lost).
        early: events with an outcome that are not counted yet, because younger ones without it are not known
            to be lost.
        errors: events answered with an error, or with something that is not a number.
        fallbacks: events answered by the champion in the arm's place.
        non_finite: predictions that were neither a finite number nor an error.
    """

    units: int = 0
    events: int = 0
    matured: int = 0
    labelled: int = 0
    missing: int = 0
    early: int = 0
    errors: int = 0
    fallbacks: int = 0
    non_finite: int = 0


@dataclass(frozen=True)
class Quality:
    """Is the evidence itself sound?

    Attributes:
        control: counts of the control arm.
        challenger: counts of the challenger arm.
        stages: units per stage.
        splits: unit counts for the sample-ratio test, one entry per proportion of shares.
        multi_arm_units: units seen in both arms within one stage.
        without_unit: events of either arm that name no unit; they count nowhere.
        duplicates: repeated event ids among the requests of both arms; the first received counts.
        newest_received_at: wall clock of the run's newest request, any arm; None without one.
        watermark: event time up to which the world has moved on, any arm: the newest but for a few that may be wild;
            None without an event.
        torn_lines: unfinished last lines of segments.
        invalid_lines: complete lines that are no event.
        skewed: events of either arm whose event time is more than five minutes after their receipt; they count nowhere.
        unknown_arms: events of an arm that does not exist; they count nowhere.
        wrong_version: events answered by another version than their arm's, and no fallback; they count nowhere.
        repeated_outcomes: further outcomes of events whose outcome was told already.
        outcomes_before_event: events whose outcome occurred before them; it does not count.
        non_finite_outcomes: outcomes with a number that is not finite; that number does not count.
        without_value: per metric that needs an outcome, ripe events that it could not count: nothing was told, too late,
            or without the number that it reads.
        units_without_value: per metric that counts units, units with ripe events of which none has a value.
        out_of_scale: metrics whose values are a thousand times as large in one arm as in the other.
        lost_segments: segments that are gone or shorter than what was counted from them.
    """

    control: ArmQuality = field(default_factory=ArmQuality)
    challenger: ArmQuality = field(default_factory=ArmQuality)
    stages: tuple[StageUnits, ...] = ()
    splits: tuple[Split, ...] = ()
    multi_arm_units: int = 0
    without_unit: int = 0
    duplicates: int = 0
    newest_received_at: float | None = None
    watermark: float | None = None
    torn_lines: int = 0
    invalid_lines: int = 0
    skewed: int = 0
    unknown_arms: int = 0
    wrong_version: int = 0
    repeated_outcomes: int = 0
    outcomes_before_event: int = 0
    non_finite_outcomes: int = 0
    without_value: Mapping[str, int] = field(default_factory=dict)
    units_without_value: Mapping[str, int] = field(default_factory=dict)
    out_of_scale: tuple[str, ...] = ()
    lost_segments: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Quality:
        """Rebuild what `to_dict` returned, also when an earlier Understudy wrote it and knew fewer fields."""
        splits = tuple(
            Split(tuple(s["stages"]), tuple(s["counts"]), tuple(s["shares"])) for s in data["splits"]
        )
        parts = {
            "control": ArmQuality(**data["control"]),
            "challenger": ArmQuality(**data["challenger"]),
            "stages": tuple(StageUnits(**stage) for stage in data["stages"]),
            "splits": splits,
            "out_of_scale": tuple(data.get("out_of_scale", ())),
        }
        return cls(**{**data, **parts})


@dataclass(frozen=True, eq=False)
class Evidence:
    """One look at one run.

    Attributes:
        model: registered model name.
        run_id: the run.
        looked_at: wall clock of the look; nothing received later is in it.
        cells: moments per metric and cohort; the overall cohort is "all", others "origin=JFK".
        quality: soundness of the evidence.
        seq: number of the last stored increment behind it; 0 where none was stored.
        latency: answer times in milliseconds of control and challenger; None where they were not gathered.
    """

    model: str
    run_id: str
    looked_at: float
    cells: Cells
    quality: Quality
    seq: int = 0
    latency: LogHistogram | None = None

    def cell(self, metric: str, cohort: str = ALL) -> Cell:
        """Return one cell; KeyError if there is none."""
        index = self.cells.index(metric, cohort)
        if index is None:
            raise KeyError((metric, cohort))
        return self.cells.row(index)

    @property
    def digest(self) -> str:
        """SHA-256 of the evidence, floats rounded to nine significant digits.

        The time of the look, its number and the state of the files (torn and invalid lines, lost segments) are left out:
        the same events give the same digest whenever they are read.
        """
        content: dict[str, Any] = {
            "model": self.model,
            "run_id": self.run_id,
            "cells": [cell.to_dict() for cell in self.cells],
        }
        quality = self.quality.to_dict()
        # What was added to the block later counts only where it says something, so that older digests stay true.
        content["quality"] = {
            name: value
            for name, value in quality.items()
            if name not in _OF_FILES and (value or name not in _LATER)
        }
        if self.latency is not None:
            content["latency"] = self.latency.to_dict()
        text = json.dumps(_rounded(content), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary with the digest."""
        return {
            "model": self.model,
            "run_id": self.run_id,
            "looked_at": self.looked_at,
            "cells": [cell.to_dict() for cell in self.cells],
            "quality": self.quality.to_dict(),
            "seq": self.seq,
            "latency": None if self.latency is None else self.latency.to_dict(),
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Rebuild what `to_dict` returned.

        Raises:
            ValueError: the stored digest does not belong to the stored numbers.
        """
        cells = Cells.stack([Cell.from_dict(cell) for cell in data["cells"]])
        latency = data.get("latency")
        found = cls(
            data["model"],
            data["run_id"],
            data["looked_at"],
            cells,
            Quality.from_dict(data["quality"]),
            data.get("seq", 0),
            None if latency is None else LogHistogram.from_dict(latency),
        )
        if data.get("digest", found.digest) != found.digest:
            raise ValueError(
                f"digest is {data['digest']}, but the numbers give {found.digest}: they were changed"
            )
        return found


_OF_FILES = ("torn_lines", "invalid_lines", "lost_segments")
_LATER = (
    "skewed", "unknown_arms", "wrong_version", "repeated_outcomes", "outcomes_before_event", "non_finite_outcomes",
    "without_value", "units_without_value", "out_of_scale",
)  # fmt: skip


def split_test(evidence: Evidence, alpha: float) -> SplitTest:
    """Return the sample-ratio test of the run so far."""
    return sequential_srm(evidence.quality.splits, alpha)


def _rounded(value: Any) -> Any:
    """Round every float so that the last digits, which depend on the machine, do not count."""
    if isinstance(value, float):
        return float(f"{value:.9g}") + 0.0
    if isinstance(value, Mapping):
        return {str(key): _rounded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(part) for part in value]
    return value
