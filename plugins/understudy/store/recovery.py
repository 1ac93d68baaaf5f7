"""Puts a backup into an empty store, proves it, and makes sure that nothing of the past comes back into force.

What was served may have changed after the backup was made. So nobody is exposed afterwards, runs that were on have ended, and
each model's champion is the one that was served last, as far as anybody remembers, under a generation that no reader can take
for an old one.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import BackupInvalid, StoreNotEmpty
from understudy.exposure import Exposure
from understudy.record.chain import RESTORED, Head
from understudy.store import backup, exposures, ledger, runs, schema
from understudy.store.backup import Summary, Table
from understudy.store.database import NEWEST, Store, revision_of, upgrade

__all__ = ["STRIDE", "Restored", "Seen", "restore"]

STRIDE = 1_000_000
"""So many generations lie between the highest that is known and the first one afterwards: more changes of exposure than were made
since the backup by readers that nobody could ask."""

_AT_ONCE = 500
_TYPES: Mapping[str, sa.types.TypeEngine[Any]] = {
    "json": sa.Text(),
    "bytes": sa.LargeBinary(),
    "plain": sa.types.NullType(),
}


@dataclass(frozen=True)
class Seen:
    """The newest exposure of a model that somebody outside the store remembers."""

    generation: int
    champion: str
    where: str


@dataclass(frozen=True)
class Restored:
    """What a restore left.

    Attributes:
        backup: What was put back.
        head: The newest entry of the ledger now.
        exposures: What each model serves now.
        ended: Ids of the runs that were on in the backup.
        moved: Models whose champion is not the backup's, with who remembers the other one.
    """

    backup: Summary
    head: Head
    exposures: tuple[Exposure, ...]
    ended: tuple[str, ...]
    moved: Mapping[str, str] = field(default_factory=dict)


def restore(store: Store, path: Path, seen: Mapping[str, Seen], *, actor: str) -> Restored:
    """Put a backup back, all of it or nothing.

    Args:
        store: An empty store, as it was found: its schema may be missing.
        path: The backup.
        seen: What is remembered outside the store of each model's exposure.
        actor: Who does it.

    Raises:
        BackupInvalid: The backup is torn or altered, is of a newer version, or does not read back as it was written.
        StoreNotEmpty: The store holds something.
    """
    # All of it is read once before anything is written: a torn end is found first.
    summary = backup.inspect(path)
    if summary.schema > NEWEST:
        raise BackupInvalid(
            f"{path} has schema {summary.schema}, this Understudy knows up to {NEWEST}. A newer version made it; use that one."
        )
    try:
        with store.write() as connection:
            _refuse_unless_empty(connection, summary.schema)
            upgrade(connection, summary.schema)
            _insert(connection, path)
            _prove(connection, path, summary)
            upgrade(connection)
            return _settle(connection, summary, seen, actor, store.clock())
    except (sa.exc.DBAPIError, ValueError) as error:
        cause = str(getattr(error, "orig", error)).partition("\n")[0]
        raise BackupInvalid(
            f"{path} cannot be put into this database ({cause}), and nothing of it was. Take another backup, or the engine that "
            "it was made from."
        ) from error


def _refuse_unless_empty(connection: Connection, revision: str) -> None:
    found = revision_of(connection)
    present = sa.inspect(connection).get_table_names()
    own = [table for name, table in schema.metadata.tables.items() if name in present]
    if found is None and own:
        raise StoreNotEmpty(
            f"The database has a table {own[0].name!r} of somebody else. Give UNDERSTUDY_STORE_URL a database without tables."
        )
    for table in own:
        first = sa.select(sa.literal(1)).select_from(table).limit(1)
        if table.name != schema.ledger_head.name and connection.execute(first).scalar():
            raise StoreNotEmpty(
                f"The store holds something in its table {table.name!r}, and a backup would overwrite the record. Give "
                "UNDERSTUDY_STORE_URL an empty database; what was there stays as it is."
            )
    if found is not None and found > revision:
        raise StoreNotEmpty(
            f"The store is empty, but its schema is {found} already and the backup's is {revision}. Give UNDERSTUDY_STORE_URL a "
            "database without tables; it is brought up to date once the backup is in it."
        )


def _insert(connection: Connection, path: Path) -> None:
    batch: list[dict[str, Any]] = []
    into: Table | None = None
    for table, row in backup.read_rows(path):
        if into is not None and (table != into or len(batch) == _AT_ONCE):
            _flush(connection, into, batch)
        into = table
        batch.append(_values(table, row))
    if into is not None:
        _flush(connection, into, batch)
    if connection.dialect.name == "postgresql":
        _move_sequences(connection)


def _values(table: Table, row: backup.Row) -> dict[str, Any]:
    values = dict(zip((name for name, _ in table.columns), row, strict=True))
    for name, kind in table.columns:
        if kind == "bytes" and values[name] is not None:
            values[name] = base64.b64decode(values[name])
    return values


def _flush(connection: Connection, table: Table, batch: list[dict[str, Any]]) -> None:
    columns: list[sa.ColumnClause[Any]] = [sa.column(name, _TYPES[kind]) for name, kind in table.columns]
    connection.execute(sa.insert(sa.table(table.name, *columns)), batch)
    batch.clear()


def _move_sequences(connection: Connection) -> None:
    """Have the database count on from the highest number it was given; it has only counted what it gave out itself."""
    for table in backup.tables(connection):
        column = table.autoincrement_column
        if column is not None and isinstance(column.type, sa.Integer) and column.autoincrement is not False:
            highest = sa.select(sa.func.coalesce(sa.func.max(column), 0) + 1).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            connection.execute(sa.select(sa.func.setval(sequence, highest, False)))


def _prove(connection: Connection, path: Path, summary: Summary) -> None:
    """Read back what was put in: every table's rows give the digest of the backup, and the ledger ends where it ended."""
    for table in map(backup.table_of, backup.tables(connection)):
        if table.name not in summary.rows:
            continue
        count, digest = backup.digest_of_rows(connection, table)
        if (count, digest) != (summary.rows[table.name], summary.digests[table.name]):
            raise BackupInvalid(
                f"The table {table.name} does not read back as {path} has it: {count} rows, expected {summary.rows[table.name]} "
                "that give another digest. Nothing was put back; the database may be damaged, give another one."
            )
    examined = ledger.examine(connection)
    if examined.broken is not None or examined.head != summary.head:
        raise BackupInvalid(
            f"The ledger does not read back as {path} has it. Nothing was put back; give another database."
        )


