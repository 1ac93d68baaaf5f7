"""Turns the event log into evidence: one look at one run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.events.reader import EventLog, LogState, event_log
from understudy.stats.cells import ALL, Cell, Cells
from understudy.stats.evidence import ArmQuality, Evidence, Quality, StageUnits
from understudy.stats.losses import LABEL_KINDS, SERVED_KINDS, row_loss
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split

__all__ = ["EvidenceQuery", "MetricQuery", "collect"]

ARMS = ("control", "challenger")
MISSING = "(missing)"


@dataclass(frozen=True)
class MetricQuery:
    """A metric to measure: its name, its kind, and for latency_over the limit in milliseconds."""

    name: str
    kind: str
    limit_ms: float | None = None


@dataclass(frozen=True)
class EvidenceQuery:
    """What to look for.

    Attributes:
        model: registered model name.
        metrics: what to measure.
        cohorts: names of the cohort columns; every value seen becomes a cohort of its own.
        maturity: seconds of event time after which an event's outcome is certainly known, if it ever will be.
        shares: planned shares per stage, ``{stage: {"control": .., "challenger": ..}}`` in any scale; units
            seen in a stage that is not listed make the sample-ratio test alarm.
    """

    model: str
    metrics: tuple[MetricQuery, ...]
    cohorts: tuple[str, ...] = ()
    maturity: float = 0.0
    shares: Mapping[int, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for metric in self.metrics:
            if metric.kind not in LABEL_KINDS | SERVED_KINDS:
                known = sorted(LABEL_KINDS | SERVED_KINDS)
                raise ValueError(f"kind of {metric.name!r} is {metric.kind!r}; it must be one of {known}")
            if metric.kind == "latency_over" and metric.limit_ms is None:
                raise ValueError(f"{metric.name!r} has no limit_ms; latency_over needs one")
        if not self.maturity >= 0:
            raise ValueError(f"maturity is {self.maturity!r}; it must be a number of seconds, zero or more")


@dataclass(frozen=True)
class _Rows:
    """The run's served events of both arms, one entry each, in an order that does not depend on the files."""

    arm: NDArray[np.int64]
    stage: NDArray[np.int64]
    unit: NDArray[np.int64]
    matured: NDArray[np.bool_]
    fallback: NDArray[np.bool_]
    error: NDArray[np.bool_]
    prediction: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    outcome: NDArray[np.float64]
    cohorts: dict[str, tuple[NDArray[np.int64], list[str]]]


def collect(events_dir: Path, experiment_view: EvidenceQuery, run_id: str, now: float) -> Evidence:
    """Look at a run.

    Metrics of served events count every event of the challenger and control arms. Metrics that need an
    outcome count an event only once it is older, in event time, than the maturity window: otherwise quickly
    known outcomes (an early landing) would be over-represented. Matured events without an outcome are counted
    as missing.

    Args:
        events_dir: root of the event log.
        experiment_view: what to look for.
        run_id: the run whose events count.
        now: wall clock of the look; whatever was received later is not in it.

    Returns:
        Evidence; without any event it is empty and every interval from it is undetermined.
    """
    log = event_log(events_dir, experiment_view.model)
    with log.lock:
        state = log.refresh()
        facts = _facts(log, run_id, now)
        rows = _load(log, experiment_view, run_id, now, facts)
    stages = sorted(set(rows.stage.tolist()))
    cells = Cells.stack(list(_cells(rows, experiment_view, stages)), stages)
    quality = _quality(rows, experiment_view.shares, stages, facts, state)
    return Evidence(experiment_view.model, run_id, float(now), cells, quality)


_FACTS = """
SELECT count(*) - count(DISTINCT event_id) AS duplicates, max(received_at) AS newest_received_at,
       max(event_time) AS watermark,
       count(*) FILTER (arm IN ('control', 'challenger') AND (unit IS NULL OR unit = '')) AS without_unit
FROM requests WHERE run = $run AND received_at <= $now
"""

