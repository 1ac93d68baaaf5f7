"""Nobody is exposed widely by a model whose way back was not practised lately."""

from __future__ import annotations

import pytest

from tests import declared
from tests.lifecycle.conftest import World
from understudy import lifecycle
from understudy.errors import NotDrilled
from understudy.lifecycle.drilled import judge
from understudy.lifecycle.status import status
from understudy.spec import Drill, Scenario
from understudy.store import drills
from understudy.store.drills import Drilled

NOW = 1_700_000_000.0
DAY = 86400.0
TWO = Drill(scenarios=(Scenario.SLOW, Scenario.DRIFT))


def result(scenario: str, *, passed: bool = True, age: float = 0.0, model: str = "m") -> Drilled:
    return Drilled(f"d-{age}", model, "1", scenario, passed, f"{scenario}: found.", {"units": 5}, NOW - age)


def found(*results: Drilled) -> dict[str, Drilled]:
    return {one.scenario: one for one in results}


def test_all_that_is_demanded_passed_lately() -> None:
    told = judge(found(result("slow", age=DAY), result("drift", age=3 * DAY)), TWO, NOW)
    assert told["ready"]
    assert told["last"] == NOW - 3 * DAY
    assert told["sentence"] == "All 2 scenarios have passed."


def test_what_is_missing_has_failed_or_is_too_old_is_named() -> None:
    asked = Drill(scenarios=(Scenario.SLOW, Scenario.DRIFT, Scenario.LATENCY), max_age=14 * DAY)
    told = judge(found(result("slow", age=15 * DAY), result("drift", passed=False)), asked, NOW)
    assert not told["ready"]
    assert (told["stale"], told["failed"], told["missing"]) == (["slow"], ["drift"], ["latency"])
    assert told["sentence"] == (
        "0 of 3 scenarios have passed lately; failed: drift; too old: slow; never played: latency."
    )


def test_a_failed_drill_does_not_become_stale_and_good() -> None:
    assert judge(found(result("slow", passed=False, age=99 * DAY)), TWO, NOW)["failed"] == ["slow"]


def test_without_a_list_every_scenario_is_demanded() -> None:
    assert judge({}, Drill(), NOW)["missing"] == [scenario.value for scenario in Scenario]


def test_a_spec_that_demands_none_is_ready_and_says_so() -> None:
    told = judge({}, Drill(above=100), NOW)
    assert (told["ready"], told["sentence"]) == (True, "The spec demands none.")


def test_where_nothing_was_ever_played_nothing_is_listed() -> None:
    assert judge({}, TWO, NOW)["sentence"] == "None of 2 scenarios was ever played."


def practise(world: World, *names: str, age: float = 0.0, passed: bool = True) -> None:
    at = world.clock() - age
    one = [Drilled("d", world.model, "1", name, passed, "s", {}, at) for name in names]
    with world.store.write() as connection:
        drills.record(connection, one, actor="Ada", reason="a test")


def test_a_ladder_above_the_share_is_refused_at_the_start_with_the_command_to_run(world: World) -> None:
    world.declare(drill={"scenarios": ["slow", "drift"]})
    with pytest.raises(NotDrilled, match=f"exposes 50 % of units.*`understudy drill {world.model}`"):
        world.begin("2")
    assert world.active() is None
    practise(world, "slow")
    with pytest.raises(NotDrilled, match="never played: drift"):
        world.begin("2")
    practise(world, "drift")
    assert world.begin("2")["outcome"] == "PASS"


def test_a_low_ladder_needs_no_drill(world: World) -> None:
    world.declare(drill={"above": 5}, stages=[{"percent": 5, "soak": "1s", "timeout": "9s", "min_units": 9}])
    assert world.begin("2")["outcome"] == "PASS"


def test_a_drill_that_grows_too_old_on_the_way_stops_the_climb_and_not_what_is_below_the_share(
    world: World,
) -> None:
    world.declare(drill={"above": 10, "scenarios": ["slow"], "max_age": "1h"})
    practise(world, "slow")
    run_id = world.started(world.versions["good"])
    world.record(run_id, *declared_steps())
    world.clock.now += 7200
    lifecycle.raise_exposure(run_id, 1)
    world.record(run_id, "stage_1")
    with pytest.raises(NotDrilled, match="too old: slow"):
        lifecycle.raise_exposure(run_id, 2)
    exposure = world.exposure()
    assert exposure is not None
    assert exposure.percent == 10


def declared_steps() -> tuple[str, ...]:
    return ("preregister", "check_data", "evaluate", "shadow")


def test_the_status_of_a_model_says_how_far_its_drills_have_passed(world: World) -> None:
    world.declare(drill={"above": 50, "scenarios": ["slow"]})
    world.started(world.versions["good"])
    assert status(world.session, world.model)[0]["drill"]["missing"] == ["slow"]
    practise(world, "slow")
    assert status(world.session, world.model)[0]["drill"]["ready"]


def test_a_share_of_a_hundred_asks_for_none() -> None:
    assert declared.experiment().drill.above == 100
