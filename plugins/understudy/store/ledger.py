"""The append-only record of who did what, when and why.

Each entry carries the digest of the one before it, so that an altered or missing entry is noticed. Database triggers
refuse UPDATE and DELETE; `verify` finds what got past them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.store import schema

__all__ = ["GENESIS", "Entry", "append", "entries", "verify"]

GENESIS = "0" * 64
"""What the first entry names as its predecessor."""


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    seq: int
    at: float
    actor: str
    action: str
    model: str | None
    run_id: str | None
    reason: str
    body: Mapping[str, Any]
    previous: str
    digest: str


def append(
    connection: Connection,
    *,
    at: float,
    actor: str,
    action: str,
    reason: str,
    model: str | None = None,
    run_id: str | None = None,
    body: Mapping[str, Any] | None = None,
) -> Entry:
    """Add an entry in the caller's write transaction.

    Args:
        connection: A write transaction; it excludes other writers, which keeps the chain in one line.
        at: Unix seconds.
        actor: Who did it.
        action: What was done, as a short stable word.
        reason: Why.
        model: The model concerned.
        run_id: The run concerned.
        body: JSON-safe particulars.

    Returns:
        The entry as written.
    """
    last = connection.execute(
        sa.select(schema.ledger.c.seq, schema.ledger.c.digest).order_by(schema.ledger.c.seq.desc()).limit(1)
    ).first()
    fields: dict[str, Any] = {
        "seq": last.seq + 1 if last else 1,
        "at": float(at),  # a whole number would come back from the database as 5.0 and break its digest
        "actor": actor,
        "action": action,
        "model": model,
        "run_id": run_id,
        "reason": reason,
        "body": dict(body or {}),
        "previous": last.digest if last else GENESIS,
    }
    entry = Entry(**fields, digest=_digest(fields))
    connection.execute(schema.ledger.insert().values(**fields, digest=entry.digest))
    return entry


def entries(
    connection: Connection, model: str | None = None, run_id: str | None = None, newest: int | None = None
) -> list[Entry]:
    """Return the entries in order.

    Args:
        connection: Any transaction.
        model: Only this model's.
        run_id: Only this run's.
        newest: Only the last so many.
    """
    query = sa.select(schema.ledger).order_by(schema.ledger.c.seq.desc()).limit(newest)
    if model is not None:
        query = query.where(schema.ledger.c.model == model)
    if run_id is not None:
        query = query.where(schema.ledger.c.run_id == run_id)
    return [Entry(**row._mapping) for row in reversed(connection.execute(query).all())]


def verify(connection: Connection) -> int | None:
    """Walk the whole chain.

    Returns:
        The sequence number of the first entry that is altered, missing or out of place; None when all is well.
    """
    previous, expected = GENESIS, 1
    for row in connection.execute(sa.select(schema.ledger).order_by(schema.ledger.c.seq)):
        fields = dict(row._mapping)
        digest = fields.pop("digest")
        if fields["seq"] != expected or fields["previous"] != previous or _digest(fields) != digest:
            return expected
        previous, expected = digest, expected + 1
    return None


def _digest(fields: Mapping[str, Any]) -> str:
    canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
