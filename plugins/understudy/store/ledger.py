"""The append-only record of who did what, when and why, in the store.

Database triggers refuse UPDATE and DELETE, and every INSERT that does not continue the chain; they also move the head, one row
that says which entry is the newest. `examine` finds what got past them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy import telemetry
from understudy.errors import LedgerBroken
from understudy.record.chain import (
    GENESIS,
    Anchor,
    Broken,
    Entry,
    Head,
    Walk,
    canonical,
    content_digest,
    link,
)
from understudy.store import schema

__all__ = ["GENESIS", "Entry", "Examination", "append", "entries", "examine", "head", "verify"]

_AT_ONCE = 2000
# As it was written: to parse it and to write it again would cost most of the time of a walk.
_BODY = sa.cast(schema.ledger.c.body, sa.Text).label("body")
_RAW = [_BODY if column.name == "body" else column for column in schema.ledger.c]


@dataclass(frozen=True)
class Examination:
    """What a walk along the whole chain found.

    Attributes:
        entries: How many entries are sound, counted from the first.
        head: The last sound one.
        broken: The first one that is not, if there is one.
        lost: Heads kept elsewhere whose entries were lost when the store was put back from a backup.
    """

    entries: int
    head: Head
    broken: Broken | None
    lost: tuple[Anchor, ...] = ()


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
        body: JSON-safe particulars. The trace that the entry belongs to is added as ``trace_id``, inside the chain: that
            of the run, else that of the work under way.

    Returns:
        The entry as written.

    Raises:
        LedgerBroken: The head of the ledger is gone, so nothing can follow it.
    """
    last = head(connection)
    if last is None:
        raise LedgerBroken(
            "The table `ledger_head` is empty, and it must hold the newest entry of the ledger. Somebody changed the database by "
            "hand: restore the store from a backup (`understudy store restore`)."
        )
    # A whole number would come back from the database as 5.0 and break its digest.
    about = (last.seq + 1, float(at), actor, action, model, run_id, reason)
    text = canonical(dict(body or {}) | _trace(connection, run_id))
    # Keys that are no text have become some: the digest is that of what can be read again.
    particulars = json.loads(text)
    text = canonical(particulars)
    entry = Entry(*about, particulars, last.digest, link(last.digest, content_digest(about, text)))
    values = dict(entry.__dict__) | {"body": sa.literal(text, sa.Text)}
    connection.execute(schema.ledger.insert().values(**values))
    return entry


def _trace(connection: Connection, run_id: str | None) -> dict[str, str]:
    place = telemetry.current()
    found = place.trace_id if place else None
    if run_id is not None:
        of_run = sa.select(schema.runs.c.traceparent).where(schema.runs.c.run_id == run_id)
        found = telemetry.trace_id_of(connection.execute(of_run).scalar()) or found
    return {"trace_id": found} if found else {}


def head(connection: Connection) -> Head | None:
    """Return the newest entry as the head names it; number 0 before the first."""
    row = connection.execute(sa.select(schema.ledger_head)).first()
    return Head(row.seq, row.digest) if row else None


def entries(
    connection: Connection,
    model: str | None = None,
    run_id: str | None = None,
    newest: int | None = None,
    *,
    trace_id: str | None = None,
    generation: int | None = None,
    actions: Collection[str] | None = None,
) -> list[Entry]:
    """Return the entries in order.

    Args:
        connection: Any transaction.
        model: Only this model's.
        run_id: Only this run's.
        newest: Only the last so many.
        trace_id: Only those of this trace.
        generation: Only those that put this generation of exposure in force.
        actions: Only these actions.
    """
    query = sa.select(schema.ledger).order_by(schema.ledger.c.seq.desc()).limit(newest)
    if model is not None:
        query = query.where(schema.ledger.c.model == model)
    if run_id is not None:
        query = query.where(schema.ledger.c.run_id == run_id)
    if trace_id is not None:
        query = query.where(schema.ledger.c.body["trace_id"].as_string() == trace_id)
    if generation is not None:
        query = query.where(schema.ledger.c.body["generation"].as_integer() == generation)
    if actions is not None:
        query = query.where(schema.ledger.c.action.in_(actions))
    return [Entry(**row._mapping) for row in reversed(connection.execute(query).all())]


def verify(connection: Connection) -> Broken | None:
    """Walk the whole chain and hold it against its head.

    Returns:
        The first entry that is altered, missing, out of place or cut off; None when all is well.
    """
    return examine(connection).broken


def examine(connection: Connection, anchors: Iterable[Anchor] = ()) -> Examination:
    """Walk the whole chain and hold it against its head and against heads that were kept elsewhere.

    Args:
        connection: A read transaction.
        anchors: Heads that were kept elsewhere.
    """
    walk = Walk()
    walk.expect(anchors)
    query = sa.select(*_RAW).order_by(schema.ledger.c.seq).execution_options(yield_per=_AT_ONCE)
    for seq, at, actor, action, model, run_id, reason, body, previous, digest in connection.execute(query):
        if not walk.step((seq, at, actor, action, model, run_id, reason), body, previous, digest):
            break
    else:
        _hold_against_head(walk, head(connection))
    return Examination(walk.head.seq, walk.head, walk.broken, tuple(walk.lost))


def _hold_against_head(walk: Walk, kept: Head | None) -> None:
    if kept is None:
        words = "The table `ledger_head` is empty: somebody took the head away."
    elif kept.seq > walk.head.seq:
        walk.expect([Anchor("the table `ledger_head`", kept)])
        walk.end()
        return
    elif kept != walk.head:
        words = f"The table `ledger_head` names entry {kept.seq} as the newest, and entry {walk.head.seq} is: one was changed."
    else:
        walk.end()
        return
    walk.broken = Broken(walk.head.seq, "head", words)
