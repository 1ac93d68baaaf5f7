"""A recorded look, decided again: the same inputs must give the same verdict, number by number."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from understudy.policy.decision import Kind, Look
from understudy.policy.one_look import decide
from understudy.policy.ship import compare_online
from understudy.spec import Experiment
from understudy.stats.evidence import Evidence
from understudy.verdicts import Verdict

__all__ = ["TOLERANCE", "Mismatch", "differences", "reproduce", "reproduce_ship"]

TOLERANCE = 1e-9
"""Relative difference that two machines may have in the last digits of one sum."""


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


def reproduce(
    experiment: Experiment, look: Look, recorded: Verdict, kind: str | None = None
) -> tuple[Mismatch, ...]:
    """Decide a stored look again and list what differs from its record; nothing means it was reproduced.

    Args:
        experiment: The spec that was frozen for the run.
        look: The stored look with its evidence.
        recorded: The verdict that was stored. If its parts were not kept, only the verdict itself is compared.
        kind: The action that was stored, if any.
    """
    decision = decide(experiment, look)
    acted = (
        []
        if kind is None or kind == decision.kind
        else [Mismatch("kind", Kind(kind).value, decision.kind.value)]
    )
    return (*acted, *_compared(recorded, decision.verdict))


def reproduce_ship(
    experiment: Experiment,
    evidence: Evidence,
    recorded: Verdict,
    cohorts: Sequence[str] = (),
    contained: Sequence[str] = (),
) -> tuple[Mismatch, ...]:
    """Apply the ship rule again to stored evidence and list what differs from its record."""
    return _compared(recorded, compare_online(experiment, evidence, cohorts=cohorts, contained=contained))


def _compared(recorded: Verdict, again: Verdict) -> tuple[Mismatch, ...]:
    stored, now = recorded.to_dict(), again.to_dict()
    if not stored["parts"]:
        now["parts"] = []
    return tuple(differences(stored, now))


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
