"""What is kept of a look, and the look decided again: the same inputs must give the same record, number by number."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from understudy.policy.decision import Decision, Kind, Look
from understudy.policy.doubt import Doubt
from understudy.policy.one_look import decide
from understudy.policy.ship import compare_online
from understudy.policy.words import number, plural
from understudy.spec import Experiment
from understudy.stats.cells import ALL
from understudy.stats.evidence import Evidence
from understudy.verdicts import Outcome, Verdict

__all__ = [
    "QUIET_COHORTS",
    "TOLERANCE",
    "Mismatch",
    "differences",
    "record_of",
    "reproduce",
    "reproduce_ship",
]

QUIET_COHORTS = "quiet_cohorts"
"""Reason of the part that stands for the judgements that a record leaves out."""

TOLERANCE = 1e-9
"""Relative difference that two machines may have in the last digits of one sum."""

_DOUBTFUL = {doubt.name.lower() for doubt in Doubt}


@dataclass(frozen=True)
class Mismatch:
    """One value that came out differently.

    Attributes:
        path: where in the verdict, like ``parts[3].evidence.lower``.
        recorded: what was stored; None if there was nothing.
        again: what it is now; None if there is nothing.
    """

    path: str
    recorded: Any
    again: Any

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return {"path": self.path, "recorded": self.recorded, "again": self.again}


def record_of(decision: Decision) -> Verdict:
    """Return what is kept of a decision: all of its verdict, unless the look only holds.

    A guard holds every few seconds for days, mostly with the same to say of every cohort. Such a look keeps what it says of
    everyone and of the evidence, and each cohort that is worse, harmed or in doubt. The other cohorts become one part: how
    many judgements for which reason, and a digest of what they say, which a replay has to meet too.
    """
    verdict = decision.verdict
    acts = decision.kind is not Kind.HOLD or bool(decision.contain)
    quiet = [part for part in verdict.parts if not acts and _is_quiet(part)]
    if not quiet:
        return verdict
    loud = tuple(part for part in verdict.parts if not _is_quiet(part))
    return replace(verdict, parts=(*loud, _summed(quiet)))


def _is_quiet(part: Verdict) -> bool:
    """Tell whether a judgement is on a cohort without proven harm, or on one that too little is known of yet."""
    thin = part.reason == "undetermined" and part.evidence["reason"] not in _DOUBTFUL
    return part.cohort not in (None, ALL) and (part.passed or thin)


def _summed(quiet: Sequence[Verdict]) -> Verdict:
    """Return one part that stands for several judgements."""
    passed = sum(part.passed for part in quiet)
    sentence = (
        f"{plural(len(quiet), 'more judgement')} on cohorts: {passed:,} found no proven harm, {len(quiet) - passed:,} cannot "
        "be determined yet."
    )
    reasons = Counter(part.evidence["reason"] or part.reason for part in quiet)
    numbers = {
        "reasons": dict(sorted(reasons.items())),
        "digest": hashlib.sha256(json.dumps([_said(part) for part in quiet]).encode()).hexdigest(),
    }
    outcome = Outcome.PASS if passed == len(quiet) else Outcome.INCONCLUSIVE
    change = "Harm or a deterioration that is proven in one of them, or numbers in doubt: then it is named."
    return Verdict(outcome, QUIET_COHORTS, sentence, numbers, change=change)


def _said(part: Verdict) -> list[str | None]:
    """Return what a judgement says, its bounds to the digits that a person reads: later ones depend on the machine."""
    bounds = (part.evidence["lower"], part.evidence["upper"])
    read = [None if bound is None else number(bound) for bound in bounds]
    return [part.metric, part.cohort, part.outcome.value, part.sentence, part.change, *read]


def reproduce(
    experiment: Experiment, look: Look, recorded: Verdict, kind: str | None = None
) -> tuple[Mismatch, ...]:
    """Decide a stored look again and list what differs from its record; nothing means it was reproduced.

    Args:
        experiment: The spec that was frozen for the run.
        look: The stored look with its evidence.
        recorded: The verdict that was stored, as `record_of` left it.
        kind: The action that was stored, if any.
    """
    decision = decide(experiment, look)
    acted = (
        []
        if kind is None or kind == decision.kind
        else [Mismatch("kind", Kind(kind).value, decision.kind.value)]
    )
    return (*acted, *differences(recorded.to_dict(), record_of(decision).to_dict()))


def reproduce_ship(
    experiment: Experiment,
    evidence: Evidence,
    recorded: Verdict,
    cohorts: Sequence[str] = (),
    contained: Sequence[str] = (),
) -> tuple[Mismatch, ...]:
    """Apply the ship rule again to stored evidence and list what differs from its record."""
    again = compare_online(experiment, evidence, cohorts=cohorts, contained=contained)
    return tuple(differences(recorded.to_dict(), again.to_dict()))


def differences(recorded: Any, again: Any, path: str = "") -> Iterator[Mismatch]:
    """Yield where two JSON-like values differ; numbers that agree to `TOLERANCE` are the same."""
    if isinstance(recorded, Mapping) and isinstance(again, Mapping):
        for key in {**recorded, **again}:
            yield from differences(recorded.get(key), again.get(key), f"{path}.{key}" if path else str(key))
    elif isinstance(recorded, list | tuple) and isinstance(again, list | tuple):
        for index in range(max(len(recorded), len(again))):
            old, new = (items[index] if index < len(items) else None for items in (recorded, again))
            yield from differences(old, new, f"{path}[{index}]")
    elif not _alike(recorded, again):
        yield Mismatch(path, recorded, again)


def _alike(recorded: Any, again: Any) -> bool:
    if _is_number(recorded) and _is_number(again):
        return math.isclose(recorded, again, rel_tol=TOLERANCE, abs_tol=1e-12)
    return type(recorded) is type(again) and bool(recorded == again)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
