"""The one pass from events to moments, as Ibis expressions, so that any engine that Ibis knows can make it.

``measured`` turns every event into its contribution to every metric on the harm scale (more is worse); ``moments``
aggregates those by stage, arm, hour of event time, unit bucket and cohort values, for all metrics at once. Variance is
the engine's own numerically stable aggregate (Welford), never a sum of squares.

The table of events has these columns: ``stage`` and ``arm`` (0 control, 1 challenger), ``bucket`` (0..255, the first two
hex digits of the unit's pseudonym), ``event_time``, one ``c0, c1, ..`` per cohort column (or ``cohort``, a number that stands
for all of them), ``prediction``, ``latency_ms``,
``cpu_ms``, ``failed`` and ``fallback``, ``outcome`` and one ``v_<name>`` per number that comes with outcomes. Columns
that no metric of the query reads may be missing. Optional are

* ``hour``: hours of event time since 1970, as an integer; with it ``event_time`` is needed only for windows. Engines group
  by a stored integer in half the time that they need for a computed one;
* ``outcome_at`` and ``v_<name>_at``: when it occurred; without it windows are not applied;
* ``age``: seconds of event time that have passed since; without it every event is mature;
* ``arrived``: true for events not counted yet; without it all of them are;
* ``done<i>``: true where metric ``i``, which waits for an outcome, has counted the event already;
* ``x_<metric>_n`` and ``x_<metric>_d``: the unit's own past of a metric, on one event of each unit and stage;
* ``u_<metric>``: true on one event of each unit and stage, for metrics per unit.
"""

from __future__ import annotations

from functools import lru_cache

import ibis
import ibis.expr.types as ir

from understudy.events.query import EvidenceQuery, MetricQuery

__all__ = ["LARGEST", "events_table", "measured", "moments", "moments_sql"]

LARGEST = 1e100
"""Beyond this a value counts as not finite: its square must still be a number."""

_CLIP = 1e-6
HOUR = 3600


def events_table(query: EvidenceQuery) -> ir.Table:
    """Return the table ``candidates`` as the event log gives it, bound to no engine yet."""
    columns = {"stage": "int32", "arm": "int32", "hour": "int32", "bucket": "int32", "event_time": "float64"}
    columns |= dict.fromkeys(("prediction", "latency_ms", "cpu_ms"), "float64")
    columns |= dict.fromkeys(("failed", "fallback"), "boolean")
    for column in ("outcome", *(f"v_{value}" for value in query.values)):
        columns |= {column: "float64", f"{column}_at": "float64"}
    columns |= {"id": "int64", "unit": "int64", "cohort": "int32", "told_at": "float64"}
    columns |= {"age": "float64", "arrived": "boolean"}
    columns |= {f"done{index}": "boolean" for index in query.labels}
    return ibis.table(columns, name="candidates")


def measured(events: ir.Table, query: EvidenceQuery, *, trusting: bool = False) -> ir.Table:
    """Add to every event what it contributes to metric ``i``.

    Args:
        events: the table described above.
        query: what to measure.
        trusting: take every number as finite and every event as due. That saves a quarter of the time; whoever does it
            must look at the result and, if anything in it is not finite, ask again without.

    Returns:
        The events with ``w<i>`` (the metric counts the event now), ``y<i>`` (its value on the harm scale; null where it
        does not count or is not finite), ``b<i>`` (it counts, but its value is not finite) and, for ratios, ``z<i>``.
    """
    added: dict[str, ir.Value] = {}
    for index, metric in enumerate(query.metrics):
        value, over = _value(events, metric), _over(events, metric)
        if trusting:
            continue
        due = _due(events, metric, index, query.maturity)
        usable = _finite(value)
        if over is not None:
            usable = usable & _finite(over) & (over >= 0).fill_null(False)
        nothing = ibis.null("float64")
        added[f"w{index}"] = due
        added[f"y{index}"] = ibis.ifelse(due & usable, value, nothing)
        added[f"b{index}"] = due & ~usable
        if over is not None:
            added[f"z{index}"] = ibis.ifelse(due & usable, over, nothing)
    return events.mutate(**added) if added else events


