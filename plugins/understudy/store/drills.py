"""What drills found, scenario by scenario; nothing is overwritten."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.store import ledger, schema

__all__ = ["Drilled", "newest", "record"]


@dataclass(frozen=True)
class Drilled:
    """How one scenario of a drill ended.

    Attributes:
        drill_id: The drill.
        model: Registered model name.
        version: The champion that the twins were made from.
        scenario: What was planted.
        passed: Whether it was caught, and everything was back within the objectives.
        sentence: What happened, for people.
        body: What was measured, JSON-safe.
        at: When the drill ended, Unix seconds.
    """

    drill_id: str
    model: str
    version: str
    scenario: str
    passed: bool
    sentence: str
    body: Mapping[str, Any]
    at: float


def record(connection: Connection, found: Sequence[Drilled], *, actor: str, reason: str) -> None:
    """Keep what a drill of one model found, and note it in the ledger.

    Args:
        connection: A write transaction.
        found: Its scenarios, at least one.
        actor: Who asked for the drill.
        reason: Why, or how it went.
    """
    for one in found:
        connection.execute(schema.drills.insert().values(**one.__dict__ | {"body": dict(one.body)}))
    first = found[0]
    ledger.append(
        connection,
        at=first.at,
        actor=actor,
        action="drill.finished",
        model=first.model,
        reason=reason,
        body={
            "drill": first.drill_id,
            "version": first.version,
            "passed": all(one.passed for one in found),
            "scenarios": {one.scenario: one.passed for one in found},
        },
    )


def newest(connection: Connection, model: str) -> dict[str, Drilled]:
    """Return how each scenario ended the last time it was played, by its name."""
    table = schema.drills
    last = sa.select(sa.func.max(table.c.id)).where(table.c.model == model).group_by(table.c.scenario)
    rows = connection.execute(sa.select(table).where(table.c.id.in_(last)).order_by(table.c.id))
    found = ({name: value for name, value in row._mapping.items() if name != "id"} for row in rows)
    return {one["scenario"]: Drilled(**one) for one in found}
