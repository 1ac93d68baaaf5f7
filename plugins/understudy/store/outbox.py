"""What must still happen outside the store: noted in the transaction that decided it, done and marked afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.store import schema

__all__ = ["Errand", "ever", "mark_done", "pending", "put"]


@dataclass(frozen=True)
class Errand:
    """One thing that must still happen."""

    id: int
    kind: str
    body: Mapping[str, Any]
    at: float


def put(connection: Connection, kind: str, body: Mapping[str, Any], *, at: float) -> None:
    """Note that something must happen outside.

    Args:
        connection: A write transaction, the one that decided it.
        kind: What, as a short stable word.
        body: JSON-safe particulars.
        at: Unix seconds.
    """
    connection.execute(schema.outbox.insert().values(kind=kind, body=dict(body), at=at))


def pending(connection: Connection, kind: str) -> list[Errand]:
    """Return what of a kind was not done yet, oldest first."""
    return _those(connection, schema.outbox.c.kind == kind, schema.outbox.c.done_at.is_(None))


def ever(connection: Connection, kind: str) -> list[Errand]:
    """Return what of a kind was ever noted, done or not, oldest first."""
    return _those(connection, schema.outbox.c.kind == kind)


def _those(connection: Connection, *conditions: sa.ColumnElement[bool]) -> list[Errand]:
    table = schema.outbox
    query = sa.select(table.c.id, table.c.kind, table.c.body, table.c.at)
    rows = connection.execute(query.where(*conditions).order_by(table.c.id))
    return [Errand(**row._mapping) for row in rows]


def mark_done(connection: Connection, errand: Errand, *, at: float) -> bool:
    """Note that something was done; tell whether nobody had noted it before."""
    table = schema.outbox
    mine = table.update().where(table.c.id == errand.id, table.c.done_at.is_(None)).values(done_at=at)
    return bool(connection.execute(mine).rowcount)
