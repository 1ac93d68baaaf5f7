"""Sample sizes and durations by formula: they agree with closed forms, and what cannot be told is never."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.rehearsal.scenes import past, spec
from understudy.rehearsal import StagePlan, plan_of
from understudy.stats.planning import sequential_factor


def stages(**changes: object) -> tuple[StagePlan, ...]:
    return plan_of(spec(**changes), past())


def test_every_stage_says_events_time_and_what_each_metric_asks() -> None:
    found = stages()
    experiment = spec()
    assert [stage.percent for stage in found] == [stage.percent for stage in experiment.stages]
    for stage, declared in zip(found, experiment.stages, strict=True):
        assert stage.seconds is not None
        assert stage.seconds >= declared.soak
        assert {item.metric for item in stage.metrics} == {metric.name for metric in experiment.deciding}
    json.dumps([stage.to_dict() for stage in found], allow_nan=False)


def test_the_events_are_those_of_the_closed_form() -> None:
    experiment, history = spec(), past()
    stage = plan_of(experiment, history)[-1]
    asked = next(item for item in stage.metrics if item.metric == experiment.primary.name)
    assert asked.spread is not None
    deciding = len(experiment.deciding)
    power = 1 - 0.2 / deciding
    from scipy.stats import norm

    fixed = (norm.ppf(1 - experiment.alpha) + norm.ppf(power)) * asked.spread / asked.tolerance
    per_arm = fixed**2 * 2 * sequential_factor(experiment.alpha, power)
    assert asked.events == pytest.approx(2 * per_arm, rel=0.01)


def test_returning_units_need_more_events_than_as_many_single_ones() -> None:
    history = past()
    alone = history.with_values(unit=np.arange(len(history.at)))
    at = history.metrics.index(spec().primary.name)
    residual = history.numerator[at] - history.rate(at) * history.denominator[at]
    by_unit = np.bincount(history.unit, residual, history.units)
    clustered = float((by_unit**2).sum()) > float((residual**2).sum())
    found, single = (plan_of(spec(), one)[-1].metrics[0].events or 0 for one in (history, alone))
    assert (found > single) == clustered


def test_a_tighter_tolerance_takes_longer_and_a_later_time_out_finds_less_harm() -> None:
    wide, narrow = (
        stages(
            stages=[{"percent": 50, "soak": "1s", "timeout": timeout, "min_units": 2, "margin_scale": scale}]
        )
        for scale, timeout in ((4, "100s"), (1, "1000s"))
    )
    assert (wide[0].seconds or 0) < (narrow[0].seconds or 0)
    assert (wide[0].detectable or 0) > (narrow[0].detectable or 0)


def test_a_metric_that_was_never_measured_leaves_the_stage_undecided() -> None:
    history = past()
    nothing = history.with_values(
        numerator=np.zeros_like(history.numerator), denominator=np.zeros_like(history.denominator)
    )
    found = plan_of(spec(), nothing)[0]
    assert (found.seconds, found.in_time, found.detectable) == (None, False, None)
