"""Answers single questions from the whole event log: who was exposed, what came lately, what the mirror said."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import duckdb
import pandas as pd

from understudy.errors import EventsUnreadable
from understudy.events.archive import sources
from understudy.events.jsonl import Spooled, complete_lines, parsed
from understudy.events.parquet import read_parquet

__all__ = [
    "answered_requests",
    "busiest_minute",
    "consistent",
    "each_source",
    "exposed_units",
    "mirrored_requests",
    "recent_requests",
]

_DAY = 86_400
_P = ParamSpec("_P")
_T = TypeVar("_T")


class _Compacted(Exception):
    """A segment was compacted between the listing and its turn."""


def consistent(read: Callable[_P, _T]) -> Callable[_P, _T]:
    """Ask again when the log was compacted meanwhile, so that an answer counts every event once."""

    @wraps(read)
    def again(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        while True:
            try:
                return read(*args, **kwargs)
            except _Compacted:
                continue
            except duckdb.IOException as error:
                raise EventsUnreadable(
                    f"A partition of the event log cannot be read: {error}. Bring it back, or make its storage reachable."
                ) from error

    return again


@consistent
def exposed_units(events_dir: Path, model: str, run_id: str) -> tuple[int, int]:
    """Count the units of a run that ever got an answer of the challenger, and all units seen while it was on.

    Args:
        events_dir: root of the event log.
        model: registered model name.
        run_id: the run.

    Returns:
        Exposed units and all units; both 0 when nothing was logged.

    Raises:
        EventsUnreadable: a part of the log is out of reach.
    """
    seen: set[str] = set()
    exposed: set[str] = set()
    with duckdb.connect(":memory:") as connection:
        for events in each_source(
            connection, events_dir / model, "requests", ("run", "arm", "fallback", "unit")
        ):
            found = connection.execute(
                f"""SELECT unit, bool_or(arm = 'challenger' AND NOT coalesce(fallback, false))
                FROM {events} WHERE run = ? AND unit <> '' GROUP BY unit""",
                [run_id],
            ).fetchall()
            seen.update(unit for unit, _ in found)
            exposed.update(unit for unit, saw in found if saw)
    return len(exposed), len(seen)


@consistent
def mirrored_requests(events_dir: Path, model: str, run_id: str) -> pd.DataFrame:
    """Return the mirrored requests of a run beside what the champion answered to the same request.

    Returns:
        Columns ``champion`` and ``challenger`` (predictions, NaN where there is none); one row per event id.

    Raises:
        EventsUnreadable: a part of the log is out of reach.
    """
    folder = events_dir / model
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE mirrored (event_id VARCHAR, challenger DOUBLE)")
        connection.execute("CREATE TABLE answered (event_id VARCHAR, champion DOUBLE)")
        for rows in each_source(connection, folder, "mirrors", ("event_id", "run", "prediction")):
            connection.execute(
                f"INSERT INTO mirrored SELECT event_id, prediction FROM {rows} WHERE run = ?", [run_id]
            )
        for rows in each_source(connection, folder, "requests", ("event_id", "arm", "prediction")):
            connection.execute(f"""
                INSERT INTO answered SELECT event_id, prediction FROM {rows}
                WHERE arm <> 'challenger' AND event_id IN (SELECT event_id FROM mirrored)""")
        frame: pd.DataFrame = connection.execute("""
            SELECT any_value(champion) AS champion, any_value(challenger) AS challenger
            FROM mirrored JOIN answered USING (event_id) GROUP BY event_id""").df()
    return frame if len(frame) else pd.DataFrame({"champion": [], "challenger": []}, dtype=float)


@consistent
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

    Raises:
        EventsUnreadable: a part of the log is out of reach.
    """
    found: list[pd.DataFrame] = []
    enough = 0
    newest = _newest_first(events_dir / model)
    with duckdb.connect(":memory:") as connection:
        for index, (_, source) in enumerate(newest):
            with _opened(connection, source, "requests", (*_RECENT, "cohorts", "features")) as events:
                rows = _newest_rows(connection, events, limit, since)
            found.append(rows)
            # What follows was last written at that time: its rows cannot be newer.
            following = newest[index + 1][0] if index + 1 < len(newest) else float("-inf")
            enough += int((rows["received_at"] > following).sum())
            if enough >= limit:
                break
    if not found:
        return _expanded(pd.DataFrame({name: [] for name in (*_RECENT, "cohorts", "features")}))
    rows = pd.concat(found, ignore_index=True).sort_values(["received_at", "event_id"], kind="stable")
    return _expanded(rows.drop_duplicates("event_id").tail(limit).reset_index(drop=True))


