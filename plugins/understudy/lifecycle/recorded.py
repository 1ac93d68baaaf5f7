"""What was recorded of the champion: its answers in the event log, or the holdout that it scores now.

What an answer costs is measured by the same expressions that measure a run, so that both mean the same by a metric.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from understudy.errors import NoHistory, UnderstudyError
from understudy.events.query import EvidenceQuery
from understudy.lifecycle.evidence import metric_query
from understudy.registry import CHAMPION, Registry
from understudy.scoring import probabilities, read_dataset
from understudy.settings import Settings
from understudy.spec import Experiment, Metric, MetricKind

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "LEAST_EVENTS",
    "Recorded",
    "from_holdout",
    "from_log",
    "measured_metrics",
    "query_of",
    "ripe_after",
]

LEAST_EVENTS = 1000
"""So many counted events of every metric make the event log enough."""

_LEAST_FOR_RATES = 200
_LOOK_BACK = 14 * 86400.0
_OUTAGE_GAPS = 100.0
"""A pause of more than so many average pauses (and of more than `stale_after`) was an outage and is cut out."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Recorded:
    """Measured events in the order of time: one row each, with the columns that `_measured` gives."""

    frame: pd.DataFrame
    rate: float
    """Events per second of wall clock."""
    speed: float
    """Seconds of event time that pass in a second of wall clock; 1 unless traffic is replayed."""
    words: str


def query_of(experiment: Experiment) -> EvidenceQuery:
    """Return what is measured for a rehearsal: the deciding metrics, without adjustments by units' own past."""
    return EvidenceQuery(
        model=experiment.model,
        metrics=tuple(
            replace(metric_query(metric), covariate=None) for metric in measured_metrics(experiment)
        ),
        cohorts=experiment.traffic.cohorts,
        maturity=experiment.traffic.maturity,
    )


def measured_metrics(experiment: Experiment) -> list[Metric]:
    """Return the deciding metrics and those that a deciding fairness gap is about."""
    wanted = {metric.name for metric in experiment.deciding} | {metric.of for metric in experiment.deciding}
    return [m for m in experiment.metrics if m.name in wanted and m.kind is not MetricKind.FAIRNESS_GAP]


# --- the event log


def from_log(experiment: Experiment, settings: Settings, query: EvidenceQuery) -> Recorded | None:
    """Measure what the champion answered lately; None if the log is nearly empty."""
    from understudy.events.reader import EventLog

    reader = EventLog(settings.events_dir / experiment.model)
    reader.refresh()
    cohorts = "".join(f", coalesce(cohorts[$c{i}], '(missing)') AS c{i}" for i in range(len(query.cohorts)))
    at = "coalesce(occurred_at, received_at)"
    values = "".join(
        f", arg_min(values['{name}'], received_at) AS v_{name}, arg_min({at}, received_at) AS v_{name}_at"
        for name in query.values
    )
    frame: pd.DataFrame = reader.connection.execute(
        f"""WITH mine AS (
            SELECT (hash(event_id) >> 1)::BIGINT AS id, event_id, received_at, event_time, version, unit, prediction,
                   latency_ms, cpu_ms, error IS NOT NULL OR NOT coalesce(isfinite(prediction), false) AS failed {cohorts}
            FROM requests
            WHERE arm <> 'challenger' AND NOT coalesce(fallback, false) AND unit <> ''
              AND received_at >= (SELECT max(received_at) FROM requests) - {_LOOK_BACK}
            QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY received_at) = 1
        ), told AS (
            SELECT event_id, min(received_at) AS heard_at, arg_min(outcome, received_at) AS outcome,
                   arg_min({at}, received_at) AS outcome_at {values}
            FROM outcomes GROUP BY event_id
        ) SELECT * EXCLUDE (event_id) FROM mine LEFT JOIN told USING (event_id) ORDER BY received_at, id""",  # noqa: S608
        {f"c{i}": name for i, name in enumerate(query.cohorts)},
    ).df()
    if len(frame) < _LEAST_FOR_RATES:
        return None
    received = frame["received_at"].to_numpy(dtype=float)
    active = _without_outages(received, experiment.stale_after)
    span = max(float(active[-1]), 1e-6)
    passed = float(frame["event_time"].max() - frame["event_time"].min())
    speed = passed / span if passed > 0 else 1.0
    rate = len(frame) / span
    frame = frame.assign(at=active)
    champion = str(frame["version"].iloc[-1])
    own = frame[frame["version"].astype(str) == champion]
    measured = _measured(frame, query)
    mine = measured[measured["version"].astype(str) == champion]
    words = f"event log, answers of version {champion}"
    if len(own) < LEAST_EVENTS or not _ripe_enough(mine, query):
        mine, words = measured, "event log, all versions in production"
    mine = _ripe(mine, query)
    if not len(mine):
        return Recorded(measured, rate, speed, words)
    return Recorded(mine, rate, speed, words)