# The first received line of an event id wins. Sorting makes sums independent of the order of files.
_SERVED = """
WITH mine AS (
    SELECT * FROM requests WHERE run = $run AND received_at <= $now {first_of_each}
), known AS (
    SELECT event_id, arg_min(outcome, received_at) AS outcome FROM outcomes
    WHERE received_at <= $now AND isfinite(outcome) GROUP BY event_id
)
SELECT CASE arm WHEN 'control' THEN 0 ELSE 1 END AS arm, stage, dense_rank() OVER (ORDER BY unit) AS unit,
       event_time <= $ripe AS matured, coalesce(fallback, false) AS fallback, error IS NOT NULL AS error,
       coalesce(prediction, 'nan') AS prediction, coalesce(latency_ms, 'nan') AS latency_ms,
       coalesce(outcome, 'nan') AS outcome {cohorts}
FROM mine LEFT JOIN known USING (event_id)
WHERE arm IN ('control', 'challenger') AND stage >= 1 AND unit <> ''
ORDER BY unit, received_at, event_id
"""
_FIRST = "QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY received_at, rowid) = 1"
_VALUES = """
SELECT DISTINCT coalesce(cohorts[$name], $missing) AS value FROM requests
WHERE run = $run AND arm IN ('control', 'challenger') AND received_at <= $now ORDER BY value
"""


def _facts(log: EventLog, run_id: str, now: float) -> dict[str, Any]:
    cursor = log.connection.execute(_FACTS, {"run": run_id, "now": now})
    names = [column[0] for column in cursor.description]
    return dict(zip(names, cursor.fetchone() or (), strict=True))


def _load(log: EventLog, view: EvidenceQuery, run_id: str, now: float, facts: Mapping[str, Any]) -> _Rows:
    window = {"run": run_id, "now": now}
    values: dict[str, list[str]] = {}
    parameters: dict[str, Any] = {**window, "ripe": (facts["watermark"] or 0.0) - view.maturity}
    columns = ""
    for index, name in enumerate(view.cohorts):
        found = log.connection.execute(_VALUES, {**window, "name": name, "missing": MISSING}).fetchall()
        values[name] = [str(row[0]) for row in found]
        value = f"coalesce(cohorts[$name{index}], '{MISSING}')"
        columns += f", list_position($values{index}, {value}) - 1 AS cohort{index}"
        parameters |= {f"values{index}": values[name], f"name{index}": name}
    # Windows over all lines are the dearest part of a look, and repeats are rare.
    sql = _SERVED.format(first_of_each=_FIRST if facts["duplicates"] else "", cohorts=columns)
    got = log.connection.execute(sql, parameters).fetchnumpy()
    arrays = {name: np.asarray(np.ma.getdata(column)) for name, column in got.items()}
    codes = [arrays.pop(f"cohort{index}").astype(np.int64) for index in range(len(view.cohorts))]
    cohorts = {name: (code, values[name]) for name, code in zip(view.cohorts, codes, strict=True)}
    return _Rows(
        cohorts=cohorts, **{name: column.astype(_KINDS.get(name, float)) for name, column in arrays.items()}
    )


_KINDS: dict[str, type] = {
    "arm": int,
    "stage": int,
    "unit": int,
    "matured": bool,
    "fallback": bool,
    "error": bool,
}