@consistent
def answered_requests(events_dir: Path, model: str, limit: int) -> list[list[dict[str, Any]]]:
    """Return the newest requests that got an answer, the newest first, each as the features of its rows.

    The values are those that the log holds, untouched; a row without a named feature is left out. Where several gateways
    write at the same time, the requests of one may fill the limit.

    Args:
        events_dir: root of the event log.
        model: registered model name.
        limit: largest number of rows in all.

    Raises:
        EventsUnreadable: a part of the log is out of reach.
    """
    requests: dict[tuple[float, str], list[dict[str, Any]]] = {}
    left = limit
    wanted = ("request_id", "received_at", "error", "fallback", "features")
    with duckdb.connect(":memory:") as connection:
        for _, source in _newest_first(events_dir / model):
            with _opened(connection, source, "requests", wanted) as events:
                rows = connection.execute(
                    f"""SELECT received_at, coalesce(request_id, ''), features FROM {events}
                    WHERE isfinite(received_at) AND (error IS NULL OR fallback) AND features NOT IN ('', '{{}}')
                    ORDER BY received_at DESC, request_id LIMIT ?""",
                    [left],
                ).fetchall()
            for received_at, request_id, features in rows:
                requests.setdefault((received_at, request_id), []).append(json.loads(features))
            left -= len(rows)
            if left <= 0:
                break
    return list(requests.values())


@consistent
def busiest_minute(events_dir: Path, model: str) -> int:
    """Return how many requests came in the busiest 60 seconds of the last day that is in the log; 0 without any.

    Args:
        events_dir: root of the event log.
        model: registered model name.

    Raises:
        EventsUnreadable: a part of the log is out of reach.
    """
    newest = -1
    with duckdb.connect(":memory:") as connection:
        connection.execute("CREATE TABLE seconds (second BIGINT, requests BIGINT)")
        for end, source in _newest_first(events_dir / model):
            if end < newest - _DAY:
                break
            with _opened(connection, source, "requests", ("request_id", "received_at", "event_id")) as events:
                connection.execute(
                    f"""INSERT INTO seconds SELECT floor(received_at)::BIGINT AS second,
                        count(DISTINCT (request_id, received_at))
                    FROM {events} WHERE event_id <> '' AND received_at BETWEEN 0 AND 1e11 GROUP BY second"""
                )
            (newest,) = connection.execute("SELECT coalesce(max(second), -1) FROM seconds").fetchone() or (
                -1,
            )
        (busiest,) = connection.execute(
            """WITH each AS (SELECT second, sum(requests) AS requests FROM seconds GROUP BY second),
                minutes AS (SELECT second, sum(requests)
                    OVER (ORDER BY second RANGE BETWEEN 59 PRECEDING AND CURRENT ROW) AS requests FROM each)
            SELECT coalesce(max(requests), 0)::BIGINT FROM minutes WHERE second > ?""",
            [newest - _DAY],
        ).fetchone() or (0,)
    return int(busiest)


_RECENT = ("event_id", "received_at", "event_time", "run", "arm", "version", "prediction", "error")


def each_source(
    connection: duckdb.DuckDBPyConnection, folder: Path, kind: str, wanted: tuple[str, ...]
) -> Iterator[str]:
    """Yield the events of a kind as SQL relations, partitions first."""
    found = sources(folder, kind)
    if found.addresses:
        yield read_parquet(connection, found.addresses)
    for path in found.segments:
        with _opened(connection, path, kind, wanted) as rows:
            yield rows


@contextmanager
def _opened(
    connection: duckdb.DuckDBPyConnection, source: Path | str, kind: str, wanted: tuple[str, ...]
) -> Iterator[str]:
    """Give one segment, or the partition at an address, as an SQL relation."""
    if isinstance(source, str):
        yield read_parquet(connection, [source])
        return
    try:
        data = complete_lines(source)
    except FileNotFoundError:
        raise _Compacted from None
    with Spooled(data) as spool:
        yield parsed(spool, kind, wanted)


def _newest_first(folder: Path) -> list[tuple[float, Path | str]]:
    """Return segments and addresses of partitions with the time of their newest event, the newest first."""
    found = sources(folder, "requests")
    ends: list[tuple[float, Path | str]] = [
        (part.newest, address) for part, address in zip(found.partitions, found.addresses, strict=True)
    ]
    try:
        ends += [(path.stat().st_mtime, path) for path in found.segments]
    except FileNotFoundError:
        raise _Compacted from None
    return sorted(ends, key=lambda end: (end[0], str(end[1])), reverse=True)


def _newest_rows(
    connection: duckdb.DuckDBPyConnection, events: str, limit: int, since: float | None
) -> pd.DataFrame:
    columns = ", ".join(_RECENT)
    rows: pd.DataFrame = connection.execute(
        f"""SELECT {columns}, to_json(cohorts)::VARCHAR AS cohorts, features FROM {events}
        WHERE event_id <> '' AND isfinite(received_at) AND received_at >= ? AND features IS NOT NULL
        ORDER BY received_at DESC, event_id LIMIT ?""",
        # Twice as many, because repeats of an event id take some away.
        [float("-inf") if since is None else since, 2 * limit],
    ).df()
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