def _without_outages(received: Floats, stale_after: float) -> Floats:
    """Return seconds since the first event, with pauses that were outages cut down to an average pause."""
    gaps = np.diff(received, prepend=received[:1])
    usual = float(np.quantile(gaps, 0.99)) if len(gaps) else 0.0
    mean = float(gaps[gaps <= max(usual, 1e-9)].mean()) if len(gaps) else 0.0
    outage = gaps > max(stale_after, _OUTAGE_GAPS * mean)
    return np.asarray(np.cumsum(np.where(outage, mean, gaps)))


def ripe_after(query: EvidenceQuery) -> float:
    """Return the age, in seconds of event time, at which the outcome of an event counts for every metric."""
    return max((metric.ripe_after(query.maturity) for metric in query.metrics), default=0.0)


def _ripe(frame: pd.DataFrame, query: EvidenceQuery) -> pd.DataFrame:
    """Keep the events whose outcome would be known by now; the rest says nothing about missing ones."""
    newest = frame["event_time"].max()
    kept: pd.DataFrame = frame[frame["event_time"] <= newest - ripe_after(query)]
    return kept


def _ripe_enough(frame: pd.DataFrame, query: EvidenceQuery) -> bool:
    ripe = _ripe(frame, query)
    counted = [int(np.isfinite(ripe[f"y{i}"].to_numpy(dtype=float)).sum()) for i in range(len(query.metrics))]
    return min(counted, default=0) >= LEAST_EVENTS


def _measured(frame: pd.DataFrame, query: EvidenceQuery) -> pd.DataFrame:
    """Add to every event what it costs by each metric, ``y<i>``, and for ratios ``z<i>``; NaN where it does not count."""
    import duckdb

    from understudy.events.expressions import events_table, moments_sql

    # Every event is old enough, of one arm, and was not counted before; what nobody recorded is missing.
    given: dict[str, Any] = {"id": np.arange(len(frame)), "arrived": True, "age": 1e18}
    candidates = frame.drop(columns=[name for name in ("unit", *given) if name in frame.columns]).assign(
        **given
    )
    for name, kind in events_table(query).schema().items():
        if name not in candidates:
            candidates[name] = np.nan if kind.is_floating() else False if kind.is_boolean() else 0
        if kind.is_floating():
            candidates[name] = candidates[name].astype(float)
    with duckdb.connect(":memory:") as connection:
        connection.register("given", candidates)
        connection.execute("CREATE TABLE candidates AS SELECT * FROM given")
        each = moments_sql(query)[0]
        columns = ", ".join(
            f"y{i}, w{i}" + (f", z{i}" if m.kind == "ratio" else "") for i, m in enumerate(query.metrics)
        )
        costs = connection.execute(f"SELECT {columns} FROM ({each}) ORDER BY id").df()  # noqa: S608
    return frame.reset_index(drop=True).join(costs)


# --- the holdout


