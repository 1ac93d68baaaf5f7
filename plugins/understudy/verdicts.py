"""The four verdicts and how they fold into one.

``INCONCLUSIVE`` (the data does not decide) and ``ERROR`` (could not measure) are answers of their own. Neither is
success and neither is failure, and only ``PASS`` may ever raise exposure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

__all__ = ["Outcome", "Verdict", "worst_of"]


class Outcome(StrEnum):
    """What a judgement came to."""

    PASS = "PASS"  # noqa: S105 - not a password
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    FAIL = "FAIL"


_SEVERITY = {Outcome.PASS: 0, Outcome.INCONCLUSIVE: 1, Outcome.ERROR: 2, Outcome.FAIL: 3}


@dataclass(frozen=True)
class Verdict:
    """One judgement with its reason and the numbers behind it.

    Attributes:
        outcome: The judgement.
        reason: Stable code of the reason, for machines.
        sentence: The reason in words a product manager understands.
        evidence: JSON-safe numbers behind it.
        metric: The metric judged, if it is about one.
        cohort: The cohort judged, ``"all"`` for everyone.
        parts: The judgements this one was folded from.
        change: What would change it, in the same words; empty where nobody said.
    """

    outcome: Outcome
    reason: str
    sentence: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    metric: str | None = None
    cohort: str | None = None
    parts: tuple[Verdict, ...] = ()
    change: str = ""

    @property
    def passed(self) -> bool:
        """Whether the judgement is ``PASS``."""
        return self.outcome is Outcome.PASS

    def to_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON-safe data."""
        return {
            "outcome": self.outcome.value,
            "reason": self.reason,
            "sentence": self.sentence,
            "evidence": dict(self.evidence),
            "metric": self.metric,
            "cohort": self.cohort,
            "parts": [part.to_dict() for part in self.parts],
            "change": self.change,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Verdict:
        """Rebuild a verdict from :meth:`to_dict`, also one that was stored before verdicts said what would change them."""
        return cls(
            outcome=Outcome(data["outcome"]),
            reason=data["reason"],
            sentence=data["sentence"],
            evidence=dict(data["evidence"]),
            metric=data["metric"],
            cohort=data["cohort"],
            parts=tuple(cls.from_dict(part) for part in data["parts"]),
            change=data.get("change", ""),
        )


def worst_of(parts: Iterable[Verdict], passed: str) -> Verdict:
    """Fold several verdicts into the worst of them.

    Args:
        parts: The verdicts to fold.
        passed: The sentence when every one of them is ``PASS``.

    Returns:
        A verdict with the worst outcome, in the order PASS, INCONCLUSIVE, ERROR, FAIL. Nothing to fold is an
        ``ERROR``: no evidence never passes.
    """
    folded = tuple(parts)
    if not folded:
        sentence = "Nothing was measured, so nothing can be decided."
        return Verdict(Outcome.ERROR, "nothing_measured", sentence, change="Anything that can be measured.")
    worst = max(folded, key=lambda part: _SEVERITY[part.outcome])
    if worst.passed:
        change = " ".join(dict.fromkeys(part.change for part in folded if part.change))
        return Verdict(Outcome.PASS, "all_passed", passed, parts=folded, change=change)
    return Verdict(
        worst.outcome,
        worst.reason,
        worst.sentence,
        evidence=worst.evidence,
        metric=worst.metric,
        cohort=worst.cohort,
        parts=folded,
        change=worst.change,
    )
