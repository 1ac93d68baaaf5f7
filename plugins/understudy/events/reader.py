"""Reads the event log: every complete line once, torn and invalid lines counted, nothing parsed twice.

A look at a running experiment comes every few seconds, while the log only grows at its ends. `EventLog`
therefore remembers how far it has read and, on each refresh, parses only the bytes that were added since. What it parsed
it hands over and forgets. A line counts once its newline is there: what follows the last newline was never acknowledged.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import pandas as pd

__all__ = ["EventLog", "LogState", "exposed_units", "mirrored_requests", "recent_requests"]

_CHUNK = 64 * 1024 * 1024

_REQUEST_FIELDS = {
    "event_id": "VARCHAR",
    "received_at": "DOUBLE",
    "event_time": "DOUBLE",
    "run": "VARCHAR",
    "stage": "INTEGER",
    "arm": "VARCHAR",
    "version": "VARCHAR",
    "fallback": "BOOLEAN",
    "unit": "VARCHAR",
    "cohorts": "MAP(VARCHAR, VARCHAR)",
    "prediction": "DOUBLE",
    "error": "VARCHAR",
    "latency_ms": "DOUBLE",
    "cpu_ms": "DOUBLE",
}
_OUTCOME_FIELDS = {
    "event_id": "VARCHAR",
    "outcome": "DOUBLE",
    "values": "MAP(VARCHAR, DOUBLE)",
    "occurred_at": "DOUBLE",
    "received_at": "DOUBLE",
}
_TABLES = {"requests": _REQUEST_FIELDS, "outcomes": _OUTCOME_FIELDS}
# A line without these is no event.
_REQUIRED = {
    "requests": (
        "event_id <> ''",
        "arm <> ''",
        "stage >= 0",
        "isfinite(received_at)",
        "isfinite(event_time)",
    ),
    "outcomes": ("event_id <> ''", "isfinite(received_at)"),
}
# Kept as a flag: nobody needs the text of an error twice.
_STORED = {"error": "CASE WHEN error IS NULL THEN NULL ELSE '' END"}


@dataclass(frozen=True)
class LogState:
    """What a refresh found: unfinished last lines, complete lines that are no event, and segments known."""

    torn_lines: int
    invalid_lines: int
    segments: int


@dataclass
class _Segment:
    inode: int
    offset: int = 0
    torn: bool = False


@dataclass(frozen=True)
class Position:
    """How far a log had been read at one moment."""

    segments: Mapping[Path, _Segment]
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
        self._invalid = 0
        self._segments: dict[Path, _Segment] = {}
        self.connection = duckdb.connect(":memory:")
        self.connection.execute("SET threads = 2; SET preserve_insertion_order = true")
        self._create_tables()

    def _create_tables(self) -> None:
        for table, fields in _TABLES.items():
            columns = ", ".join(f"{name} {kind}" for name, kind in fields.items())
            self.connection.execute(f"CREATE OR REPLACE TABLE {table} ({columns})")

    def refresh(self, upto: Mapping[str, int] | None = None) -> LogState:
        """Take in everything written since the last refresh.

        Args:
            upto: read no segment further than this, in bytes, and none that is not named; see :attr:`offsets`.
        """
        with self.lock:
            if self._rewritten():
                # Append-only was broken (a restored or deleted file): the only honest answer is to start
                # again.
                self._segments, self._invalid = {}, 0
                self._create_tables()
                self.restarts += 1
            for table in _TABLES:
                for path in sorted((self.folder / table).glob("*.jsonl")):
                    self._take(table, path, None if upto is None else upto.get(self._name(path), 0))
            torn = sum(segment.torn for segment in self._segments.values())
            return LogState(torn, self._invalid, len(self._segments))

    @property
    def offsets(self) -> dict[str, int]:
        """How far each segment has been read, in bytes."""
        return {self._name(path): segment.offset for path, segment in self._segments.items()}

    def position(self) -> Position:
        """Return where reading stands, for :meth:`return_to`."""
        return Position({path: replace(segment) for path, segment in self._segments.items()}, self._invalid)

    def return_to(self, position: Position) -> None:
        """Read on from an earlier position; the tables are the caller's to take back."""
        self._segments = {path: replace(segment) for path, segment in position.segments.items()}
        self._invalid = position.invalid

    def _name(self, path: Path) -> str:
        return f"{path.parent.name}/{path.name}"

    def _rewritten(self) -> bool:
        for path, segment in self._segments.items():
            try:
                status = path.stat()
            except FileNotFoundError:
                return True
            if status.st_ino != segment.inode or status.st_size < segment.offset:
                return True
        return False

    def _take(self, table: str, path: Path, limit: int | None) -> None:
        segment = self._segments.get(path)
        if segment is not None and path.stat().st_size == segment.offset:
            segment.torn = False
            return
        if limit is not None and (segment.offset if segment else 0) >= limit:
            return
        with path.open("rb") as stream:
            segment = segment or self._segments.setdefault(path, _Segment(os.fstat(stream.fileno()).st_ino))
            stream.seek(segment.offset)
            tail = b""
            while block := stream.read(
                _CHUNK if limit is None else max(min(_CHUNK, limit - stream.tell()), 0)
            ):
                data = tail + block
                end = data.rfind(b"\n") + 1
                tail = data[end:]
                if end:
                    self._insert(table, data[:end])
                    segment.offset += end
            segment.torn = bool(tail)

    def _insert(self, table: str, data: bytes) -> None:
        """Parse complete lines and keep the valid ones; all of them or, on a crash, none."""
        fields = _TABLES[table]
        valid = " AND ".join(_REQUIRED[table])
        values = ", ".join(_STORED.get(name, name) for name in fields)
        with _Spooled(data) as path:
            sql = f"INSERT INTO {table} SELECT {values} FROM {_parsed(path, fields)} WHERE {valid}"
            (kept,) = self.connection.execute(sql).fetchone() or (0,)
        lines = sum(1 for line in data.split(b"\n") if line.strip())
        self._invalid += lines - int(kept)


