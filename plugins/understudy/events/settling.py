"""Marks what a look has counted, counts units for metrics that follow them, and forgets what is done with."""

from __future__ import annotations

from typing import Any

import numpy as np

from understudy.events.counters import Counters, Ripeness
from understudy.events.query import EvidenceQuery
from understudy.events.run_log import RunLog

__all__ = ["GIVEN_UP", "enter_units", "measure", "settle"]

GIVEN_UP = 30 * 86400.0
"""Seconds of event time after which an event that is ripe is no longer waited for."""

_MUCH = 100_000


def measure(log: RunLog, watermark: float) -> None:
    """Make ``measured``: every event that may count now, with what it contributes to each metric."""
    query = log.query
    told = (
        "told_at",
        "outcome",
        "outcome_at",
        *(f"v_{name}{at}" for name in query.values for at in ("", "_at")),
    )
    columns = "pending.*, $watermark - event_time AS age, " + ", ".join(f"known.{column}" for column in told)
    log.run(
        f"""CREATE OR REPLACE TEMP TABLE candidates AS
        SELECT {columns} FROM pending LEFT JOIN known USING (id) WHERE arrived
        UNION ALL
        SELECT {columns} FROM pending JOIN known USING (id) WHERE NOT arrived AND event_time <= $watermark - $youngest""",
        watermark=watermark, youngest=query.maturity,
    )  # fmt: skip
    log.run(f"CREATE OR REPLACE TEMP TABLE measured AS {log.measured_sql}")


def enter_units(log: RunLog) -> dict[str, Any]:
    """Count units that a metric has not counted before, per stage: everybody, and by each cohort column.

    Returns:
        The ``unit_*`` arrays of an increment.
    """
    rows: list[tuple[Any, ...]] = []
    for index, metric in enumerate(log.query.metrics):
        if metric.follows_units:
            for column in range(-1, len(log.query.cohorts)):
                rows += _entered(log, index, column, past=metric.covariate is not None)
    names = ("metric", "column", "stage", "arm", "bucket", "cohort", "n", "xn", "xd")
    arrays = zip(*sorted(rows), strict=True) if rows else ((),) * len(names)
    return {f"unit_{name}": np.array(array) for name, array in zip(names, arrays, strict=True)}


def _entered(log: RunLog, index: int, column: int, *, past: bool) -> list[tuple[Any, ...]]:
    value = "''" if column < 0 else f"c{column}"
    which = {"metric": index, "grouping": column}
    log.run(
        f"""CREATE OR REPLACE TEMP TABLE entering AS
        SELECT stage, arm, unit, {value} AS value, any_value(bucket) AS bucket,
               arg_min(cohort, (event_time, id)) AS cohort
        FROM measured JOIN tuples USING (cohort) WHERE y{index} IS NOT NULL GROUP BY stage, arm, unit, value"""
    )
    log.run(
        """CREATE OR REPLACE TEMP TABLE entering AS FROM entering ANTI JOIN (
               FROM entered WHERE metric = $metric AND grouping = $grouping) USING (stage, arm, unit, value)""",
        **which,
    )
    log.run("INSERT INTO entered SELECT $metric, $grouping, value, stage, arm, unit FROM entering", **which)
    sums = f"coalesce(sum(past.n{index}), 0), coalesce(sum(past.d{index}), 0)" if past else "0.0, 0.0"
    found = log.run(
        f"""SELECT $metric, $grouping, stage, arm, bucket, cohort, count(*), {sums}
        FROM entering {"LEFT JOIN past USING (unit)" if past else ""} GROUP BY stage, arm, bucket, cohort""",
        **which,
    ).fetchall()
    return [tuple(row) for row in found]


