"""The evidence of a run: what its spec asks for, gathered from the event log or rebuilt from the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from understudy import policy
from understudy.events import evidence as events
from understudy.session import Passage
from understudy.spec import Metric, MetricKind
from understudy.stats.evidence import Evidence, Quality
from understudy.stats.histogram import LogHistogram

__all__ = ["BIAS", "Past", "gather", "latency_of", "metric_query", "query_of", "series_of", "traffic_of"]

BIAS = "mean_error_of_predictions"
"""Measured beside a Brier score, whether or not the spec asks for it: it tells calibration from the other reasons why
online differs from offline. No verdict is made of it."""


def query_of(passage: Passage) -> events.EvidenceQuery:
    """Return what the frozen spec of a run measures."""
    experiment = passage.experiment
    return events.EvidenceQuery(
        model=passage.run.model,
        metrics=(
            *(
                metric_query(metric)
                for metric in experiment.metrics
                if metric.kind is not MetricKind.FAIRNESS_GAP
            ),
            *_beside(experiment.primary),
        ),
        cohorts=experiment.traffic.cohorts,
        maturity=experiment.traffic.maturity,
        shares={number: policy.shares(stage.percent) for number, stage in enumerate(experiment.stages, 1)},
        versions={"control": passage.run.champion, "challenger": passage.run.version},
    )


def metric_query(metric: Metric) -> events.MetricQuery:
    """Return how a metric of a spec is measured. A fairness gap is not measured, it follows from cohort cells."""
    return events.MetricQuery(
        name=metric.name,
        kind=metric.kind.value,
        limit_ms=metric.limit_ms,
        value=metric.value,
        over=metric.over,
        better=None if metric.better is None else metric.better.value,
        cap=metric.cap,
        window=metric.window,
        covariate=metric.covariate,
    )


def gather(passage: Passage, now: float, without: Sequence[str] = ()) -> Evidence:
    """Fold what is new in the event log of a run and return its evidence.

    Args:
        passage: The run.
        now: Wall clock of the look.
        without: Contained cohorts, which are left out of "all".
    """
    doors, query = passage.session, query_of(passage)
    return events.collect(doors.store, doors.settings.events_dir, query, passage.run.run_id, now, without)


class Past:
    """Past looks of a run, from the store alone, with the soundness that was recorded beside each."""

    def __init__(self, passage: Passage) -> None:
        self._replay = events.Replay(passage.session.store, query_of(passage), passage.run.run_id)

    def at(self, seq: int, quality: Mapping[str, Any], without: Sequence[str] = ()) -> Evidence:
        """Return the evidence of a look again; see `understudy.events.evidence.Replay`."""
        return replace(self._replay.at(seq, without), quality=Quality.from_dict(quality))


def latency_of(passage: Passage) -> LogHistogram | None:
    """Return the answer times of a run's control and challenger; None before anybody was exposed."""
    if not passage.run.stage:
        return None
    return events.latency(passage.session.store, query_of(passage), passage.run.run_id)


def traffic_of(passage: Passage) -> dict[tuple[str, ...], float]:
    """Return how many events of both arms came per combination of cohort values, in the order of the spec's cohorts."""
    return events.traffic(passage.session.store, query_of(passage), passage.run.run_id)


def series_of(passage: Passage) -> list[events.Series]:
    """Return every metric of a run over the hours of event time, by arm."""
    return events.series(passage.session.store, query_of(passage), passage.run.run_id)


def _beside(primary: Metric) -> tuple[events.MetricQuery, ...]:
    return (events.MetricQuery(BIAS, "calibration"),) if primary.kind is MetricKind.BRIER else ()
