"""Answers SQL about the events of some runs: what was served, what came of it, and what happened meanwhile."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from understudy.errors import BadParameter
from understudy.events.jsonl import FIELDS
from understudy.events.lookups import consistent, each_source

__all__ = ["OVERVIEW", "TABLES", "Answer", "ask"]

TABLES = {
    "runs": "the runs themselves, with the spec that was frozen at their start",
    "requests": "one row an event that was served, with its features as JSON",
    "mirrors": "one row an event that the challenger rehearsed on, beside what the log knows of its request",
    "outcomes": "one row a number that was told of such an event, by name; what was told first",
    "features": "which features each version was asked with, how often, and of which kind",
    "slices": "events, units, errors and mean answer by run, stage, arm and value of each cohort column",
    "context": "ledger entries of the runs, and of their model while they were on",
}
"""What a query may read, and what is in it. Times are Unix seconds."""

OVERVIEW = {
    "runs": "SELECT run, version, champion, state, stage, started_at, reason FROM runs",
    "features": "FROM features",
    "slices": "FROM slices",
    "context": "SELECT seq, happened_at, actor, action, run, reason FROM context",
}
"""Queries that say what an experiment was about, by name."""

_KNOWN = {
    "runs": dict.fromkeys(("run", "experiment", "model", "version", "champion", "state"), "VARCHAR")
    | {"stage": "INTEGER"}
    | dict.fromkeys(("actor", "reason", "ending"), "VARCHAR")
    | dict.fromkeys(("started_at", "changed_at"), "DOUBLE")
    | dict.fromkeys(("trace_id", "mlflow_run_id"), "VARCHAR")
    | {"spec": "JSON"},
    "context": {"seq": "BIGINT", "happened_at": "DOUBLE"}
    | dict.fromkeys(("actor", "action", "run", "reason"), "VARCHAR")
    | {"body": "JSON"},
}

_SERVED = ("unit", "cohorts", "stage", "generation")
_FIRST = "QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY received_at) = 1"

_VIEWS = """
CREATE VIEW features AS
SELECT run, version, name, count(*) AS events, count(*) FILTER (kind <> 'NULL') AS filled,
       list_sort(list(DISTINCT kind) FILTER (kind <> 'NULL')) AS kinds
FROM (SELECT run, version, name, json_type(features, '$."' || replace(name, '"', '\\"') || '"') AS kind
      FROM (SELECT run, version, features, unnest(json_keys(features)) AS name FROM requests))
GROUP BY ALL ORDER BY ALL;
CREATE VIEW slices AS
SELECT run, stage, arm, cohort.key AS cohort, cohort.value AS value, count(*) AS events, count(DISTINCT unit) AS units,
       count(error) AS errors, avg(prediction) AS prediction
FROM (SELECT *, unnest(map_entries(cohorts)) AS cohort FROM requests)
GROUP BY ALL ORDER BY ALL"""


@dataclass(frozen=True)
class Answer:
    """What a query found."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def ask(
    folder: Path,
    runs: Sequence[Mapping[str, Any]],
    context: Sequence[Mapping[str, Any]],
    queries: Sequence[str],
) -> list[Answer]:
    """Answer queries in DuckDB's SQL over :data:`TABLES`.

    The events are copied first, to disk, so a query sees one moment of the log, can change nothing, and reaches no file.

    Args:
        folder: The model's folder in the event log.
        runs: What is to be found in ``runs``; the events of these count, so each needs its name as ``run``.
        context: What is to be found in ``context``.
        queries: The queries.

    Raises:
        BadParameter: DuckDB refuses a query.
        EventsUnreadable: A part of the log is out of reach.
    """
    with (
        tempfile.TemporaryDirectory(prefix="understudy-query-") as place,
        duckdb.connect(str(Path(place, "events.duckdb"))) as connection,
    ):
        _copy(connection, folder, [str(run["run"]) for run in runs])
        _tell(connection, "runs", runs)
        _tell(connection, "context", context)
        connection.execute(_VIEWS)
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
        return [_answer(connection, query) for query in queries]


def _answer(connection: duckdb.DuckDBPyConnection, query: str) -> Answer:
    try:
        cursor = connection.execute(query)
        return Answer(tuple(column[0] for column in cursor.description or ()), tuple(cursor.fetchall()))
    except duckdb.Error as error:
        raise BadParameter(
            f"DuckDB refuses the query: {error}. It may read {', '.join(TABLES)}, and nothing else."
        ) from error


@consistent
def _copy(connection: duckdb.DuckDBPyConnection, folder: Path, runs: list[str]) -> None:
    """Make tables of the events; from the start again when the log was compacted meanwhile."""
    connection.execute("SET preserve_insertion_order = false")
    for kind in ("requests", "mirrors", "outcomes"):
        columns = ", ".join(f'"{name}" {type_}' for name, type_ in FIELDS[kind].items())
        connection.execute(f"CREATE OR REPLACE TEMP TABLE all_{kind} ({columns})")
        names = ", ".join(f'"{name}"' for name in FIELDS[kind])
        mine = (
            "run IN (SELECT unnest($runs))"
            if kind != "outcomes"
            else "event_id IN (SELECT event_id FROM all_requests UNION ALL SELECT event_id FROM all_mirrors)"
        )
        given = {} if kind == "outcomes" else {"runs": runs}
        for events in each_source(connection, folder, kind, tuple(FIELDS[kind])):
            connection.execute(
                f"INSERT INTO all_{kind} SELECT {names} FROM {events} WHERE event_id <> '' AND {mine}", given
            )
    once = _FIRST.format(key="event_id")
    connection.execute(f"CREATE OR REPLACE TABLE requests AS FROM all_requests {once}")
    connection.execute(
        f"""CREATE OR REPLACE TABLE mirrors AS
        SELECT mirrored.*, {", ".join(f"requests.{name}" for name in _SERVED)}
        FROM (FROM all_mirrors {once}) AS mirrored LEFT JOIN requests USING (event_id)"""
    )
    connection.execute(
        f"""CREATE OR REPLACE TABLE outcomes AS
        SELECT event_id, told.name AS name, told.value AS value, occurred_at, received_at
        FROM (SELECT event_id, occurred_at, received_at,
                     unnest([{{'name': 'outcome', 'value': outcome}}] || list_transform(
                         coalesce(map_entries("values"), []), lambda told: {{'name': 'values.' || told.key, 'value': told.value}}
                     )) AS told FROM all_outcomes)
        WHERE told.value IS NOT NULL {_FIRST.format(key="event_id, told.name")}"""
    )


def _tell(connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make a table of what is known of runs or entries; what is missing stays empty."""
    fields = _KNOWN[table]
    columns = ", ".join(f"{name} {kind}" for name, kind in fields.items())
    connection.execute(f"CREATE TABLE {table} ({columns})")
    for row in rows:
        values = [
            json.dumps(row[name]) if kind == "JSON" and name in row else row.get(name)
            for name, kind in fields.items()
        ]
        connection.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(fields))})", values)
