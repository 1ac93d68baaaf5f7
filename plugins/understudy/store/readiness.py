"""What looks at rollback points found, and when; nothing is overwritten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.store import schema

__all__ = ["Readiness", "newest", "record"]


@dataclass(frozen=True)
class Readiness:
    """Whether a rollback point leads back, as far as somebody looked.

    Attributes:
        run_id: The run whose point it is.
        model: Registered model name.
        version: The version that the point leads to.
        ready: Whether every part is as recorded and the version answers the probe as it did.
        sentence: What was found, for people.
        problems: Every difference, one sentence each.
        seconds: How long the look took.
        at: Unix seconds.
    """

    run_id: str
    model: str
    version: str
    ready: bool
    sentence: str
    problems: Sequence[str]
    seconds: float
    at: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return {**self.__dict__, "problems": list(self.problems)}


def record(connection: Connection, found: Readiness) -> None:
    """Keep what a look found."""
    values = found.to_dict()
    body = {name: values.pop(name) for name in ("problems", "seconds")}
    connection.execute(schema.readiness_checks.insert().values(**values, body=body))


def newest(connection: Connection, run_id: str) -> Readiness | None:
    """Return what the last look at a run's point found; None before the first."""
    table = schema.readiness_checks
    row = connection.execute(
        sa.select(table).where(table.c.run_id == run_id).order_by(table.c.id.desc()).limit(1)
    ).first()
    if row is None:
        return None
    return Readiness(
        row.run_id, row.model, row.version, row.ready, row.sentence,
        tuple(row.body["problems"]), float(row.body["seconds"]), row.at,
    )  # fmt: skip
