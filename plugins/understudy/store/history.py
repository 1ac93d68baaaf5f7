"""What was in force at a moment of the past, and parts of the ledger as a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import BadParameter
from understudy.record import as_of as record
from understudy.record import exported
from understudy.record.chain import GENESIS, Entry, Head
from understudy.store import exposures, ledger, schema

__all__ = ["as_of", "export", "proof_of_run"]

_AT_ONCE = 2000


def as_of(connection: Connection, model: str, at: float) -> record.Situation:
    """Return which version of a model served whom at a moment, and the entries that put that in force.

    Args:
        connection: A read transaction.
        model: The model.
        at: Unix seconds.

    Raises:
        BadParameter: The ledger has never heard of the model.
    """
    found = ledger.entries(connection, model=model)
    if not found:
        known = sa.select(schema.ledger.c.model).where(schema.ledger.c.model.is_not(None)).distinct()
        names = ", ".join(sorted(connection.execute(known).scalars())) or "none"
        raise BadParameter(f"The ledger has no entry of a model {model!r}. Models that it knows: {names}.")
    return record.as_of(found, at, exposures.find(connection, model))


def export(
    connection: Connection,
    exported_at: float,
    *,
    model: str | None = None,
    run_id: str | None = None,
    since: float | None = None,
    until: float | None = None,
) -> Iterator[str]:
    """Yield the ledger, or the part of it that is asked for, as lines of JSON that can be verified without the store.

    Args:
        connection: A read transaction; it must stay open until the last line.
        exported_at: Unix seconds.
        model: Only this model's entries.
        run_id: Only this run's.
        since: Only those of this time or later, Unix seconds.
        until: Only those of this time or before.
    """
    asked = {"model": model, "run": run_id, "since": since, "until": until}
    table = schema.ledger.c
    conditions = (
        (model, table.model.__eq__),
        (run_id, table.run_id.__eq__),
        (since, table.at.__ge__),
        (until, table.at.__le__),
    )
    chosen = sa.and_(sa.true(), *(holds(value) for value, holds in conditions if value is not None))
    after, head = _ends(connection, chosen)
    return exported.lines(_marked(connection, after, chosen), asked, after, head, exported_at)


def proof_of_run(connection: Connection, run_id: str) -> dict[str, Any]:
    """Return the entries of a run with what proves that they are in the ledger.

    Returns:
        ``after`` and ``head``, where the proof begins and ends, and ``chain``, as `understudy.record.exported.proof` gives it.
    """
    chosen = schema.ledger.c.run_id == run_id
    after, head = _ends(connection, chosen)
    chain = list(exported.proof(_marked(connection, after, chosen)))
    return {"after": dict(after.__dict__), "head": dict(head.__dict__), "chain": chain}


def _ends(connection: Connection, chosen: sa.ColumnElement[bool]) -> tuple[Head, Head]:
    """Return the entry before the first one that is chosen, and the newest of all."""
    head = ledger.head(connection) or Head(0, GENESIS)
    table = schema.ledger.c
    first = sa.select(table.seq, table.previous).where(chosen).order_by(table.seq).limit(1)
    found = connection.execute(first).first()
    return (Head(found.seq - 1, found.previous) if found else head), head


def _marked(
    connection: Connection, after: Head, chosen: sa.ColumnElement[bool]
) -> Iterator[tuple[Entry, bool]]:
    table = schema.ledger
    # A comparison with a model that is not named is neither true nor false.
    mark = sa.func.coalesce(chosen, sa.false()).label("chosen")
    query = sa.select(*table.c, mark).where(table.c.seq > after.seq).order_by(table.c.seq)
    for row in connection.execute(query.execution_options(yield_per=_AT_ONCE)):
        yield Entry(*row[:-1]), bool(row[-1])
