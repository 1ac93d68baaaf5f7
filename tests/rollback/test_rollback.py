"""The way back: where it leads, that it may be interrupted anywhere, and that nothing overtakes it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.declared import NAME
from tests.lifecycle.conftest import World
from tests.rollback.ways import back, promote, serves
from understudy import lifecycle, rollback
from understudy.errors import (
    BadParameter,
    NoPreviousVersion,
    NoSuchVersion,
    StaleGeneration,
    Unreachable,
)
from understudy.registry import Registry
from understudy.store import runs
from understudy.store.runs import RunState

# The packages export functions of the same names as these modules.
promotion = importlib.import_module("understudy.lifecycle.promote")


def test_a_promoted_version_goes_back_to_the_one_before(world: World) -> None:
    run_id = promote(world)
    assert serves(world, "2")
    assert world.alias("challenger") is None
    result = back(world)
    assert (result["current"], result["target"], result["taken_back"]) == ("2", "1", "2")
    assert "ledger" in result["why"]
    assert serves(world, "1")
    assert world.run(run_id).state is RunState.PROMOTED
    actions = [action for action in world.actions() if action != "rollback.step"]
    assert actions[-4:] == ["rollback.started", "champion.restored", "consumers.listed", "rollback.finished"]


def test_a_run_that_is_on_is_taken_back_to_the_champion_it_started_from(world: World) -> None:
    run_id = world.exposed_run(stage=2)
    result = back(world)
    assert (result["target"], result["run_id"], result["taken_back"]) == ("1", run_id, "2")
    assert serves(world, "1")
    assert world.alias("challenger") is None
    assert world.active() is None
    run = world.run(run_id)
    assert (run.state, run.ending) == (RunState.ROLLED_BACK, "Rolled back at stage 2 to version 1: it hurts")
    with pytest.raises(StaleGeneration):
        lifecycle.raise_exposure(run_id, 2)
    assert serves(world, "1")


def test_a_version_that_somebody_chose_is_taken(make_world: Callable[..., World]) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    result = back(world, target_version="3")
    assert (result["current"], result["target"]) == ("1", "3")
    assert serves(world, "3")


def test_a_version_chosen_while_a_run_is_on_ends_the_run(make_world: Callable[..., World]) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    run_id = world.exposed_run()
    back(world, target_version="3")
    assert serves(world, "3")
    assert world.run(run_id).state is RunState.ROLLED_BACK


def test_the_challenger_itself_may_be_chosen_and_is_champion_only(world: World) -> None:
    run_id = world.exposed_run()
    back(world, target_version="2")
    assert serves(world, "2")
    assert world.alias("challenger") is None
    assert world.run(run_id).state is RunState.ROLLED_BACK


def test_the_version_that_is_served_may_be_chosen_where_the_alias_was_lost(
    make_world: Callable[..., World],
) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    promote(world)
    world.client.set_registered_model_alias(world.model, "champion", "3")
    world.client.delete_model_version(world.model, "3")
    assert world.alias() is None
    back(world, target_version="2")
    assert serves(world, "2")


def test_a_silent_ledger_leads_to_the_highest_ready_version_below(make_world: Callable[..., World]) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    world.client.set_registered_model_alias(world.model, "champion", "3")
    result = back(world)
    assert result["target"] == "2"
    assert "silent" in result["why"]
    assert serves(world, "2")


def test_without_an_earlier_version_the_fix_is_named_and_exposure_is_zero_all_the_same(world: World) -> None:
    with pytest.raises(NoPreviousVersion, match="target_version"):
        back(world)
    assert world.alias() == "1"


def test_a_rollback_is_not_rolled_back_further_by_guessing(world: World) -> None:
    promote(world)
    back(world)
    with pytest.raises(NoPreviousVersion, match="never guessed"):
        back(world, key="r2")
    assert serves(world, "1")


def test_a_repeated_key_returns_the_first_result_and_does_nothing(world: World) -> None:
    promote(world)
    first = back(world)
    before = world.actions()
    assert back(world) == first
    assert world.actions() == before


BAD = {
    "an empty reason": ({"reason": " "}, BadParameter, "needs a reason"),
    "an unknown version": ({"target_version": "99"}, NoSuchVersion, "'99'"),
}


@pytest.mark.parametrize(("options", "error", "said"), BAD.values(), ids=BAD.keys())
def test_a_bad_request_is_refused_with_the_fix(
    world: World, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        back(world, **options)
    assert world.alias() == "1"


def test_an_unknown_model_is_named(world: World) -> None:
    with pytest.raises(NoSuchVersion, match="nobody"):
        rollback.execute("nobody", "r", "Ada", "k")


def test_a_reason_that_is_no_clean_text_stops_nothing(world: World) -> None:
    run_id = world.exposed_run()
    back(world, reason="caf\udce9 \ud800")
    assert serves(world, "1")
    assert world.run(run_id).state is RunState.ROLLED_BACK


def test_a_dry_run_says_what_would_be_done_and_changes_nothing(world: World) -> None:
    run_id = world.exposed_run()
    before = (world.actions(), world.exposure(), world.published(), world.alias(), world.alias("challenger"))
    result = back(world, dry_run=True)
    assert (result["target"], result["run_id"], result["dry_run"]) == ("1", run_id, True)
    after = (world.actions(), world.exposure(), world.published(), world.alias(), world.alias("challenger"))
    assert after == before
    assert world.run(run_id).state is RunState.EXPOSED


def test_legacy_stages_move_along_where_they_are_in_use(world: World) -> None:
    world.client.transition_model_version_stage(world.model, "1", "Production")
    world.declare(registry={"move_stage": True})
    promote(world)
    stage = {item.version: item.stage for item in world.session.registry.versions(world.model)}
    assert stage == {"1": "Archived", "2": "Production"}
    back(world)
    stage = {item.version: item.stage for item in world.session.registry.versions(world.model)}
    assert stage == {"1": "Production", "2": "Archived"}


def test_mlflow_that_is_down_cannot_keep_anybody_exposed(world: World) -> None:
    run_id = world.exposed_run()
    with world.mlflow_down(), pytest.raises(Unreachable):
        back(world)
    assert not world.published().exposed
    assert world.run(run_id).state is RunState.ROLLING_BACK
    back(world)
    assert serves(world, "1")
    assert world.run(run_id).state is RunState.ROLLED_BACK


OVERTAKEN = {
    "before the registry is moved": (Registry, "make_champion", False),
    "after the registry is moved": (promotion, "_seal", False),
}


@pytest.mark.parametrize(("room", "name", "after"), OVERTAKEN.values(), ids=OVERTAKEN.keys())
@pytest.mark.parametrize("target", [None, "3"])
def test_a_promotion_that_a_rollback_overtakes_loses(
    make_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    room: Any,
    name: str,
    after: bool,
    target: str | None,
) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    run_id = world.exposed_run(stage=2)
    world.record(run_id, "stage_2", "compare")
    real = getattr(room, name)

    def overtaken(*arguments: Any, **named: Any) -> Any:
        monkeypatch.setattr(room, name, real)
        back(world, target_version=target)
        return real(*arguments, **named)

    monkeypatch.setattr(room, name, overtaken)
    with pytest.raises(StaleGeneration, match="overtook"):
        lifecycle.promote(run_id)
    assert serves(world, target or "1")
    assert world.run(run_id).state is RunState.ROLLED_BACK
    assert "champion.promoted" not in world.actions()


def test_a_run_on_its_way_back_cannot_be_promoted(world: World) -> None:
    run_id = world.exposed_run(stage=2)
    world.record(run_id, "stage_2", "compare")
    lifecycle.abort(run_id, "somebody saw something")
    with pytest.raises(StaleGeneration, match="rolling_back"):
        lifecycle.promote(run_id)
    assert world.alias() == "1"


def test_a_rollback_frees_the_model_for_the_next_run(world: World) -> None:
    first = world.exposed_run()
    back(world)
    world.clock.now += 1
    second = world.exposed_run()
    assert (first, second) == (f"{NAME}-v2-1", f"{NAME}-v2-2")
    with world.store.read() as connection:
        active = runs.active(connection, world.model)
    assert active is not None
    assert active.run_id == second
