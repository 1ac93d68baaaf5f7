"""How long each stage takes to be decided, by formula: quick to ask, where the rehearsal is thorough.

The champion's past gives the spread of an event's linearised value, with returning units as clusters, and the arrivals. A
stage is decided once a challenger that is no worse passes every tolerance of the stage with the asked-for power; evidence
from earlier stages is left out, so the true time is at most this.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from understudy.rehearsal.history import History
from understudy.rehearsal.rings import arms_of
from understudy.spec import Experiment, Metric, Stage
from understudy.stats.planning import detectable_effect, metric_power, sample_size, sequential_factor

__all__ = ["POWER", "MetricPlan", "StagePlan", "plan_of"]

POWER = 0.8
"""Chance that a stage passes with every metric at no difference, divided over the metrics."""


@dataclass(frozen=True)
class MetricPlan:
    """What one metric asks of one stage.

    Attributes:
        metric: its name.
        tolerance: largest harm that the stage tolerates.
        spread: standard deviation of an event's value, returning units counted as clusters; None if it cannot be told.
        events: events of both arms that it takes; None if no number would do.
    """

    metric: str
    tolerance: float
    spread: float | None
    events: int | None


@dataclass(frozen=True)
class StagePlan:
    """What one stage takes.

    Attributes:
        stage: index, from 1.
        percent: share of units on the challenger; of the ring's where the stage has one.
        ring: the cohorts that it exposes alone.
        seconds: until it is decided, soak included; None if it never is.
        timeout: longest time that the spec gives it.
        events: events of both arms until then.
        metrics: what each deciding metric asks.
        detectable: smallest harm of the primary that would be found with the same power by the time-out.
    """

    stage: int
    percent: float
    ring: tuple[str, ...]
    seconds: float | None
    timeout: float
    events: int | None
    metrics: tuple[MetricPlan, ...]
    detectable: float | None

    @property
    def in_time(self) -> bool:
        """Whether it is decided before its time-out."""
        return self.seconds is not None and self.seconds <= self.timeout

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self) | {"in_time": self.in_time}


def plan_of(experiment: Experiment, history: History, power: float = POWER) -> tuple[StagePlan, ...]:
    """Return what every stage of an experiment takes.

    Args:
        experiment: The spec.
        history: The champion's past.
        power: Chance to pass with every metric at no difference.

    Raises:
        ValueError: power outside (0, 1) or not above alpha.
        NoHistory: a ring never came in the history.
    """
    deciding = [metric for metric in experiment.deciding if metric.name in history.metrics]
    each = float(metric_power(1 - power, max(len(deciding) - 1, 0)))
    factor = sequential_factor(experiment.alpha, each)
    spreads = {metric.name: _spread(history, metric) for metric in deciding}
    came = np.bincount(history.combination, minlength=history.member.shape[0])
    exposed = np.average(arms_of(experiment, history), axis=-1, weights=came).tolist()
    splits = zip(*exposed[::-1], strict=True)
    return tuple(
        _stage(experiment, history, number, stage, split, deciding, spreads, each, factor)
        for number, (stage, split) in enumerate(zip(experiment.stages, splits, strict=True), 1)
    )


def _stage(
    experiment: Experiment,
    history: History,
    number: int,
    stage: Stage,
    split: tuple[float, float],
    deciding: list[Metric],
    spreads: dict[str, float],
    power: float,
    factor: float,
) -> StagePlan:
    exposed = sum(split)
    asked = []
    for metric in deciding:
        tolerance = float(metric.margin or 0.0) * stage.margin_scale
        found = sample_size(
            spreads[metric.name], tolerance, experiment.alpha, power, shares=split, factor=factor
        )
        events = math.ceil(float(found.total) * exposed) if bool(found.determined) else None
        spread = spreads[metric.name]
        asked.append(MetricPlan(metric.name, tolerance, spread if math.isfinite(spread) else None, events))
    known = [item.events for item in asked if item.events is not None]
    most = max(known) if asked and len(known) == len(asked) else None
    rate = history.events_per_second
    seconds = None if most is None or rate <= 0 else max(stage.soak, most / exposed / rate)
    primary = spreads.get(experiment.primary.name, math.nan)
    by_then = rate * stage.timeout
    least = detectable_effect(primary, by_then, experiment.alpha, power, shares=split, factor=factor)
    smallest = float(least)
    return StagePlan(
        number,
        stage.percent,
        stage.ring,
        seconds,
        stage.timeout,
        None if seconds is None else math.ceil(seconds * rate * exposed),
        tuple(asked),
        smallest if math.isfinite(smallest) else None,
    )


def _spread(history: History, metric: Metric) -> float:
    """Return the standard deviation of an event's linearised value, the unit as the cluster.

    A metric that has never varied (no error so far) gets the spread of one bad event in as many as were seen.
    """
    at = history.metrics.index(metric.name)
    rate, events = history.rate(at), float(history.denominator[at].sum())
    if not math.isfinite(rate) or events < 2:
        return math.nan
    residual = history.numerator[at] - rate * history.denominator[at]
    by_unit = np.bincount(history.unit, residual, history.units)
    spread = math.sqrt(float((by_unit**2).sum()) / events)
    if spread == 0 and history.indicator(at):
        return math.sqrt(1 / events)
    return spread or math.nan
