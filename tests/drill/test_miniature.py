"""The spec of a sandbox judges as the experiment does, and reaches nobody outside."""

from __future__ import annotations

from pathlib import Path

from tests import declared
from understudy.drill.miniature import miniature, of_answers
from understudy.spec import load

PRIMARY = {
    "name": "revenue",
    "kind": "mean",
    "value": "revenue",
    "better": "higher",
    "role": "primary",
    "margin": 0.1,
}
CALLS = {
    "name": "calls",
    "kind": "per_unit",
    "value": "calls",
    "better": "lower",
    "role": "guardrail",
    "margin": 0.1,
}


def test_metrics_margins_and_statistics_stay_as_they_are() -> None:
    experiment = declared.experiment(alpha=0.03, limits={"errors": 4})
    small = miniature(experiment)
    assert small.metrics == experiment.metrics
    assert (small.alpha, small.limits, small.planned_events) == (
        0.03,
        experiment.limits,
        experiment.planned_events,
    )
    assert small.traffic.cohorts == experiment.traffic.cohorts


def test_nobody_outside_hears_of_it_and_nothing_outside_is_needed() -> None:
    experiment = declared.experiment(
        consumers=[{"name": "billing", "contact": "#billing"}],
        schedule="0 6 * * 1",
        budgets=[{"metric": "errors", "service": 100, "window": "7d"}],
    )
    small = miniature(experiment)
    assert (small.consumers, small.schedule, small.budgets, small.risk) == ((), None, (), None)
    assert small.trial.steps == ()
    assert small.drill.above == 100


def test_a_minute_is_enough() -> None:
    small = miniature(
        declared.experiment(stages=[{"percent": 5, "soak": "7d", "timeout": "20d", "min_units": 9000}])
    )
    (stage,) = small.stages
    assert stage.timeout <= 60
    assert small.traffic.maturity == 1


def test_numbers_that_come_with_real_outcomes_are_left_out_and_stood_in_for() -> None:
    small = miniature(declared.experiment(metrics=[PRIMARY, CALLS]))
    assert {metric.name: metric.kind.value for metric in small.metrics} == {
        "drill_brier": "brier",
        "drill_errors": "error_rate",
    }


def test_the_shipped_experiments_have_a_miniature(repo: Path) -> None:
    for path in (repo / "experiments").glob("*.yaml"):
        assert miniature(load(path)).model == load(path).model


SLOW = {"name": "slow", "kind": "latency_over", "limit_ms": 50, "role": "guardrail", "margin": 0.02}


def test_where_time_is_not_the_matter_what_watches_it_decides_nothing() -> None:
    brier = {"name": "brier", "kind": "brier", "role": "primary", "margin": 0.02}
    small = of_answers(miniature(declared.experiment(metrics=[brier, SLOW])))
    assert {metric.name: metric.role.value for metric in small.metrics} == {
        "brier": "primary",
        "slow": "watched",
        "drill_errors": "guardrail",
    }
    assert small.name != declared.NAME
