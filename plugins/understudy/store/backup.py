"""A copy of the store in one file, made while the system runs, that either engine can take back.

The file is gzip over lines of JSON: what it is; then each table with its columns, its rows, their number and digest; last the
digest of all lines before. It is made in one read transaction, which on both engines sees one state and stops no writer.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import BackupInvalid, LedgerBroken, StoreError
from understudy.record.chain import Anchor, Head, Walk
from understudy.store import ledger, schema
from understudy.store.database import Store, revision_of

__all__ = ["FORMAT", "Summary", "Table", "back_up", "inspect", "read_rows", "table_of", "tables"]

FORMAT = "understudy-backup/1"
_AT_ONCE = 500
_LEVEL = 3
_KEPT_BY_TRIGGERS = ("ledger_head",)

Row = list[Any]


@dataclass(frozen=True)
class Table:
    """One table of a backup: its name, and the name and kind of each column."""

    name: str
    columns: tuple[tuple[str, str], ...]


@dataclass
class Summary:
    """What a backup holds.

    Attributes:
        made_at: Unix seconds.
        schema: Revision of the schema.
        head: The newest entry of its ledger.
        rows: Rows by table.
        digests: SHA-256 of each table's rows.
        digest: SHA-256 of everything in it.
    """

    made_at: float
    schema: str
    head: Head
    rows: dict[str, int] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    digest: str = ""

    def anchor(self, path: Path) -> Anchor:
        """Return the head that the backup knows."""
        return Anchor(f"the backup {path}", self.head, self.made_at)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return {
            "made_at": self.made_at,
            "schema": self.schema,
            "head": dict(self.head.__dict__),
            "rows": dict(self.rows),
            "digest": self.digest,
        }


def back_up(
    store: Store, path: Path, progress: Callable[[float, str], None] = lambda done, what: None
) -> Summary:
    """Write a backup in one atomic step and read it back.

    Args:
        store: What is backed up. Nobody who uses it has to stop.
        path: The file; one of that name is replaced once the new one is proven.
        progress: Called with the share that is done and what is being done.

    Raises:
        LedgerBroken: The ledger does not verify, so a copy of it could not either.
        StoreError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
        try:
            with os.fdopen(handle, "wb") as stream, store.read() as connection:
                _write(connection, stream, store.clock(), progress)
                stream.flush()
                os.fsync(stream.fileno())
            progress(0.8, "reading it back")
            found = inspect(Path(name))
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StoreError(
            f"The backup {path} cannot be written ({error.strerror or error}). The folder must be writable and have free space; "
            "what was there before is still there."
        ) from error
    return found


def inspect(path: Path) -> Summary:
    """Read a whole backup and prove that it is what was written.

    Raises:
        BackupInvalid: It is torn, altered, or no backup.
    """
    rows = read_rows(path)
    try:
        while True:
            next(rows)
    except StopIteration as end:
        found: Summary = end.value
        return found


def read_rows(path: Path) -> Generator[tuple[Table, Row], None, Summary]:
    """Yield every row of a backup with its table, and return the summary once all of it is proven.

    Raises:
        BackupInvalid: It is torn, altered, or no backup. What was yielded before is worth nothing then.
    """
    try:
        with gzip.open(path, "rb") as stream:
            return (yield from _read(stream, path))
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BackupInvalid(
            f"{path} is no whole backup ({type(error).__name__}: {error}). It was cut off or altered, or is something else; take "
            "another one."
        ) from error


def tables(connection: Connection) -> list[sa.Table]:
    """Return the tables that a backup holds, by name."""
    names = set(sa.inspect(connection).get_table_names())
    found = (table for name, table in sorted(schema.metadata.tables.items()) if name in names)
    return [table for table in found if table.name not in _KEPT_BY_TRIGGERS]


def table_of(table: sa.Table) -> Table:
    """Return a table as a backup describes it."""
    return Table(table.name, tuple((column.name, _kind(column)) for column in table.columns))


def digest_of_rows(connection: Connection, table: Table) -> tuple[int, str]:
    """Return how many rows a table of the database has, and their digest as a backup would have it."""
    count, running = 0, hashlib.sha256()
    for line in _lines(connection, table):
        count += 1
        running.update(line)
    return count, running.hexdigest()


