"""Increments of evidence as looks left them: append-only, numbered per run without gaps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import StoreError
from understudy.store import schema

__all__ = ["StoredIncrement", "append", "latest_seq", "load", "newest_summary"]


@dataclass(frozen=True)
class StoredIncrement:
    """One increment of a run.

    Attributes:
        run_id: the run.
        seq: its number, from 1.
        at: wall clock of the look that made it, Unix seconds.
        checkpoint: what the increments up to this one hold: offsets, watermark, counts.
        quality: soundness of the evidence at that look.
        body: the packed moments.
        summary: the packed sum of all increments up to this one, if it was stored with it.
    """

    run_id: str
    seq: int
    at: float
    checkpoint: Mapping[str, Any]
    quality: Mapping[str, Any]
    body: bytes
    summary: bytes | None = None


def append(connection: Connection, increment: StoredIncrement) -> bool:
    """Store the next increment of a run.

    Args:
        connection: A write transaction.
        increment: What to store; its number must follow the last one's.

    Returns:
        False when another process has stored that number already; nothing was changed, and its increment counts.

    Raises:
        ValueError: The number leaves a gap.
    """
    last = latest_seq(connection, increment.run_id)
    if increment.seq <= last:
        return False
    if increment.seq != last + 1:
        raise ValueError(f"increment {increment.seq} of {increment.run_id} cannot follow {last}")
    connection.execute(
        schema.moments.insert().values(
            run_id=increment.run_id,
            seq=increment.seq,
            at=increment.at,
            checkpoint=dict(increment.checkpoint),
            quality=dict(increment.quality),
            body=increment.body,
            summary=increment.summary,
        )
    )
    return True


def latest_seq(connection: Connection, run_id: str) -> int:
    """Return the number of a run's last increment; 0 before the first."""
    table = schema.moments
    found = connection.execute(sa.select(sa.func.max(table.c.seq)).where(table.c.run_id == run_id)).scalar()
    return int(found or 0)


def load(
    connection: Connection, run_id: str, after: int = 0, upto: int | None = None
) -> list[StoredIncrement]:
    """Return a run's increments in order.

    Args:
        connection: Any transaction.
        run_id: The run.
        after: Only those with a higher number.
        upto: Only those up to this number.

    Raises:
        StoreError: One is missing, so that nothing can be recomputed from the others.
    """
    table = schema.moments
    columns = [column for column in table.c if column.name != "summary"]
    query = sa.select(*columns).where(table.c.run_id == run_id, table.c.seq > after).order_by(table.c.seq)
    if upto is not None:
        query = query.where(table.c.seq <= upto)
    found = [StoredIncrement(**row._mapping) for row in connection.execute(query)]
    wanted = range(after + 1, after + 1 + (len(found) if upto is None else upto - after))
    if [increment.seq for increment in found] != list(wanted):
        raise StoreError(
            f"Of run {run_id} the increments {wanted.start} to {wanted.stop - 1} are wanted and {len(found)} are stored, with "
            "a gap. Evidence is the sum of all of them; restore the table `moments` from a backup."
        )
    return found


def newest_summary(connection: Connection, run_id: str, upto: int | None = None) -> StoredIncrement | None:
    """Return the newest increment that carries a summary, if there is one.

    Args:
        connection: Any transaction.
        run_id: The run.
        upto: Not after this number.
    """
    table = schema.moments
    query = sa.select(table).where(table.c.run_id == run_id, table.c.summary.is_not(None))
    if upto is not None:
        query = query.where(table.c.seq <= upto)
    row = connection.execute(query.order_by(table.c.seq.desc()).limit(1)).first()
    return None if row is None else StoredIncrement(**row._mapping)