def settle(log: RunLog, watermark: float, counters: Counters) -> tuple[Ripeness, dict[str, int]]:
    """Mark what was counted, and forget the events that nothing more can come of.

    Returns:
        How ripe events stand after it, and per metric of units how many units are ripe without a value.
    """
    ripe = watermark - log.query.maturity
    waiting = log.by_arm(
        "SELECT arm, count(*) FROM pending WHERE event_time <= $ripe GROUP BY arm", ripe=ripe
    )
    labelled = log.by_arm(
        "SELECT arm, count(*) FROM measured WHERE event_time <= $ripe AND told_at >= event_time GROUP BY arm",
        ripe=ripe,
    )
    _finish(log, ripe, watermark - _oldest(log.query) - GIVEN_UP)
    done, known = [0, 0], [0, 0]
    for arm, count, labels in log.run(
        "SELECT arm, count(*), count(*) FILTER (labelled) FROM finished GROUP BY arm"
    ).fetchall():
        done[arm], known[arm] = count, labels
        counters.arms[arm].settled += count
        counters.arms[arm].labelled += labels
    _mark(log)
    without = {
        metric.name: _units_without_value(log, index, watermark - metric.ripe_after(log.query.maturity))
        for index, metric in enumerate(log.query.metrics)
        if metric.per_unit and not metric.served
    }
    if sum(done):
        _forget(log, sum(done))
    log.run("UPDATE pending SET arrived = false WHERE arrived")
    left = [(waiting[arm] - done[arm], labelled[arm] - known[arm]) for arm in range(2)]
    return Ripeness((left[0][0], left[1][0]), (left[0][1], left[1][1])), without


def _finish(log: RunLog, ripe: float, given_up: float) -> None:
    """List the events that every metric has counted, and those that have been waited for long enough."""
    every = " AND ".join(f"(done{index} OR w{index})" for index in log.query.labels)
    table = "measured" if every else "pending LEFT JOIN known USING (id)"
    log.run(
        f"""CREATE OR REPLACE TEMP TABLE finished AS
        SELECT id, arm, coalesce(told_at >= event_time, false) AS labelled
        FROM {table} WHERE event_time <= $ripe AND {every or "true"}""",
        ripe=ripe,
    )
    log.run(
        """INSERT INTO finished SELECT id, arm, coalesce(told_at >= event_time, false)
        FROM (FROM pending ANTI JOIN finished USING (id) WHERE event_time < $given_up) LEFT JOIN known USING (id)""",
        given_up=given_up,
    )


def _mark(log: RunLog) -> None:
    """Note which metrics have counted an event that others still wait for."""
    labels = log.query.labels
    if not labels:
        return
    some = " OR ".join(f"w{index}" for index in labels)
    log.run(
        f"CREATE OR REPLACE TEMP TABLE partly AS FROM measured ANTI JOIN finished USING (id) WHERE {some}"
    )
    if log.run("SELECT count(*) FROM partly").fetchone()[0]:
        done = ", ".join(f"done{index} = pending.done{index} OR partly.w{index}" for index in labels)
        log.run(f"UPDATE pending SET {done} FROM partly WHERE pending.id = partly.id")


def _forget(log: RunLog, many: int) -> None:
    (left,) = log.run("SELECT count(*) FROM pending").fetchone()
    log.deleted += many
    for table in ("pending", "known"):
        if log.deleted > max(left, _MUCH):
            # A deleted row keeps its memory until the table is written anew.
            log.run(f"CREATE OR REPLACE TABLE {table} AS FROM {table} ANTI JOIN finished USING (id)")
        else:
            log.run(f"DELETE FROM {table} WHERE id IN (SELECT id FROM finished)")
    if log.deleted > max(left, _MUCH):
        log.deleted = 0


def _units_without_value(log: RunLog, index: int, ripe: float) -> int:
    """Count units with ripe events of which none has brought a value of the metric."""
    found = log.run(
        f"""SELECT count(*) FROM (
            FROM (SELECT DISTINCT arm, unit FROM pending WHERE event_time <= $ripe AND NOT done{index})
            ANTI JOIN (FROM entered WHERE metric = $metric AND grouping = -1) USING (arm, unit))""",
        ripe=ripe, metric=index,
    ).fetchone()  # fmt: skip
    return int(found[0])


def _oldest(query: EvidenceQuery) -> float:
    return max((metric.ripe_after(query.maturity) for metric in query.metrics), default=query.maturity)
