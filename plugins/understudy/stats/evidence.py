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
        duplicates: repeated event ids among the run's requests and their outcomes; the first received counts.
        newest_received_at: wall clock of the run's newest request, any arm; None without one.
        watermark: newest event time of the run, any arm; None without an event.
        torn_lines: unfinished last lines of segments.
        invalid_lines: complete lines that are no event.
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

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return json.loads(json.dumps(asdict(self), allow_nan=False))  # type: ignore[no-any-return]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Quality:
        """Rebuild what `to_dict` returned."""
        splits = tuple(
            Split(tuple(s["stages"]), tuple(s["counts"]), tuple(s["shares"])) for s in data["splits"]
        )
        parts = {
            "control": ArmQuality(**data["control"]),
            "challenger": ArmQuality(**data["challenger"]),
            "stages": tuple(StageUnits(**stage) for stage in data["stages"]),
            "splits": splits,
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
    """

    model: str
    run_id: str
    looked_at: float
    cells: Cells
    quality: Quality

    def cell(self, metric: str, cohort: str = ALL) -> Cell:
        """Return one cell; KeyError if there is none."""
        index = self.cells.index(metric, cohort)
        if index is None:
            raise KeyError((metric, cohort))
        return self.cells.row(index)

    @property
    def digest(self) -> str:
        """SHA-256 of the evidence, floats rounded to nine significant digits.

        The time of the look and the state of the files (torn and invalid lines) are left out: the same events
        give the same digest whenever they are read.
        """
        content: dict[str, Any] = {
            "model": self.model,
            "run_id": self.run_id,
            "cells": [cell.to_dict() for cell in self.cells],
        }
        quality = self.quality.to_dict()
        content["quality"] = {k: v for k, v in quality.items() if k not in ("torn_lines", "invalid_lines")}
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
            "digest": self.digest,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Evidence:
        """Rebuild what `to_dict` returned.

        Raises:
            ValueError: the stored digest does not belong to the stored numbers.
        """
        cells = Cells.stack([Cell.from_dict(cell) for cell in data["cells"]])
        found = cls(
            data["model"], data["run_id"], data["looked_at"], cells, Quality.from_dict(data["quality"])
        )
        if data.get("digest", found.digest) != found.digest:
            raise ValueError(
                f"digest is {data['digest']}, but the numbers give {found.digest}: they were changed"
            )
        return found


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
