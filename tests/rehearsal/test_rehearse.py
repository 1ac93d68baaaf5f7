"""A whole rehearsal: false alarms within their budget, large harm found, thin traffic refused, the same every time."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from scipy import stats

from tests import declared
from tests.rehearsal.scenes import past, spec
from understudy.rehearsal import History, Report, Truth, rehearse, smallest_fix
from understudy.rehearsal.fixes import changes_for
from understudy.rehearsal.ladder import Ladder
from understudy.rehearsal.rehearse import simulate
from understudy.rehearsal.report import Ceiling
from understudy.rehearsal.worlds import worlds_of
from understudy.spec import Experiment

CEILINGS = {"false_promotion": 0.1, "false_rollback": 0.1, "missed_harm": 0.1}
RUNS = 100


@pytest.fixture(scope="module")
def history() -> History:
    return past(units=1000, events=7000, span=100.0, noise=0.08)


@pytest.fixture(scope="module")
def report(history: History) -> Report:
    metrics = declared.content()["metrics"]
    metrics[1]["margin"] = 0.1
    risk = CEILINGS | {"promotion": "200s", "detection": "200s"}
    return rehearse(spec(metrics=metrics, risk=risk), history, replicates=RUNS)


def by_name(report: Report) -> dict[str, Any]:
    return {found.world.name: found for found in report.worlds}


def test_a_challenger_that_is_no_worse_is_rolled_back_within_alpha(report: Report) -> None:
    for found in report.worlds:
        if found.world.truth is not Truth.HARM and found.world.name != "outages":
            claimed = stats.binomtest(found.rolled_back.count, found.rolled_back.of, 0.05, "greater")
            assert claimed.pvalue > 0.001, found.world.name


def test_false_alarms_stay_within_alpha_with_many_looks_and_skewed_units() -> None:
    often = spec(
        stages=[{"percent": 50, "soak": "190s", "timeout": "200s", "min_units": 10}],
        look_every="5s", alpha=0.1, risk=CEILINGS,
    )  # fmt: skip
    ladder = Ladder.of(often, past(units=300, events=6000, span=100.0, unit_spread=0.1, error_rate=0.02))
    # Without a margin any harm that seems proven rolls back; a tiny one is as good as none.
    tight = [metric.model_copy(update={"margin": 1e-9}) for metric in ladder.experiment.metrics]
    experiment = ladder.experiment.model_copy(update={"metrics": tuple(tight)})
    ladder = replace(ladder, experiment=experiment)
    null = [
        world
        for world in worlds_of(often, ladder.history)
        if world.name in ("no_effect", "heavy_tails", "repeating_units")
    ]
    for found in simulate(ladder, null, 120, 11):
        assert stats.binomtest(found.rolled_back.count, 120, 0.1, "greater").pvalue > 0.001, found.world.name


def test_harm_of_twice_the_margin_is_found_nearly_always_where_traffic_suffices(report: Report) -> None:
    for name in ("harm_brier_2x", "harm_errors_2x"):
        found = by_name(report)[name]
        assert found.rolled_back.value > 0.9
        assert found.promoted.count == 0
        assert found.detection_seconds.median is not None
        assert 0 < found.exposed_units < 2000


def test_a_hoped_for_gain_is_promoted_and_the_time_is_told(report: Report) -> None:
    found = by_name(report)["hoped_gain"]
    assert found.promoted.value > 0.9
    assert found.promotion_seconds.median == pytest.approx(80, abs=60)
    assert report.met


def test_the_shares_of_a_world_sum_to_one_and_carry_their_error(report: Report) -> None:
    for found in report.worlds:
        assert found.promoted.count + found.rolled_back.count + found.undecided.count == RUNS
        assert sum(found.endings.values()) == RUNS == sum(found.stages)
        assert found.promoted.lower <= found.promoted.value <= found.promoted.upper


def test_a_report_is_json_and_names_its_rule(report: Report) -> None:
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert content["met"] is True
    assert "upper 95 % bound" in content["rule"]
    assert content["looks"][0]["real"] == 13


def test_the_same_spec_and_history_give_the_same_report_whatever_the_threads() -> None:
    experiment, history = spec(risk=CEILINGS), past(units=100, events=500, span=60.0)
    reports = [rehearse(experiment, history, replicates=100, workers=workers).to_dict() for workers in (1, 2)]
    for content in reports:
        content.pop("seconds")
    assert reports[0] == reports[1]


def test_progress_climbs_to_the_end() -> None:
    told: list[float] = []
    rehearse(spec(), past(units=100, events=500), replicates=50, progress=lambda part, _: told.append(part))
    assert told == sorted(told)
    assert told[-1] == 1.0


def test_an_underpowered_spec_misses_its_ceiling_and_the_smallest_change_that_helps_is_named(
    history: History,
) -> None:
    hasty = {"percent": 50, "soak": "10s", "timeout": "30s", "min_units": 50, "margin_scale": 1.5}
    experiment = spec(
        stages=[{"percent": 10, "soak": "10s", "timeout": "60s", "min_units": 10, "margin_scale": 3}, hasty],
        risk={"false_rollback": 0.1, "promotion": "200s", "hoped_gain": 0.01},
    )  # fmt: skip
    report = rehearse(experiment, history, replicates=RUNS)
    assert not report.met
    missed = [ceiling for ceiling in report.ceilings if not ceiling.met]
    assert [ceiling.name for ceiling in missed] == ["promotion"]
    assert "never" in missed[0].sentence
    fix = smallest_fix(experiment, history, missed, replicates=60)
    assert fix.change is not None
    assert fix.change.startswith("soak of the last stage")
    assert fix.change == fix.tried[-1]
    assert all(ceiling.met for ceiling in fix.ceilings)


def test_where_nothing_helps_that_is_said() -> None:
    experiment = spec(risk={"promotion": "1s"})
    thin = past(units=100, events=400, span=400.0)
    report = rehearse(experiment, thin, replicates=50)
    fix = smallest_fix(experiment, thin, report.ceilings, replicates=20)
    assert fix.change is None
    assert fix.sentence.startswith("None of these changes alone meets them")
    assert len(fix.tried) > 3


def ceiling(name: str, world: str) -> Ceiling:
    return Ceiling(name, 0.05, 0.2, 0.3, world, False, "")


@pytest.mark.parametrize(
    "name", ["false_promotion", "false_rollback", "missed_harm", "harmed_units", "detection", "promotion"]
)
def test_every_missed_ceiling_has_changes_to_try_and_each_is_a_valid_spec(name: str) -> None:
    experiment = spec(risk={"promotion": "1s"})
    found = list(changes_for(experiment, [ceiling(name, "harm_brier_2x")]))
    assert len(found) >= 4
    assert len({words for words, _ in found}) == len(found)
    for _, changed in found:
        assert isinstance(changed, Experiment)
        assert changed.digest() != experiment.digest()


def test_a_wider_margin_does_not_promise_a_larger_gain() -> None:
    experiment = spec(risk={"promotion": "1s"})
    changes = dict(changes_for(experiment, [ceiling("promotion", "hoped_gain")]))
    wider = next(changed for words, changed in changes.items() if words.startswith("margin of brier"))
    assert wider.risk is not None
    assert wider.risk.hoped_gain == experiment.primary.margin