def from_holdout(
    experiment: Experiment,
    settings: Settings,
    query: EvidenceQuery,
    registry: Registry | None,
    logged: Recorded | None,
    holdout: Path | None = None,
) -> tuple[Recorded, dict[str, str]]:
    """Score the holdout with the champion; what only traffic can tell is taken from the log, or assumed.

    Args:
        experiment: The spec.
        settings: The installation.
        query: What is measured.
        registry: Where the champion is loaded from; default: the installation's.
        logged: What the event log tells, if it tells anything.
        holdout: The copy of the holdout that a run keeps; default: the file as it is now.
    """
    place = holdout or settings.data / experiment.data.holdout
    frame, version = _scored(experiment, settings, query, registry, place)
    if logged is not None:
        rate, speed, traffic = logged.rate, logged.speed, "event log"
    elif "scheduled" in frame.columns:
        passed = float(frame["scheduled"].max() - frame["scheduled"].min())
        rate, speed, traffic = len(frame) / max(passed, 1e-6), 1.0, "holdout"
    else:
        raise NoHistory(
            f"Nothing tells how often {experiment.model} is asked: its event log is empty and the holdout names no "
            "traffic.event_time. Serve the champion for a while."
        )
    # The holdout's own rhythm, where it has one; the rate of the traffic is laid over it later.
    rhythm = frame["scheduled"] if "scheduled" in frame.columns else np.arange(len(frame))
    frame = frame.assign(at=rhythm)
    measured = _measured(frame, query)
    sources = {"traffic": traffic}
    rng = np.random.default_rng(0)
    for index, metric in enumerate(query.metrics):
        sources[metric.name] = f"holdout scored by version {version}"
        if not metric.served:
            continue
        known = None if logged is None else logged.frame[f"y{index}"].dropna().to_numpy(dtype=float)
        if known is not None and len(known):
            measured[f"y{index}"] = rng.choice(known, len(measured))
            sources[metric.name] = "event log, dealt out to the units of the holdout"
        elif metric.kind == "latency_over":
            measured[f"y{index}"] = 0.0
            sources[metric.name] = "assumed: never slow, because no request has been logged"
    return Recorded(measured, rate, speed, "holdout"), sources


def _scored(
    experiment: Experiment, settings: Settings, query: EvidenceQuery, registry: Registry | None, place: Path
) -> tuple[pd.DataFrame, str]:
    import pandas as pd

    data, traffic = experiment.data, experiment.traffic
    try:
        holdout = read_dataset(place, data.holdout)
        if traffic.event_time in holdout.columns:
            holdout = holdout.sort_values(str(traffic.event_time), kind="stable").reset_index(drop=True)
        doors = registry or Registry(settings)
        version = doors.alias(experiment.model, CHAMPION)
        if version is None:
            raise NoHistory(f"no version of {experiment.model} has the alias {CHAMPION!r}")
        withheld = [data.label, traffic.unit, *traffic.private]
        prediction = probabilities(
            doors.load(experiment.model, version), holdout.drop(columns=withheld, errors="ignore")
        )
    except UnderstudyError as error:
        raise NoHistory(
            f"The event log of {experiment.model} knows too little to rehearse {experiment.name}, and the holdout cannot take "
            f"its place: {error.message} Serve the champion for a while, or let the command reach MLflow and the data."
        ) from error
    columns: dict[str, Any] = {
        "prediction": prediction,
        "failed": ~np.isfinite(prediction),
        "outcome": pd.to_numeric(holdout[data.label], errors="coerce").to_numpy(dtype=float, na_value=np.nan),
        "unit": holdout[traffic.unit].astype(str).to_numpy(),
        "event_time": np.arange(len(holdout), dtype=float),
    }
    columns |= {
        f"{name}_at": columns["event_time"] for name in ("outcome", *(f"v_{value}" for value in query.values))
    }
    columns |= {
        f"v_{name}": holdout[name].to_numpy(dtype=float) for name in query.values if name in holdout.columns
    }
    for index, name in enumerate(query.cohorts):
        values = (
            holdout[name].astype(str).to_numpy()
            if name in holdout.columns
            else np.full(len(holdout), "(missing)")
        )
        columns[f"c{index}"] = values
    frame = pd.DataFrame(columns)
    if traffic.event_time in holdout.columns:
        frame["scheduled"] = holdout[traffic.event_time].to_numpy(dtype=float)
    return frame, version