def _write(
    connection: Connection, file: BinaryIO, made_at: float, progress: Callable[[float, str], None]
) -> None:
    progress(0.0, "verifying the ledger")
    examined = ledger.examine(connection)
    if examined.broken is not None:
        raise LedgerBroken(
            f"{examined.broken.sentence} A backup of it would not verify, so none was made. Find out who changed the database; "
            "for a copy of it as it is, use the database's own tools."
        )
    running = hashlib.sha256()
    with gzip.GzipFile(fileobj=file, mode="wb", compresslevel=_LEVEL, mtime=0) as stream:

        def put(line: bytes) -> None:
            running.update(line)
            stream.write(line)

        head = dict(examined.head.__dict__)
        put(_line({"format": FORMAT, "made_at": made_at, "schema": revision_of(connection), "head": head}))
        chosen = tables(connection)
        for number, table in enumerate(map(table_of, chosen)):
            progress(0.1 + 0.7 * number / len(chosen), f"writing {table.name}")
            put(_line({"table": table.name, "columns": table.columns}))
            count, own = 0, hashlib.sha256()
            for line in _lines(connection, table):
                own.update(line)
                put(line)
                count += 1
            put(_line({"rows": count, "digest": own.hexdigest()}))
        stream.write(_line({"end": running.hexdigest()}))


def _lines(connection: Connection, table: Table) -> Iterator[bytes]:
    """Yield the rows of a table as lines, in the order of its key."""
    declared = schema.metadata.tables[table.name]
    chosen = [
        sa.cast(declared.c[name], sa.Text).label(name) if kind == "json" else declared.c[name]
        for name, kind in table.columns
    ]
    query = sa.select(*chosen).order_by(*(_in_bytes(connection, key) for key in declared.primary_key))
    encoded = [index for index, (_, kind) in enumerate(table.columns) if kind == "bytes"]
    for row in connection.execute(query.execution_options(yield_per=_AT_ONCE)):
        values = list(row)
        for index in encoded:
            values[index] = None if values[index] is None else base64.b64encode(values[index]).decode()
        yield _line(values)


def _in_bytes(connection: Connection, column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a key in an order that is the same on every engine, whatever the language of the server."""
    if connection.dialect.name == "postgresql" and isinstance(column.type, sa.String):
        return sa.collate(column, "C")
    return column


def _kind(column: sa.Column[Any]) -> str:
    if isinstance(column.type, sa.JSON):
        return "json"  # its text as it is stored: the ledger's digests are about it
    return "bytes" if isinstance(column.type, sa.LargeBinary) else "plain"


def _line(value: Any) -> bytes:
    return (json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n").encode(
        "utf-8", "surrogatepass"
    )


def _read(stream: gzip.GzipFile, path: Path) -> Generator[tuple[Table, Row], None, Summary]:
    running, chain = hashlib.sha256(), Walk()
    found = _first(stream.readline(), running)
    chain.expect([Anchor("the first line of the backup", found.head)])
    for line in stream:
        item = json.loads(line)
        if "end" in item:
            found.digest = running.hexdigest()
            _refuse_unless_whole(item["end"] == found.digest and not stream.read(1), "its end", path)
            break
        running.update(line)
        table = Table(item["table"], tuple((name, kind) for name, kind in item["columns"]))
        count, own = 0, hashlib.sha256()
        for row_line in stream:
            running.update(row_line)
            row = json.loads(row_line)
            if isinstance(row, dict):
                whole = (row["rows"], row["digest"]) == (count, own.hexdigest())
                _refuse_unless_whole(whole, f"the table {table.name}", path)
                break
            own.update(row_line)
            count += 1
            if table.name == "ledger":
                _refuse_unless_whole(_walks(chain, table, row), f"entry {count} of the ledger", path)
            yield table, row
        found.rows[table.name], found.digests[table.name] = count, own.hexdigest()
    _refuse_unless_whole(bool(found.digest), "its end", path)
    _refuse_unless_whole(chain.head == found.head, "the end of the ledger", path)
    return found


def _first(line: bytes, running: Any) -> Summary:
    running.update(line)
    top: Mapping[str, Any] = json.loads(line)
    if top["format"] != FORMAT:
        raise ValueError("its first line is not that of a backup")
    return Summary(float(top["made_at"]), str(top["schema"]), Head(**top["head"]))


def _walks(chain: Walk, table: Table, row: Row) -> bool:
    entry = dict(zip((name for name, _ in table.columns), row, strict=True))
    names = ("seq", "at", "actor", "action", "model", "run_id", "reason")
    return chain.step(tuple(entry[name] for name in names), entry["body"], entry["previous"], entry["digest"])


def _refuse_unless_whole(whole: bool, what: str, path: Path) -> None:
    if not whole:
        raise BackupInvalid(f"In {path} {what} is not what was written: it was altered. Take another backup.")
