"""Turns segments that nobody writes any more into Parquet partitions by day and hour of receipt.

A compaction writes its files, then its line in the journal, then removes its segments. Everything before the line is undone
by the next compaction, everything after it is done again; see `understudy.events.archive` for why no reader ever counts an
event twice or not at all. Segments stay local files, because only there an append can be acknowledged that a crash does not
take back. The partitions may be anywhere that fsspec reaches: each is written once, as a whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd

from understudy.events.archive import KINDS, Began, Closed, Compacted, Partition, segments_of
from understudy.events.jsonl import FIELDS, VALID, Spooled, parsed
from understudy.events.upkeep import Upkeep, locked
from understudy.events.writer import EventsUnwritable, Kind

__all__ = ["QUIET", "Compaction", "compact"]

QUIET = 600.0
"""Seconds since the last write after which a segment may be compacted."""

_BATCH_BYTES = 256 * 1024 * 1024
_BATCH_SEGMENTS = 200
_LATEST = 1e11  # seconds; folders are named after days, and calendars end


@dataclass
class Compaction:
    """What was done.

    Attributes:
        segments: Segments that are partitions now.
        events: Events in them.
        partitions: Files that were written.
        torn_lines: Unfinished last lines that were cut off; nobody was told that they were written.
        bytes_before: Size of the segments.
        bytes_after: Size of the partitions.
        busy: Segments that stay because somebody writes them, or did until just now.
        left: Segments that stay because something in them is no event, with the reason.
    """

    segments: int = 0
    events: int = 0
    partitions: int = 0
    torn_lines: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    busy: int = 0
    left: dict[str, str] = field(default_factory=dict)


def compact(
    folder: Path,
    *,
    now: float,
    root: str = "",
    private: Collection[str] = (),
    quiet: float = QUIET,
    report: Callable[[float, str], None] = lambda done, what: None,
) -> Compaction:
    """Compact every segment of a model that nobody writes and that has been quiet for a while.

    Args:
        folder: The model's folder in the event log.
        now: Unix seconds.
        root: URL under which partitions are stored; empty for the folder itself.
        private: Columns that are dropped, although they were logged before they were declared private.
        quiet: Seconds since the last write.
        report: Is told the share that is done, and what is being done.

    Raises:
        EventsBusy: Another process compacts or removes events of this model.
        EventsUnwritable: The disk is full, or the storage does not answer; nothing is lost.
    """
    found = Compaction()
    if not folder.is_dir():
        return found
    try:
        with Upkeep(folder) as upkeep:
            due = list(_due(folder, now - quiet, found))
            total, done = sum(size for *_, size in due), 0
            for batch in _batches(due):
                report(done / max(total, 1), f"{len(due)} segments")
                _Batch(upkeep, root, tuple(private), found).run(batch)
                done += sum(size for *_, size in batch)
            report(1.0, f"{len(due)} segments")
    except (OSError, duckdb.IOException) as error:
        raise EventsUnwritable(
            f"The events of {folder.name} could not be compacted: {error}. Nothing is lost, and what was left unfinished is "
            "put right by the next attempt; free some space, or make the storage reachable."
        ) from error
    return found


_Due = tuple[Kind, str, Path, int]


def _due(folder: Path, before: float, found: Compaction) -> Iterator[_Due]:
    for kind in KINDS:
        for name, path in segments_of(folder, kind).items():
            status = path.stat()
            if status.st_mtime <= before:
                yield kind, name, path, status.st_size
            else:
                found.busy += 1


def _batches(due: list[_Due]) -> Iterator[list[_Due]]:
    """Yield what fits into memory together."""
    batch: list[_Due] = []
    for item in due:
        if batch and (
            len(batch) == _BATCH_SEGMENTS or sum(size for *_, size in batch) + item[-1] > _BATCH_BYTES
        ):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


class _Batch:
    """One compaction: all of its segments, or none."""

    def __init__(self, upkeep: Upkeep, root: str, private: tuple[str, ...], found: Compaction) -> None:
        self._upkeep, self._private, self._found = upkeep, private, found
        self._began = Began(f"{len(upkeep.archive.done) + 1:06d}-{uuid.uuid4().hex[:8]}", root)
        self._closed: dict[str, Closed] = {}

    def run(self, batch: list[_Due]) -> None:
        # The locks are held until the segments are gone: a writer that has just created one finds out and takes another.
        with ExitStack() as locks, duckdb.connect(":memory:") as connection:
            connection.execute("SET threads = 2; SET preserve_insertion_order = true")
            for kind in KINDS:
                columns = ", ".join(f'"{name}" {type_}' for name, type_ in FIELDS[kind].items())
                connection.execute(
                    f"CREATE TABLE {kind} ({columns}, segment VARCHAR, position BIGINT, nth BIGINT)"
                )
            for kind, name, path, _ in batch:
                try:
                    locks.enter_context(locked(path))
                except BlockingIOError:
                    self._found.busy += 1
                    continue
                self._stage(connection, kind, name, path.read_bytes())
            if not self._closed:
                return
            self._upkeep.write(self._began)
            partitions = [part for kind in KINDS for part in self._store(connection, kind)]
            self._upkeep.write(Compacted(self._began.name, self._closed, partitions))
            self._upkeep.remove(*self._closed)
            self._found.segments += len(self._closed)
            self._found.events += sum(part.rows for part in partitions)
            self._found.partitions += len(partitions)
            self._found.bytes_after += sum(part.bytes for part in partitions)

    def _stage(self, connection: duckdb.DuckDBPyConnection, kind: Kind, name: str, data: bytes) -> None:
        """Read a segment, unless something in it is no event: such a line would be lost without anybody's knowledge."""
        end = data.rfind(b"\n") + 1
        ends = _line_ends(data[:end])
        with Spooled(data[:end]) as path:
            relation = parsed(path, kind, FIELDS[kind], hidden=self._private, numbered=True)
            valid = f"{VALID[kind]} AND received_at BETWEEN 0 AND {_LATEST}"
            connection.execute(
                f"CREATE OR REPLACE TEMP TABLE incoming AS SELECT *, coalesce({valid}, false) AS valid FROM {relation}"
            )
        ((lines, broken),) = connection.execute(
            "SELECT count(*) FILTER (nth = 1), count(*) FILTER (NOT valid) FROM incoming"
        ).fetchall()
        if broken or lines != len(ends):
            self._found.left[name] = f"{broken + len(ends) - lines} line(s) hold something that is no event"
            return
        connection.register("ends", pd.DataFrame({"line": np.arange(1, len(ends) + 1), "position": ends}))
        columns = ", ".join(f'"{column}"' for column in FIELDS[kind])
        connection.execute(
            f"INSERT INTO {kind} SELECT {columns}, ?, position, nth FROM incoming JOIN ends USING (line)",
            [name],
        )
        torn = len(data) > end
        self._closed[name] = Closed(end, torn)
        self._found.torn_lines += torn
        self._found.bytes_before += len(data)

    def _store(self, connection: duckdb.DuckDBPyConnection, kind: Kind) -> Iterator[Partition]:
        """Write one file per hour of receipt."""
        hours = connection.execute(
            f"""SELECT floor(received_at / 3600)::BIGINT AS hour, count(*), min(received_at), max(received_at)
            FROM {kind} GROUP BY hour ORDER BY hour"""
        ).fetchall()
        for hour, rows, oldest, newest in hours:
            local = self._upkeep.scratch / f"{kind}-{hour}.parquet"
            quoted = str(local).replace("'", "''")
            connection.execute(
                f"""COPY (SELECT * EXCLUDE (nth) FROM {kind} WHERE floor(received_at / 3600)::BIGINT = {hour}
                          ORDER BY segment, position, nth)
                TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)"""
            )
            size = local.stat().st_size
            began = datetime.fromtimestamp(hour * 3600, UTC)
            path = f"{kind}/day={began:%Y-%m-%d}/hour={began:%H}/{self._began.name}.parquet"
            address = f"{self._began.root}/{path}" if self._began.root else path
            self._upkeep.store(local, address)
            yield Partition(kind, address, rows, size, oldest, newest)


def _line_ends(data: bytes) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return the byte after each line that is not blank."""
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n")) + 1
    starts = np.append(0, ends)[:-1]
    blank = [
        index
        for index, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True))
        if not data[start:end].strip()
    ]
    return np.delete(ends, blank)
