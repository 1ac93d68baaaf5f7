"""Verdicts, rollback points and registry starts: what a run leaves behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.store import schema
from understudy.verdicts import Verdict

__all__ = [
    "RecordedVerdict",
    "accept_starts",
    "accepted_starts",
    "newest_look",
    "newest_of_each_step",
    "newest_rollback_point",
    "record_verdict",
    "rollback_point",
    "rollback_points",
    "save_rollback_point",
    "verdicts_of",
]


_CONCLUSIONS = 20
"""More often than this no stage is concluded again after its last look."""


@dataclass(frozen=True)
class RecordedVerdict:
    """A verdict as it fell, with the evidence it was computed from."""

    run_id: str
    step: str
    stage: int
    decision: str | None
    verdict: Verdict
    evidence: Mapping[str, Any] | None
    at: float

    @property
    def is_look(self) -> bool:
        """Whether it is one look of a guard; the verdict that ends a stage repeats the last one for the record."""
        return self.decision is not None and self.evidence is not None


def record_verdict(
    connection: Connection,
    run_id: str,
    step: str,
    verdict: Verdict,
    *,
    at: float,
    stage: int = 0,
    decision: str | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> None:
    """Keep a verdict; nothing is ever overwritten, a later look is a later row."""
    connection.execute(
        schema.verdicts.insert().values(
            run_id=run_id,
            step=step,
            stage=stage,
            outcome=verdict.outcome.value,
            decision=decision,
            body=verdict.to_dict(),
            evidence=None if evidence is None else dict(evidence),
            at=at,
        )
    )


def verdicts_of(
    connection: Connection, run_id: str, step: str | None = None, newest: int | None = None
) -> list[RecordedVerdict]:
    """Return a run's verdicts in the order they fell.

    Args:
        connection: Any transaction.
        run_id: The run.
        step: Only this step's.
        newest: Only the last so many.
    """
    query = sa.select(schema.verdicts).where(schema.verdicts.c.run_id == run_id)
    if step is not None:
        query = query.where(schema.verdicts.c.step == step)
    rows: Sequence[sa.Row[Any]] = connection.execute(
        query.order_by(schema.verdicts.c.id.desc()).limit(newest)
    ).all()
    return [_recorded(row) for row in reversed(rows)]


def newest_look(connection: Connection, run_id: str) -> RecordedVerdict | None:
    """Return the last look of a run's guard, at whatever stage; None before the first."""
    table = schema.verdicts
    query = sa.select(table).where(table.c.run_id == run_id, table.c.decision.is_not(None))
    # The verdict that ends a stage has a decision too, but no evidence; it follows its last look.
    newest = connection.execute(query.order_by(table.c.id.desc()).limit(_CONCLUSIONS))
    return next((found for found in map(_recorded, newest) if found.is_look), None)


def newest_of_each_step(connection: Connection, run_id: str) -> list[RecordedVerdict]:
    """Return the last verdict of every step of a run, in the order they fell.

    A guard leaves a verdict with its evidence every few seconds, so whoever only wants to know how things stand must
    not read them all.
    """
    newest = (
        sa.select(sa.func.max(schema.verdicts.c.id))
        .where(schema.verdicts.c.run_id == run_id)
        .group_by(schema.verdicts.c.step)
    )
    query = sa.select(schema.verdicts).where(schema.verdicts.c.id.in_(newest)).order_by(schema.verdicts.c.id)
    return [_recorded(row) for row in connection.execute(query)]


def _recorded(row: sa.Row[Any]) -> RecordedVerdict:
    return RecordedVerdict(
        row.run_id, row.step, row.stage, row.decision, Verdict.from_dict(row.body), row.evidence, row.at
    )


def save_rollback_point(
    connection: Connection,
    run_id: str,
    model: str,
    version: str,
    manifest: Mapping[str, Any],
    digest: str,
    *,
    at: float,
) -> None:
    """Keep a run's rollback point; the first one taken stays."""
    if rollback_point(connection, run_id) is None:
        connection.execute(
            schema.rollback_points.insert().values(
                run_id=run_id, model=model, version=version, manifest=dict(manifest), digest=digest, at=at
            )
        )


def rollback_point(connection: Connection, run_id: str) -> Mapping[str, Any] | None:
    """Return a run's rollback point, if one was taken."""
    row = connection.execute(
        sa.select(schema.rollback_points).where(schema.rollback_points.c.run_id == run_id)
    ).first()
    return dict(row._mapping) if row else None


def rollback_points(connection: Connection, model: str) -> list[Mapping[str, Any]]:
    """Return every rollback point of a model, oldest first."""
    table = schema.rollback_points
    query = sa.select(table).where(table.c.model == model).order_by(table.c.at, table.c.run_id)
    return [dict(row._mapping) for row in connection.execute(query)]


def newest_rollback_point(connection: Connection, model: str) -> Mapping[str, Any] | None:
    """Return the rollback point that was taken last of a model, if one was."""
    table = schema.rollback_points
    query = sa.select(table).where(table.c.model == model).order_by(table.c.at.desc(), table.c.run_id.desc())
    row = connection.execute(query.limit(1)).first()
    return dict(row._mapping) if row else None


def accepted_starts(connection: Connection) -> set[str]:
    """Return the keys ``model:version`` that the registry door has started already."""
    return set(connection.execute(sa.select(schema.registry_starts.c.key)).scalars())


def accept_starts(connection: Connection, keys: Mapping[str, str], *, at: float) -> None:
    """Note that these keys were started, each with the signal that asked for it; safe to repeat."""
    known = accepted_starts(connection)
    for key, signal in sorted(keys.items()):
        if key not in known:
            connection.execute(schema.registry_starts.insert().values(key=key, signal=signal, at=at))