def exposed_units(events_dir: Path, model: str, run_id: str) -> tuple[int, int]:
    """Count the units of a run that ever got an answer of the challenger, and all units seen while it was on.

    Args:
        events_dir: root of the event log.
        model: registered model name.
        run_id: the run.

    Returns:
        Exposed units and all units; both 0 when nothing was logged.
    """
    fields = {name: _REQUEST_FIELDS[name] for name in ("event_id", "run", "arm", "fallback", "unit")}
    seen: set[str] = set()
    exposed: set[str] = set()
    for data in _complete(events_dir / model / "requests"):
        with duckdb.connect(":memory:") as connection, _Spooled(data) as spool:
            sql = f"""
                SELECT unit, bool_or(arm = 'challenger' AND NOT coalesce(fallback, false))
                FROM {_parsed(spool, fields)} WHERE run = ? AND unit <> '' GROUP BY unit"""
            found = connection.execute(sql, [run_id]).fetchall()
        seen.update(unit for unit, _ in found)
        exposed.update(unit for unit, saw in found if saw)
    return len(exposed), len(seen)


def recent_requests(events_dir: Path, model: str, limit: int, since: float | None = None) -> pd.DataFrame:
    """Return the newest logged requests of a model, oldest first, one row per event id (the first received).

    Columns: ``event_id, received_at, event_time, run, arm, version, prediction, error, cohorts`` (a
        dictionary) and then one column per logged feature, whose names are in ``frame.attrs["features"]``. A
        feature that bears one of the first names wins, and the logged field moves to ``logged_<name>``. No
        files, or no rows, give an empty frame.

    Args:
        events_dir: root of the event log.
        model: registered model name.
        limit: largest number of rows.
        since: only requests received at or after this wall clock.
    """
    fields = {name: _REQUEST_FIELDS[name] for name in _RECENT} | {"features": "JSON", "cohorts": "JSON"}
    found: list[pd.DataFrame] = []
    enough = 0
    for path, following in _newest_first(events_dir / model / "requests"):
        rows = _segment_rows(path, fields, limit, since)
        found.append(rows)
        # The next segment was last written at `following`: its rows cannot be newer than that.
        enough += int((rows["received_at"] > following).sum())
        if enough >= limit:
            break
    if not found:
        return _expanded(pd.DataFrame({name: [] for name in fields}))
    rows = pd.concat(found, ignore_index=True).sort_values(["received_at", "event_id"], kind="stable")
    return _expanded(rows.drop_duplicates("event_id").tail(limit).reset_index(drop=True))


_RECENT = ("event_id", "received_at", "event_time", "run", "arm", "version", "prediction", "error")