def moments(found: ir.Table, query: EvidenceQuery) -> ir.Table:
    """Aggregate what ``measured`` returned.

    Returns:
        One row per stage, arm, hour, bucket and cohort values, with ``n<i>``, ``mean<i>``, ``m2<i>`` (sum of squared
        deviations), ``bad<i>`` (values that were not finite) and, where the events have them, ``d<i>`` (sum of the
        denominators), ``xn<i>``, ``xd<i>`` (sums of the units' past) and ``un<i>`` (units).
    """
    hour = found.hour if "hour" in found.columns else (found.event_time / HOUR).floor().cast("int64")
    named = ["cohort"] if "cohort" in found.columns else [f"c{index}" for index in range(len(query.cohorts))]
    keys = ["stage", "arm", "hour", "bucket", *named]
    sums: dict[str, ir.Value] = {}
    for index, metric in enumerate(query.metrics):
        if f"y{index}" in found.columns:
            value, sign = found[f"y{index}"], 1
            sums[f"bad{index}"] = found[f"b{index}"].sum()
        else:  # the number itself: metrics that read the same one then share its aggregates
            value, sign = _number(found, str(metric.value)), -1 if metric.better == "higher" else 1
        count, mean = value.count(), value.mean()
        sums |= {
            f"n{index}": count,
            f"mean{index}": mean if sign > 0 else -mean,
            f"m2{index}": value.var(how="pop") * count,
        }
        if metric.over is not None:
            below = found[f"z{index}"] if f"z{index}" in found.columns else _number(found, metric.over)
            sums |= {f"d{index}": below.sum(), f"nd{index}": below.count()}
        for short, column in ((f"x{part}", f"x_{metric.name}_{part}") for part in "nd"):
            if metric.covariate and column in found.columns:
                sums[f"{short}{index}"] = found[column].sum()
        if metric.per_unit and f"u_{metric.name}" in found.columns:
            sums[f"un{index}"] = found[f"u_{metric.name}"].sum()
    return found.mutate(hour=hour).group_by(keys).aggregate(**sums)


@lru_cache(maxsize=64)
def _compiled(key: tuple[object, ...]) -> tuple[str, str]:
    query = EvidenceQuery(*key)  # type: ignore[arg-type]
    each = measured(events_table(query), query)
    table = ibis.table(each.schema(), name="measured")
    return str(ibis.to_sql(each, dialect="duckdb")), str(ibis.to_sql(moments(table, query), dialect="duckdb"))


def moments_sql(query: EvidenceQuery) -> tuple[str, str]:
    """Return both expressions as DuckDB's SQL: one reads ``candidates``, the other what it gave, as ``measured``."""
    return _compiled((query.model, query.metrics, query.cohorts, query.maturity))


def _value(events: ir.Table, metric: MetricQuery) -> ir.FloatingValue:
    """Return the metric's numerator on the harm scale; anything where an input is missing."""
    if metric.value is not None:
        number = _number(events, metric.value)
        if metric.cap is not None:
            # `least` of nothing, or of NaN, would be the cap itself.
            capped = ibis.least(number, ibis.literal(float(metric.cap)))
            number = ibis.ifelse(_finite(number), capped, ibis.null("float64"))
        return -number if metric.better == "higher" else number
    if metric.kind == "error_rate":
        return _indicator(events.failed | events.fallback)
    if metric.kind == "latency_over":
        slow = _indicator(events.latency_ms > metric.limit_ms)
        return ibis.ifelse(_finite(events.latency_ms), slow, ibis.null("float64"))
    return _loss(metric.kind, events.prediction, events.outcome)


def _loss(kind: str, p: ir.FloatingColumn, y: ir.FloatingColumn) -> ir.FloatingValue:
    """Return what `understudy.stats.losses.row_loss` returns, or the calibration's signed error."""
    known = _finite(p) & _finite(y)
    if kind == "log_loss":
        clipped = ibis.greatest(ibis.least(p, 1 - _CLIP), _CLIP)
        found = -(y * clipped.ln() + (1 - y) * (1 - clipped).ln())
    elif kind == "accuracy":
        found = -_indicator((p >= 0.5) == (y >= 0.5))
    else:
        error = p - y
        found = error * error if kind == "brier" else error
    return ibis.ifelse(known, found, ibis.null("float64"))


def _over(events: ir.Table, metric: MetricQuery) -> ir.FloatingValue | None:
    return None if metric.over is None else _number(events, metric.over)


def _number(events: ir.Table, name: str) -> ir.FloatingColumn:
    return events[name if name in events.columns else f"v_{name}"]


def _due(events: ir.Table, metric: MetricQuery, index: int, maturity: float) -> ir.BooleanValue:
    """Tell which events the metric counts now."""
    if metric.served:
        return _optional(events, "arrived", True)
    conditions = [~_optional(events, f"done{index}", False)]
    if "age" in events.columns:
        conditions.append(events.age >= metric.ripe_after(maturity))
    for name in metric.inputs:
        column = name if name == "outcome" else f"v_{name}"
        conditions.append(events[column].notnull())
        if f"{column}_at" in events.columns:
            delay = events[f"{column}_at"] - events.event_time
            within = delay >= 0
            conditions.append(within if metric.window is None else within & (delay <= metric.window))
    every = conditions[0]
    for condition in conditions[1:]:
        every = every & condition
    return every.fill_null(False)


def _optional(events: ir.Table, name: str, default: bool) -> ir.BooleanValue:
    return events[name] if name in events.columns else ibis.literal(default)


def _finite(value: ir.FloatingValue) -> ir.BooleanValue:
    """Tell finite numbers. NaN compares as the largest number on every engine, so one comparison finds all of them."""
    return (value.abs() <= LARGEST).fill_null(False)


def _indicator(condition: ir.BooleanValue) -> ir.FloatingValue:
    return ibis.ifelse(condition, 1.0, 0.0)
