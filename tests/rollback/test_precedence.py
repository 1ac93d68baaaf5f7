"""A rollback comes before everything: nothing begins while it is on, and whoever races it loses."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.lifecycle.conftest import World
from tests.rollback.ways import Killed, back, entries, killed_at, promote, serves
from understudy import lifecycle, rollback
from understudy.errors import FilesChanged, RollbackUnfinished, StaleGeneration, StoreError, Unreachable
from understudy.registry import DIGEST_TAG
from understudy.rollback import engine
from understudy.rollback.steps import STEPS, Work
from understudy.store import Store
from understudy.store.runs import RunState


def died_unfinished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promote a version, and let the process of its rollback die just before it writes the end down."""
    promote(world)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_finish", killed_at(engine, "_finish", 0, after=False))
        with pytest.raises(Killed):
            back(world)


def test_no_run_begins_before_a_rollback_that_died_is_finished(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    died_unfinished(world, monkeypatch)
    with pytest.raises(RollbackUnfinished, match="has not ended"):
        world.begin("2")
    assert "run.started" not in world.actions()[world.actions().index("rollback.started") :]
    back(world, key="r2")
    assert serves(world, "1")
    world.clock.now += 1
    assert world.exposed_run()


def test_no_run_begins_while_a_rollback_waits_for_mlflow(world: World) -> None:
    promote(world)
    with world.mlflow_down(), pytest.raises(Unreachable):
        back(world)
    with pytest.raises(RollbackUnfinished):
        world.begin("2")
    assert rollback.resume()[0]["state"] == "finished"
    world.clock.now += 1
    assert world.exposed_run()


def test_a_rollback_that_was_given_up_keeps_nothing_from_beginning(world: World) -> None:
    promote(world)
    world.client.set_model_version_tag(world.model, "1", DIGEST_TAG, "0" * 64)
    with pytest.raises(FilesChanged):
        back(world)
    (given_up,) = entries(world, "rollback.abandoned")
    assert given_up.body["code"] == "FILES_CHANGED"
    # Its champion is still version 2, and a third version may be tried against it.
    with pytest.raises(FilesChanged):
        back(world, key="r2")
    assert world.alias() == "2"
    assert world.exposure() is not None


def test_a_bad_order_does_not_end_the_rollback_that_somebody_else_began(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    died_unfinished(world, monkeypatch)
    with pytest.raises(Exception, match="'99'"):
        back(world, key="r2", target_version="99")
    with pytest.raises(RollbackUnfinished):
        world.begin("2")
    assert back(world)["target"] == "1"


def test_a_run_that_read_the_champion_before_a_rollback_replaced_it_does_not_begin(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(world)
    registry = type(world.session.registry)
    read, overtaken = registry.alias, threading.Event()

    def overtaking(self: Any, model: str, alias: str) -> str | None:
        found = read(self, model, alias)
        if not overtaken.is_set():
            overtaken.set()
            back(world)
        return found

    monkeypatch.setattr(registry, "alias", overtaking)
    with pytest.raises(StaleGeneration, match="replaced champion 2"):
        world.begin("1", key="late")
    assert serves(world, "1")


@pytest.mark.parametrize("number", range(2))
def test_a_promotion_and_a_rollback_at_once_end_with_the_champion_of_before(
    world: World, number: int
) -> None:
    run_id = world.exposed_run(stage=2)
    world.record(run_id, "stage_2", "compare")
    barrier, said = threading.Barrier(2), []

    def go(act: Callable[[], Any]) -> None:
        barrier.wait(30)
        try:
            act()
        except Exception as error:
            said.append(error)

    acts = (lambda: lifecycle.promote(run_id), lambda: back(world))
    threads = [threading.Thread(target=go, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert all(isinstance(error, StaleGeneration) for error in said)
    assert serves(world, "1")
    assert world.run(run_id).state in (RunState.ROLLED_BACK, RunState.PROMOTED)
    assert world.actions().count("rollback.finished") == 1
    with pytest.raises(StaleGeneration):
        lifecycle.raise_exposure(run_id, 2)


def test_an_alias_that_somebody_moves_after_it_was_restored_is_restored_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    promote(world)
    real = STEPS["consumers"]

    def moving(work: Work) -> None:
        world.client.set_registered_model_alias(world.model, "champion", "2")
        real.apply(work)

    monkeypatch.setitem(STEPS, "consumers", replace(real, apply=moving))
    back(world)
    assert serves(world, "1")


def test_an_order_that_the_store_could_not_take_is_carried_out_when_it_can(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.exposed_run()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", _broken)
        with pytest.raises(StoreError, match="set to zero in the flag document"):
            back(world)
    assert not world.published().exposed
    assert world.run(run_id).state is RunState.EXPOSED
    world.record(run_id, "stage_1")
    with pytest.raises(StaleGeneration, match="rolling_back"):
        lifecycle.raise_exposure(run_id, 2)
    assert "exposure.raised" not in world.actions()[world.actions().index("exposure.dropped") :]
    assert rollback.resume() == [{"model": world.model, "state": "finished", "told": "1"}]
    assert (serves(world, "1"), world.run(run_id).state) == (True, RunState.ROLLED_BACK)
    assert back(world)["target"] == "1"
    assert world.actions().count("rollback.finished") == 1


def _broken(store: Store) -> Any:
    raise StoreError("The store is read-only.")