def mirrored_requests(events_dir: Path, model: str, run_id: str) -> pd.DataFrame:
    """Return the mirrored requests of a run beside what the champion answered to the same request.

    Returns:
        Columns ``champion`` and ``challenger`` (predictions, NaN where there is none); one row per event id.
    """
    mirrored = {"event_id": "VARCHAR", "run": "VARCHAR", "prediction": "DOUBLE"}
    answered = {"event_id": "VARCHAR", "arm": "VARCHAR", "prediction": "DOUBLE"}
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE mirrored (event_id VARCHAR, challenger DOUBLE)")
        connection.execute("CREATE TABLE answered (event_id VARCHAR, champion DOUBLE)")
        for data in _complete(events_dir / model / "mirrors"):
            with _Spooled(data) as spool:
                sql = f"INSERT INTO mirrored SELECT event_id, prediction FROM {_parsed(spool, mirrored)} WHERE run = ?"
                connection.execute(sql, [run_id])
        for data in _complete(events_dir / model / "requests"):
            with _Spooled(data) as spool:
                connection.execute(f"""
                    INSERT INTO answered SELECT event_id, prediction FROM {_parsed(spool, answered)}
                    WHERE arm <> 'challenger' AND event_id IN (SELECT event_id FROM mirrored)""")
        frame: pd.DataFrame = connection.execute("""
            SELECT any_value(champion) AS champion, any_value(challenger) AS challenger
            FROM mirrored JOIN answered USING (event_id) GROUP BY event_id""").df()
    return frame if len(frame) else pd.DataFrame({"champion": [], "challenger": []}, dtype=float)


def _complete(folder: Path) -> Iterator[bytes]:
    """Yield the complete lines of each segment."""
    for path in sorted(folder.glob("*.jsonl")):
        data = path.read_bytes()
        yield data[: data.rfind(b"\n") + 1]


def _newest_first(folder: Path) -> Iterator[tuple[Path, float]]:
    """Yield segments by last write, each with the last write of the one after it."""
    written = sorted(((path.stat().st_mtime, path) for path in folder.glob("*.jsonl")), reverse=True)
    for index, (_, path) in enumerate(written):
        following = written[index + 1][0] if index + 1 < len(written) else float("-inf")
        yield path, following


def _segment_rows(path: Path, fields: dict[str, str], limit: int, since: float | None) -> pd.DataFrame:
    data = path.read_bytes()
    with duckdb.connect(":memory:") as connection, _Spooled(data[: data.rfind(b"\n") + 1]) as spool:
        sql = f"""
            SELECT * FROM {_parsed(spool, fields)}
            WHERE event_id <> '' AND isfinite(received_at) AND json_type(features) = 'OBJECT' AND received_at >= ?
            ORDER BY received_at DESC, event_id LIMIT ?"""
        # Twice as many, because repeats of an event id take some away.
        since = float("-inf") if since is None else since
        rows: pd.DataFrame = connection.execute(sql, [since, 2 * limit]).df()
    return rows


def _expanded(rows: pd.DataFrame) -> pd.DataFrame:
    features = pd.DataFrame([json.loads(text) for text in rows["features"]], index=rows.index)
    logged = rows[list(_RECENT)].copy()
    logged["cohorts"] = [json.loads(text) if isinstance(text, str) else {} for text in rows["cohorts"]]
    logged = logged.rename(
        columns={name: f"logged_{name}" for name in logged.columns if name in features.columns}
    )
    frame = pd.concat([logged, features], axis=1)
    frame.attrs["features"] = [str(name) for name in features.columns]
    return frame


def _parsed(path: str, fields: dict[str, str]) -> str:
    """SQL of the lines with their declared types; a line that is no JSON object becomes a row of nulls."""
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in fields.items())
    quoted = path.replace("'", "''")
    return (
        f"read_json('{quoted}', format = 'newline_delimited', ignore_errors = true, columns = {{{columns}}})"
    )


class _Spooled:
    """A private temporary file with complete lines, so that DuckDB never sees a line that is still being written."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> str:
        handle, self._path = tempfile.mkstemp(suffix=".jsonl")
        with os.fdopen(handle, "wb") as stream:
            stream.write(self._data)
        return self._path

    def __exit__(self, *_: object) -> None:
        Path(self._path).unlink()
