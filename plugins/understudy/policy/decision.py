"""What goes into a decision and what comes out of it, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from understudy.stats.evidence import Evidence
from understudy.verdicts import Verdict

__all__ = ["Decision", "History", "Kind", "Look"]


class Kind(StrEnum):
    """What to do."""

    ADVANCE = "ADVANCE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True)
class History:
    """What the looks before this one left behind, within the same stage.

    Attributes:
        failures: looks in a row at which harm was proven.
        errors: looks in a row that could not measure.
        inconclusive: looks in a row, after the soak, that could not decide.
        spent_before: per metric with a budget, the bad answers that challengers of other runs gave within its window.
    """

    failures: int = 0
    errors: int = 0
    inconclusive: int = 0
    spent_before: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        counters = {"failures": self.failures, "errors": self.errors, "inconclusive": self.inconclusive}
        return counters | {
            "spent_before": {name: _finite(spent) for name, spent in self.spent_before.items()}
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> History:
        """Rebuild what `to_dict` returned."""
        spent = {name: _number(value) for name, value in data["spent_before"].items()}
        return cls(**{**data, "spent_before": spent})


@dataclass(frozen=True)
class Look:
    """Everything that one look at one stage is judged from. Two looks that are equal are judged alike.

    Attributes:
        evidence: the numbers; its "all" rows leave out the contained cohorts.
        stage: index of the stage, from 1.
        cohorts: the cohorts that were registered before exposure, like ``"origin=JFK"``; the contained ones too.
        seconds_in_stage: since the stage was entered.
        now: wall clock of the look, Unix seconds.
        contained: registered cohorts that were sent back to the champion by earlier looks.
        history: what the earlier looks of this stage left behind.
    """

    evidence: Evidence
    stage: int
    seconds_in_stage: float
    now: float
    cohorts: tuple[str, ...] = ()
    contained: tuple[str, ...] = ()
    history: History = field(default_factory=History)

    def to_dict(self, *, with_evidence: bool = True) -> dict[str, Any]:
        """Return a JSON-safe dictionary; of the evidence only the digest if it is kept elsewhere."""
        return {
            "evidence": self.evidence.to_dict() if with_evidence else {"digest": self.evidence.digest},
            "stage": self.stage,
            "seconds_in_stage": _finite(self.seconds_in_stage),
            "now": _finite(self.now),
            "cohorts": list(self.cohorts),
            "contained": list(self.contained),
            "history": self.history.to_dict(),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], evidence: Evidence | None = None) -> Look:
        """Rebuild what `to_dict` returned.

        Args:
            data: The stored look.
            evidence: The evidence, if only its digest was stored with the look.

        Raises:
            ValueError: the evidence is not the one that the look was judged from.
        """
        stored = data["evidence"]
        if evidence is None:
            evidence = Evidence.from_dict(stored)
        elif stored["digest"] != evidence.digest:
            raise ValueError(f"the look was judged from evidence {stored['digest']}, not {evidence.digest}")
        return cls(
            evidence=evidence,
            stage=int(data["stage"]),
            seconds_in_stage=_number(data["seconds_in_stage"]),
            now=_number(data["now"]),
            cohorts=tuple(data["cohorts"]),
            contained=tuple(data["contained"]),
            history=History.from_dict(data["history"]),
        )


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        kind: The action.
        verdict: The judgement behind it.
        renew_lease: Whether the evidence is fresh and sound enough to keep units exposed.
        contain: Cohorts to send back to the champion now; the rest goes on.
        history: What the next look of this stage must be given.
    """

    kind: Kind
    verdict: Verdict
    renew_lease: bool = False
    contain: tuple[str, ...] = ()
    history: History = field(default_factory=History)


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
