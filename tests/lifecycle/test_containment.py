"""One harmed cohort goes back to the champion alone, budgets count over runs, and dry runs never decide."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.lifecycle.conftest import World
from tests.lifecycle.served import BETTER, WORSE, traffic
from understudy import lifecycle
from understudy.errors import StepNotPassed
from understudy.lifecycle.reproduce import reproduce
from understudy.store.runs import RunState

COHORTS = ("origin=JFK", "origin=LGA")


def contained_run(world: World) -> str:
    """Expose a run that harms everybody from JFK and serves LGA well, until JFK is sent back."""
    world.declare(cohort_harm="contain")
    world.cohorts = COHORTS
    run_id = world.exposed_run()
    world.clock.now += 5
    traffic(world, run_id, BETTER, skill_at={"JFK": 0.15, "LGA": 0.95})
    answer = lifecycle.look(run_id, 1)
    assert answer["decision"] == "HOLD", answer["sentence"]
    return run_id


def test_only_the_harmed_cohort_goes_back(world: World) -> None:
    run_id = contained_run(world)
    exposure = world.exposure()
    assert exposure is not None
    assert exposure.contained == ("origin=JFK",)
    assert exposure.percent == 10.0
    assert world.published() == exposure
    assert "cohort.contained" in world.actions()
    assert world.run(run_id).state is RunState.EXPOSED


def test_the_rest_goes_on_and_climbs_without_the_contained_cohort(world: World) -> None:
    run_id = contained_run(world)
    world.clock.now += 27
    traffic(world, run_id, BETTER)
    answer = lifecycle.look(run_id, 1)
    assert answer["decision"] == "ADVANCE", answer["sentence"]
    lifecycle.conclude_stage(run_id, 1)
    lifecycle.raise_exposure(run_id, 2)
    exposure = world.exposure()
    assert exposure is not None
    assert (exposure.contained, exposure.stage) == (("origin=JFK",), 2)
    assert reproduce(run_id)["reproduced"]


def test_a_run_with_a_contained_cohort_is_never_promoted(world: World) -> None:
    run_id = contained_run(world)
    world.record(run_id, "stage_1", "stage_2")
    traffic(world, run_id, BETTER)
    with pytest.raises(StepNotPassed, match="JFK was sent back") as refused:
        lifecycle.compare(run_id)
    assert refused.value.verdict["outcome"] == "INCONCLUSIVE"


def test_harm_in_one_cohort_ends_the_run_unless_the_spec_lets_it_be_contained(world: World) -> None:
    world.cohorts = COHORTS
    run_id = world.exposed_run()
    traffic(world, run_id, BETTER, skill_at={"JFK": 0.15, "LGA": 0.95})
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["cohort"]) == ("ROLL_BACK", "origin=JFK")


def test_a_cohort_that_a_gateway_does_not_take_back_ends_the_run(make_world: Any) -> None:
    world = make_world("http://127.0.0.1:9")
    world.declare(cohort_harm="contain")
    world.cohorts = COHORTS
    # The run was exposed while the gateway was there.
    settings, gateways = world.session.settings, world.session.settings.gateway_urls
    object.__setattr__(world.session, "settings", replace(settings, gateway_urls=()))
    run_id = world.exposed_run()
    traffic(world, run_id, BETTER, skill_at={"JFK": 0.15, "LGA": 0.95})
    object.__setattr__(world.session, "settings", replace(settings, gateway_urls=gateways))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("understudy.gateways.wait_until_followed.__defaults__", (0.2,))
        answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "not_contained")
    assert world.run(run_id).state is RunState.ROLLING_BACK


def test_a_budget_counts_what_earlier_runs_have_spent(world: World) -> None:
    budget = {"metric": "errors", "service": 230, "window": "1d"}
    metrics = [
        {"name": "brier", "kind": "brier", "role": "primary", "margin": 0.02},
        {"name": "errors", "kind": "error_rate", "role": "guardrail", "margin": 0.5},
    ]
    world.declare(budgets=[budget], metrics=metrics)
    # About 160 failures a run, whichever units the model's name sends where: one run is within it, two are not.
    first = world.exposed_run()
    traffic(world, first, BETTER, errors=0.2)
    assert lifecycle.look(first, 1)["decision"] == "HOLD"
    lifecycle.abort(first, "The test ends it.")
    with world.store.write() as connection:
        from understudy.store import runs

        runs.end(
            connection, world.run(first), RunState.FAILED, ending="ended", actor="tests", at=world.clock()
        )
    world.clock.now += 60
    second = world.exposed_run()
    traffic(world, second, BETTER, errors=0.2)
    answer = lifecycle.look(second, 1)
    assert answer["decision"] == "ROLL_BACK", answer["sentence"]
    assert "budget" in answer["sentence"].lower()


def test_a_dry_run_is_shown_and_never_decides(world: World) -> None:
    metrics = [
        {"name": "brier", "kind": "brier", "role": "primary", "margin": 0.02},
        {"name": "errors", "kind": "error_rate", "role": "guardrail", "margin": 0.02},
        {"name": "right", "kind": "accuracy", "role": "guardrail", "margin": 0.001, "dry_run": True},
    ]
    world.declare(metrics=metrics)
    run_id = world.exposed_run()
    # Brier is better while accuracy is worse: the champion guesses right half the time and is sure of it.
    traffic(world, run_id, 0.5)
    answer = lifecycle.look(run_id, 1)
    recorded = world.verdicts(run_id, "stage_1")[-1].verdict
    dry = [part for part in recorded.parts if part.metric == "right"]
    assert dry
    assert all(part.evidence["decides"] is False for part in dry)
    assert answer["decision"] == "HOLD"


def test_failures_in_a_row_are_tolerated_as_often_as_the_spec_says(world: World) -> None:
    world.declare(limits={"failures": 1})
    run_id = world.exposed_run()
    traffic(world, run_id, WORSE)
    assert lifecycle.look(run_id, 1)["decision"] == "HOLD"
    world.clock.now += 2
    assert lifecycle.look(run_id, 1)["decision"] == "ROLL_BACK"
    assert reproduce(run_id)["reproduced"]