def _settle(
    connection: Connection, summary: Summary, seen: Mapping[str, Seen], actor: str, now: float
) -> Restored:
    reason = "The store was put back from a backup."
    ledger.append(
        connection, at=now, actor=actor, action=RESTORED, reason=reason, body={"backup": summary.to_dict()}
    )
    ended = []
    for row in connection.execute(
        sa.select(schema.runs.c.run_id).where(schema.runs.c.holds.is_not(None))
    ).all():
        run = runs.get(connection, row.run_id)
        runs.end(
            connection, run, runs.RunState.FAILED, ending=f"{reason} Start a new run.", actor=actor, at=now
        )
        ended.append(run.run_id)
    known = {exposure.model: exposure for exposure in exposures.every(connection)}
    served, moved = [], {}
    for model in sorted({*known, *seen}):
        newest = _newest(known.get(model), seen.get(model))
        if model in known and newest.champion != known[model].champion:
            moved[model] = newest.where
        served.append(_reset(connection, model, newest, known.get(model), summary, actor, reason, now))
    head = ledger.head(connection) or summary.head
    return Restored(summary, head, tuple(served), tuple(ended), moved)


def _newest(known: Exposure | None, seen: Seen | None) -> Seen:
    """Return the highest generation that is remembered: who saw it knows what is being served now."""
    found = [item for item in (seen, known and Seen(known.generation, known.champion, "the backup")) if item]
    return max(found, key=lambda item: item.generation)


def _reset(
    connection: Connection,
    model: str,
    newest: Seen,
    known: Exposure | None,
    summary: Summary,
    actor: str,
    reason: str,
    now: float,
) -> Exposure:
    # Of a champion that only others remember nobody remembers the feature set; the next start finds it again.
    features = known.feature_set if known and known.champion == newest.champion else None
    exposure = Exposure(model, newest.generation + STRIDE, newest.champion, feature_set=features)
    connection.execute(schema.exposures.delete().where(schema.exposures.c.model == model))
    connection.execute(schema.exposures.insert().values(**exposure.__dict__))
    ledger.append(
        connection,
        at=now,
        actor=actor,
        action="exposure.reset",
        model=model,
        run_id=known.run_id if known else None,
        reason=f"{reason} Nobody is exposed; the champion is the one that {newest.where} names.",
        body={
            "champion": exposure.champion,
            "before": known.champion if known else None,
            "generation": exposure.generation,
            "recorded_until": summary.made_at,
        },
    )
    return exposure
