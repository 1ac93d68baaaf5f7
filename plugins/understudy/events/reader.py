"""Reads the event log: every complete line once, torn and invalid lines counted, nothing parsed twice.

A look at a running experiment comes every few seconds, while the log only grows at its ends. `EventLog`
therefore remembers how far it has read and, on each refresh, parses only the bytes that were added since. What it parsed
it hands over and forgets. A line counts once its newline is there: what follows the last newline was never acknowledged.
A segment that was compacted is read on in its partitions, from the byte at which reading stood.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from understudy.errors import EventsUnreadable
from understudy.events.archive import Archive, Closed, segments_of
from understudy.events.jsonl import FIELDS, VALID, Spooled, count_lines, parsed
from understudy.events.parquet import read_parquet

__all__ = ["EventLog", "LogState"]

_CHUNK = 64 * 1024 * 1024
_NOT = (0, Closed(0, torn=False))  # of a segment that was not compacted
_COMPACTED = "compacted"  # no segment bears this name: theirs have a slash

_COLUMNS = {
    "requests": (
        "event_id", "received_at", "event_time", "run", "stage", "arm", "version", "fallback", "unit", "cohorts",
        "prediction", "error", "latency_ms", "cpu_ms",
    ),
    "outcomes": tuple(FIELDS["outcomes"]),
}  # fmt: skip
# Kept as a flag: nobody needs the text of an error twice.
_STORED = {"error": "CASE WHEN error IS NULL THEN NULL ELSE '' END"}


@dataclass(frozen=True)
class LogState:
    """What a refresh found: unfinished last lines, complete lines that are no event, and segments known."""

    torn_lines: int
    invalid_lines: int
    segments: int


@dataclass(frozen=True)
class _Segment:
    """How far a segment was read; without an inode it was read in partitions."""

    inode: int | None
    offset: int = 0
    torn: bool = False


@dataclass(frozen=True)
class Position:
    """How far a log had been read at one moment."""

    compactions: int
    segments: Mapping[str, _Segment]
    invalid: int


class EventLog:
    """The requests and outcomes of one model, parsed incrementally. Safe to call from several threads.

    Tables ``requests`` and ``outcomes`` take in every valid line, repeats included; whoever has used a line may delete it.

    Args:
        folder: the model's folder in the event log; it may not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lock = threading.RLock()
        self.restarts = 0
        self._archive = Archive(folder)
        self._start()
        self.connection = duckdb.connect(":memory:")
        self.connection.execute("SET threads = 2; SET preserve_insertion_order = true")
        self._create_tables()

    def _start(self) -> None:
        self._compactions = 0  # of which everything was read
        self._segments: dict[str, _Segment] = {}
        self._invalid = 0

    def _create_tables(self) -> None:
        for table, names in _COLUMNS.items():
            columns = ", ".join(f'"{name}" {FIELDS[table][name]}' for name in names)
            self.connection.execute(f"CREATE OR REPLACE TABLE {table} ({columns})")

    def refresh(self, upto: Mapping[str, int] | None = None) -> LogState:
        """Take in everything written since the last refresh.

        Args:
            upto: read no segment further than this, in bytes, and none that is not named; see :attr:`offsets`.

        Raises:
            EventsUnreadable: the journal of compactions, or a partition that it names, cannot be read.
        """
        with self.lock:
            while True:
                live = {
                    name: path for table in _COLUMNS for name, path in segments_of(self.folder, table).items()
                }
                self._archive.refresh()
                try:
                    if self._rewritten(live):
                        # Append-only was broken (a restored or deleted file): the only honest answer is to start
                        # again.
                        self._start()
                        self._create_tables()
                        self.restarts += 1
                    self._take_partitions(upto)
                    for name, path in live.items():
                        if name not in self._archive.covered:
                            self._take(name, path, None if upto is None else upto.get(name, 0))
                except FileNotFoundError:
                    continue  # a segment was compacted after it was listed; the journal says so by now
                return self._state()

    def _state(self) -> LogState:
        compacted, cut = self._archive.totals[self._compactions]
        torn = cut + sum(segment.torn for segment in self._segments.values())
        return LogState(torn, self._invalid, compacted + len(self._segments))

    @property
    def offsets(self) -> dict[str, int]:
        """How many compactions have been read whole, and how far each other segment has been read, in bytes."""
        whole = {_COMPACTED: self._compactions} if self._compactions else {}
        return whole | {name: segment.offset for name, segment in self._segments.items()}

    def lost(self, offsets: Mapping[str, int]) -> int:
        """Return how many segments are gone or shorter than they were once read, as `offsets` told it then."""
        return sum(self._end_of(name) < size for name, size in offsets.items())

    def _end_of(self, name: str) -> int:
        if name == _COMPACTED:
            return self._compactions
        number, closed = self._archive.covered.get(name, _NOT)
        return closed.bytes if 0 < number <= self._compactions else self._offset(name)

    def _offset(self, name: str) -> int:
        segment = self._segments.get(name)
        return segment.offset if segment else 0

    def position(self) -> Position:
        """Return where reading stands, for :meth:`return_to`."""
        return Position(self._compactions, dict(self._segments), self._invalid)

    def return_to(self, position: Position) -> None:
        """Read on from an earlier position; the tables are the caller's to take back."""
        self._compactions, self._invalid = position.compactions, position.invalid
        self._segments = dict(position.segments)

    def _rewritten(self, live: Mapping[str, Path]) -> bool:
        if len(self._archive.done) < self._compactions:
            return True
        for name, segment in self._segments.items():
            if name in self._archive.covered:
                if self._archive.covered[name][1].bytes < segment.offset:
                    return True
                continue
            if name not in live:
                return True
            status = live[name].stat()
            if status.st_ino != segment.inode or status.st_size < segment.offset:
                return True
        return False

    def _take_partitions(self, upto: Mapping[str, int] | None) -> None:
        """Read what is left of compacted segments: all of it, or as far as is asked for."""
        done = self._archive.done
        whole = len(done) if upto is None else min(upto.get(_COMPACTED, 0), len(done))
        ends = {
            name: closed.bytes
            for compaction in done[self._compactions : whole]
            for name, closed in compaction.segments.items()
        }
        for name, limit in (upto or {}).items():
            number, closed = self._archive.covered.get(name, _NOT)
            if number > max(whole, self._compactions):
                ends[name] = min(limit, closed.bytes)
        unread = {name: (self._offset(name), end) for name, end in ends.items() if self._offset(name) < end}
        for table in _COLUMNS:
            self._insert_partitions(
                table, {n: part for n, part in unread.items() if n.startswith(f"{table}/")}
            )
        self._compactions = max(self._compactions, whole)
        self._segments |= {name: _Segment(None, end) for name, (_, end) in unread.items()}
        for name in list(self._segments):
            if 0 < self._archive.covered.get(name, _NOT)[0] <= self._compactions:
                del self._segments[name]

    def _insert_partitions(self, table: str, unread: Mapping[str, tuple[int, int]]) -> None:
        numbers = sorted({self._archive.covered[name][0] for name in unread})
        partitions = self._archive.alive(table, [self._archive.done[number - 1] for number in numbers])
        if not partitions:
            return
        self.connection.execute(
            'CREATE OR REPLACE TEMP TABLE unread (name VARCHAR, "after" BIGINT, "until" BIGINT)'
        )
        rows = [(name, *part) for name, part in unread.items()]
        self.connection.executemany("INSERT INTO unread VALUES (?, ?, ?)", rows)
        stored = ", ".join(_STORED.get(name, f'"{name}"') for name in _COLUMNS[table])
        relation = read_parquet(self.connection, [self._archive.address(part) for part in partitions])
        try:
            self.connection.execute(
                f"""INSERT INTO {table} SELECT {stored} FROM {relation} JOIN unread ON segment = name
                WHERE position > "after" AND position <= "until" """
            )
        except (OSError, duckdb.IOException) as error:
            raise EventsUnreadable(
                f"A partition of {self.folder.name} that {self._archive.path.name} names cannot be read: {error}. Bring it "
                "back, or make its storage reachable."
            ) from error

    def _take(self, name: str, path: Path, limit: int | None) -> None:
        """Read on in a segment."""
        segment = self._segments.get(name)
        if segment is not None and path.stat().st_size == segment.offset:
            self._segments[name] = replace(segment, torn=False)
            return
        if limit is not None and self._offset(name) >= limit:
            return
        with path.open("rb") as stream:
            segment = segment or _Segment(os.fstat(stream.fileno()).st_ino)
            stream.seek(segment.offset)
            tail = b""
            while block := stream.read(
                _CHUNK if limit is None else max(min(_CHUNK, limit - stream.tell()), 0)
            ):
                data = tail + block
                end = data.rfind(b"\n") + 1
                tail = data[end:]
                if end:
                    self._insert(path.parent.name, data[:end])
                    segment = self._segments[name] = replace(segment, offset=segment.offset + end)
            self._segments[name] = replace(segment, torn=bool(tail))

    def _insert(self, table: str, data: bytes) -> None:
        """Parse complete lines and keep the valid ones; all of them or, on a crash, none."""
        stored = ", ".join(f'{_STORED.get(name, _quote(name))} AS "{name}"' for name in _COLUMNS[table])
        names = ", ".join(map(_quote, _COLUMNS[table]))
        with Spooled(data) as path:
            self.connection.execute(
                f"""CREATE OR REPLACE TEMP TABLE incoming AS
                SELECT {stored}, nth, {VALID[table]} AS valid FROM {parsed(path, table, _COLUMNS[table])}"""
            )
        self.connection.execute(f"INSERT INTO {table} SELECT {names} FROM incoming WHERE valid")
        lines, broken = self.connection.execute(
            "SELECT count(*) FILTER (nth = 1), count(*) FILTER (valid IS NOT TRUE AND nth > 0) FROM incoming"
        ).fetchone() or (0, 0)
        self._invalid += count_lines(data) - lines + broken


def _quote(name: str) -> str:
    return f'"{name}"'
