"""The spec of a sandbox: the metrics and margins of the experiment, with its time and its ladder made small. Pure."""

from __future__ import annotations

from typing import Any

from understudy.spec import Experiment, MetricKind, Role

__all__ = ["LEASE", "PERCENT", "miniature", "of_answers"]

LEASE = 20.0
"""Seconds. Long enough for a look on a busy machine, short enough to wait for."""

PERCENT = 50.0
"""Share of the units that a drill exposes: everything that is sent is evidence, so it is found with the fewest answers."""

_EVENT_ID, _EVENT_TIME = "drill_event_id", "drill_event_time"
_ERRORS = {"name": "drill_errors", "kind": "error_rate", "role": "guardrail", "margin": 0.02}
_FED = frozenset(
    {
        MetricKind.BRIER,
        MetricKind.LOG_LOSS,
        MetricKind.ACCURACY,
        MetricKind.ERROR_RATE,
        MetricKind.LATENCY_OVER,
        MetricKind.CALIBRATION,
    }
)


def miniature(experiment: Experiment) -> Experiment:
    """Return the spec that a drill of an experiment's model runs.

    What decides stays as it is: metrics, margins, error budget of the statistics, cohorts, limits, breaker. Left out is what a
    sandbox cannot feed or must not do: numbers that come with real outcomes, error budgets of a service, trials, risk ceilings,
    schedule, consumers. A stand-in takes the place of a primary or a guardrail that is left out.
    """
    content = experiment.frozen()
    traffic = experiment.traffic
    content |= {
        "schedule": None,
        "metrics": _metrics(experiment),
        "evaluation": content["evaluation"] | {"off_policy": None},
        "trial": {"critical_path": None, "spike": None},
        "stages": [{"percent": PERCENT, "soak": 1.0, "timeout": 60.0, "min_units": 30}],
        "look_every": 1.0,
        "lease": LEASE,
        "stale_after": 15.0,
        "cohort_harm": "roll_back",
        "budgets": [],
        "risk": None,
        "consumers": [],
        "drill": {"above": 100.0},
        "traffic": content["traffic"]
        | {
            "event_id": traffic.event_id or _EVENT_ID,
            "event_time": traffic.event_time or _EVENT_TIME,
            "headers": {},
            "maturity": 1.0,
        },
    }
    return Experiment.model_validate(content)


def of_answers(small: Experiment) -> Experiment:
    """Return the spec of the scenarios that are not about time: what watches the time to answer decides nothing.

    A sandbox shares one machine. Where that is busy, a challenger is slower than the champion for reasons of its own.
    """
    content = small.frozen()
    for metric in content["metrics"]:
        if metric["kind"] == MetricKind.LATENCY_OVER.value and metric["role"] == Role.GUARDRAIL.value:
            metric["role"] = Role.WATCHED.value
    if not any(
        metric["role"] == Role.GUARDRAIL.value and not metric["dry_run"] for metric in content["metrics"]
    ):
        content["metrics"].append(_ERRORS)
    return Experiment.model_validate(content | {"name": f"{small.name[:40]}_answers"})


def _metrics(experiment: Experiment) -> list[dict[str, Any]]:
    kept = {metric.name: metric for metric in experiment.metrics if metric.kind in _FED or metric.served}
    gaps = [
        metric
        for metric in experiment.metrics
        if metric.kind is MetricKind.FAIRNESS_GAP and metric.of in kept
    ]
    content = [metric.model_dump(mode="json") | {"covariate": None} for metric in (*kept.values(), *gaps)]
    if not any(metric.role is Role.PRIMARY for metric in kept.values()):
        content.append({"name": "drill_brier", "kind": "brier", "role": "primary", "margin": 0.02})
    if not any(metric.role is Role.GUARDRAIL and metric.decides for metric in kept.values()):
        content.append(_ERRORS)
    return content
