"""Moments of a closed partition of events that are joined with their outcomes already, as Parquet files or any table.

A warehouse that keeps exposures and outcomes in one table needs no event log: `fold` makes the same increment from it,
in one pass. Columns and their meaning are those of `understudy.events.expressions`; cohort columns bear their own names.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import duckdb
import ibis
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from understudy.events.expressions import LARGEST, measured, moments
from understudy.events.increment import Increment
from understudy.events.query import MISSING, SERVED_VALUES, VALUE_KINDS, EvidenceQuery

__all__ = ["fold", "partition_sql"]


def fold(connection: duckdb.DuckDBPyConnection, table: str, query: EvidenceQuery) -> Increment:
    """Return the increment of every event of a table.

    Args:
        connection: where the table is; a view over ``read_parquet(...)`` will do.
        table: its name.
        query: what to measure.

    Raises:
        ValueError: a column that the query reads is missing.
    """
    columns = tuple(
        column[0] for column in connection.execute(f'SELECT * FROM "{table}" LIMIT 0').description
    )
    _needed(query, columns, table)
    if _may_trust(connection, table, query, columns):
        try:
            found = connection.execute(partition_sql(query, columns, table, trusting=True)).fetchnumpy()
        except duckdb.OutOfRangeException:  # a variance that is not finite
            found = {}
        if found and _sound(found, query):
            return _increment(found, query)
    return _increment(connection.execute(partition_sql(query, columns, table)).fetchnumpy(), query)


def partition_sql(
    query: EvidenceQuery,
    columns: tuple[str, ...],
    table: str = "events",
    dialect: str = "duckdb",
    *,
    trusting: bool = False,
) -> str:
    """Return the one pass over a table as SQL.

    Args:
        query: what to measure.
        columns: the table's columns.
        table: its name.
        dialect: whose SQL, as Ibis and sqlglot call it.
        trusting: without a check of every number; see `understudy.events.expressions.measured`.

    Raises:
        ValueError: a column that the query reads is missing.
    """
    asked = (query.model, query.metrics, query.cohorts, query.maturity)
    return _compiled(asked, columns, table, dialect, trusting)


@lru_cache(maxsize=64)
def _compiled(
    asked: tuple[Any, ...], columns: tuple[str, ...], table: str, dialect: str, trusting: bool
) -> str:
    query = EvidenceQuery(*asked)
    each = measured(bound(query, columns, table), query, trusting=trusting)
    return str(ibis.to_sql(moments(each, query), dialect=dialect))


def _may_trust(
    connection: duckdb.DuckDBPyConnection, table: str, query: EvidenceQuery, columns: tuple[str, ...]
) -> bool:
    """Tell whether every event is due and every denominator counts something; statistics of the files say so at once."""
    conditional = {"age", "arrived", *(f"{name}_at" for name in _numbers(query))}
    if conditional & set(columns) or any(
        metric.kind not in VALUE_KINDS or metric.cap for metric in query.metrics
    ):
        return False
    below = [f"min({_column(metric.over)})" for metric in query.metrics if metric.over is not None]
    if not below:
        return True
    lowest = connection.execute(f'SELECT {", ".join(below)} FROM "{table}"').fetchone() or ()
    return all(value is not None and value >= 0 for value in lowest)


def _sound(found: dict[str, NDArray[Any]], query: EvidenceQuery) -> bool:
    """Tell whether the pass without checks met nothing but finite numbers."""
    for index, metric in enumerate(query.metrics):
        sums = [found[f"{name}{index}"] for name in ("mean", "m2", "d") if f"{name}{index}" in found]
        if not all((np.abs(np.ma.filled(part, 0)) <= LARGEST).all() for part in sums):
            return False
        if metric.kind == "ratio" and not np.array_equal(found[f"n{index}"], found[f"nd{index}"]):
            return False
    return True


def bound(query: EvidenceQuery, columns: tuple[str, ...], table: str = "events") -> Any:
    """Return the table as an expression that has what the query reads, cohorts by position.

    Raises:
        ValueError: a column that the query reads is missing.
    """
    needed = _needed(query, columns, table)
    optional = {"age": "float64", "arrived": "boolean", "event_time": "float64"}
    optional |= {f"{name}_at": "float64" for name in _numbers(query)}
    optional |= {f"u_{metric.name}": "boolean" for metric in query.metrics}
    optional |= {f"x_{metric.name}_{part}": "float64" for metric in query.metrics for part in "nd"}
    kinds = needed | {name: kind for name, kind in optional.items() if name in columns}
    return ibis.table(kinds, name=table).rename(
        {f"c{index}": name for index, name in enumerate(query.cohorts)}
    )


def _needed(query: EvidenceQuery, columns: tuple[str, ...], table: str) -> dict[str, str]:
    """Return the columns that the query must have, with their types; one that is missing is an error."""
    needed = dict.fromkeys(("stage", "arm", "bucket"), "int32")
    needed |= {"hour": "int32"} if "hour" in columns else {"event_time": "float64"}
    needed |= dict.fromkeys(query.cohorts, "string") | dict.fromkeys(_numbers(query), "float64")
    if any(metric.kind == "error_rate" for metric in query.metrics):
        needed |= {"failed": "boolean", "fallback": "boolean"}
    if missing := sorted(set(needed) - set(columns)):
        raise ValueError(
            f"table {table!r} has no column {missing[0]!r}, which the query reads; it has {sorted(columns)}"
        )
    return needed


def _column(name: str) -> str:
    return name if name in SERVED_VALUES else f"v_{name}"


def _numbers(query: EvidenceQuery) -> set[str]:
    """Return the columns of numbers that the metrics read."""
    found = set()
    for metric in query.metrics:
        found |= {name if name == "outcome" else _column(name) for name in metric.inputs}
        found |= {name for name in (metric.value, metric.over) if name in SERVED_VALUES}
        if metric.kind == "latency_over":
            found.add("latency_ms")
        elif metric.inputs == ("outcome",):
            found.add("prediction")
    return found


def _increment(columns: dict[str, NDArray[Any]], query: EvidenceQuery) -> Increment:
    plain = {name: column for name, column in columns.items() if name[0] != "c"}
    cohort = np.zeros(len(columns["stage"]), dtype=np.int64)
    tuples: list[tuple[str, ...]] = [()]
    for index in range(len(query.cohorts)):
        codes, names = pd.factorize(np.ma.filled(columns[f"c{index}"], MISSING))
        # One column after the other, so that only combinations that occur get a number.
        cohort, present = pd.factorize(cohort * len(names) + codes)
        tuples = [(*tuples[at // len(names)], str(names[at % len(names)])) for at in present.tolist()]
    plain = {name: np.ma.filled(column, 0) for name, column in plain.items()} | {"cohort": cohort}
    return Increment.from_columns(plain, query, tuple(tuples), **_units(plain, query))


def _units(columns: dict[str, NDArray[Any]], query: EvidenceQuery) -> dict[str, NDArray[Any]]:
    """Return the rows of units: what the events say once per unit counts for everybody and for its cohorts."""
    parts = []
    for index, metric in enumerate(query.metrics):
        sums = [columns.get(f"{name}{index}") for name in ("un", "xn", "xd")]
        if not metric.follows_units or all(part is None for part in sums):
            continue
        n, xn, xd = (np.zeros(len(columns["stage"])) if part is None else part for part in sums)
        some = (n != 0) | (xd != 0)
        for column in range(-1, len(query.cohorts)):
            fixed = [np.full(some.sum(), value) for value in (index, column)]
            keys = [columns[name][some] for name in ("stage", "arm", "bucket", "cohort")]
            parts.append([*fixed, *keys, n[some], xn[some], xd[some]])
    names = ("metric", "column", "stage", "arm", "bucket", "cohort", "n", "xn", "xd")
    arrays = (
        [np.concatenate(same) for same in zip(*parts, strict=True)] if parts else [np.zeros(0)] * len(names)
    )
    return {f"unit_{name}": array for name, array in zip(names, arrays, strict=True)}