def _losses(rows: _Rows, metric: MetricQuery) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the loss of each event on the harm scale, and which events the metric counts."""
    every = np.ones(rows.arm.shape, dtype=bool)
    if metric.kind == "error_rate":
        return (_failed(rows) | rows.fallback).astype(float), every
    if metric.kind == "latency_over":
        slow = (rows.latency_ms > (metric.limit_ms or 0.0)).astype(float)
        return np.where(np.isfinite(rows.latency_ms), slow, np.nan), every
    return row_loss(metric.kind, rows.prediction, rows.outcome), rows.matured & np.isfinite(rows.outcome)


def _failed(rows: _Rows) -> NDArray[np.bool_]:
    """An answer that is not a number is an error, whether or not the server noticed."""
    return rows.error | ~np.isfinite(rows.prediction)


def _cells(rows: _Rows, view: EvidenceQuery, stages: list[int]) -> Iterator[Cell]:
    """Yield the moments of every metric in every cohort, the overall one first."""
    losses = [_losses(rows, metric) for metric in view.metrics]
    stage = np.searchsorted(np.asarray(stages, dtype=np.int64), rows.stage)
    everyone = np.ones(rows.arm.shape, dtype=bool)
    groups = [(ALL, everyone)]
    for name, (codes, values) in rows.cohorts.items():
        groups += [(f"{name}={value}", codes == code) for code, value in enumerate(values)]
    for cohort, inside in groups:
        picked = [np.flatnonzero(inside & (rows.arm == arm)) for arm in range(2)]
        units = [np.unique(rows.unit[index], return_inverse=True)[1] for index in picked]
        for metric, (loss, counted) in zip(view.metrics, losses, strict=True):
            arms = [
                _moments(loss[index], counted[index], unit, stage[index], stages)
                for index, unit in zip(picked, units, strict=True)
            ]
            yield Cell(metric.name, metric.kind, cohort, *arms)


def _moments(
    loss: NDArray[np.float64],
    counted: NDArray[np.bool_],
    unit: NDArray[np.int64],
    stage: NDArray[np.int64],
    stages: list[int],
) -> ArmMoments:
    finite = np.isfinite(loss)
    keep = counted & finite
    shape = (int(unit.max()) + 1 if unit.size else 0, len(stages))
    cell = (unit * shape[1] + stage)[keep]
    numerator = np.bincount(cell, loss[keep], shape[0] * shape[1]).reshape(shape)
    denominator = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    return ArmMoments.from_units(numerator, denominator, stages, int((counted & ~finite).sum()))


def _quality(
    rows: _Rows,
    shares: Mapping[int, Mapping[str, float]],
    stages: list[int],
    facts: Mapping[str, Any],
    state: LogState,
) -> Quality:
    per_stage = tuple(_stage_units(rows, stage, shares.get(stage)) for stage in stages)
    return Quality(
        control=_arm_quality(rows, 0),
        challenger=_arm_quality(rows, 1),
        stages=per_stage,
        splits=tuple(_splits(rows, shares, stages)),
        multi_arm_units=sum(stage.both for stage in per_stage),
        without_unit=int(facts["without_unit"]),
        duplicates=int(facts["duplicates"]),
        newest_received_at=facts["newest_received_at"],
        watermark=facts["watermark"],
        torn_lines=state.torn_lines,
        invalid_lines=state.invalid_lines,
    )


def _arm_quality(rows: _Rows, arm: int) -> ArmQuality:
    mine = rows.arm == arm
    labelled = np.isfinite(rows.outcome)

    def count(*conditions: NDArray[np.bool_]) -> int:
        return int(np.logical_and.reduce((mine, *conditions)).sum())

    return ArmQuality(
        units=len(np.unique(rows.unit[mine])),
        events=count(),
        matured=count(rows.matured),
        labelled=count(rows.matured, labelled),
        missing=count(rows.matured, ~labelled),
        early=count(~rows.matured, labelled),
        errors=count(_failed(rows)),
        fallbacks=count(rows.fallback),
        non_finite=count(~np.isfinite(rows.prediction), ~rows.error),
    )


def _stage_units(rows: _Rows, stage: int, shares: Mapping[str, float] | None) -> StageUnits:
    control, challenger = (
        np.unique(rows.unit[(rows.stage == stage) & (rows.arm == arm)]) for arm in range(2)
    )
    both = len(np.intersect1d(control, challenger, assume_unique=True))
    planned = [None if shares is None else float(shares[arm]) for arm in ARMS]
    return StageUnits(stage, len(control), len(challenger), planned[0], planned[1], both)


def _splits(rows: _Rows, shares: Mapping[int, Mapping[str, float]], stages: list[int]) -> Iterator[Split]:
    """Yield unit counts per proportion of shares, each unit once, in the arm of its first event there.

    Units stay in their arm while a ladder grows, so counting them again at each stage would count one
    coincidence again and again.
    """
    parts: list[tuple[float, list[int], tuple[float, ...]]] = []
    for stage in stages:
        planned = tuple(float(shares[stage][arm]) for arm in ARMS) if stage in shares else (0.0, 0.0)
        proportion = planned[1] / sum(planned) if sum(planned) > 0 else -1.0
        if parts and abs(parts[-1][0] - proportion) < 1e-9:
            parts[-1][1].append(stage)
        else:
            parts.append((proportion, [stage], planned))
    for _, members, planned in parts:
        inside = np.isin(rows.stage, members)
        _, first = np.unique(rows.unit[inside], return_index=True)
        counts = np.bincount(rows.arm[inside][first], minlength=2)
        yield Split(tuple(members), tuple(int(c) for c in counts), planned)
