"""What a step of a rollback is, and what all of them work on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from understudy.rollback.plan import Plan
from understudy.rollback.progress import Begun, Order
from understudy.session import Session
from understudy.spec import Experiment

__all__ = ["Found", "Step", "Work"]

Found = Mapping[str, Any]
"""What a step read back: JSON-safe, with ``parts`` and ``restored`` as numbers and a ``problem`` in words where there is one."""


@dataclass(frozen=True)
class Work:
    """One rollback under way.

    Attributes:
        doors: Store, registry and settings.
        order: What was asked for.
        begun: The plan and its place in the ledger.
        experiment: What is declared about the model, if anything is.
        found: What each step found so far, by name.
    """

    doors: Session
    order: Order
    begun: Begun
    experiment: Experiment | None
    found: dict[str, Found] = field(default_factory=dict)

    @property
    def plan(self) -> Plan:
        """Where it leads."""
        return self.begun.plan


@dataclass(frozen=True)
class Step:
    """One step; each part of it may be repeated at any time.

    Attributes:
        name: A short stable word.
        seconds: Objective; taking longer raises an alert.
        check: Whether there is nothing to do.
        apply: Do it.
        verify: Read it back, and say what was found; raises where going on makes no sense.
    """

    name: str
    seconds: float
    check: Callable[[Work], bool]
    apply: Callable[[Work], None]
    verify: Callable[[Work], Found]
