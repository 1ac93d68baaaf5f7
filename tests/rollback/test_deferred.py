"""With a server down exposure ends now, an alert says what is left, and whoever sees the server come back does it."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from tests.lifecycle.conftest import World
from tests.rollback.ways import back, entries, promote, serves
from tests.servers import free_port
from understudy import rollback
from understudy.errors import StaleGeneration, Unreachable
from understudy.lifecycle import raise_exposure
from understudy.orchestration.triggers import RegistryTrigger
from understudy.rollback.progress import Order
from understudy.store import outbox, runs, schema
from understudy.store.runs import RunState
from understudy.store.unfinished import FINISH


def waiting(world: World) -> list[str]:
    with world.store.read() as connection:
        return [errand.body["key"] for errand in outbox.pending(connection, FINISH)]


def test_with_mlflow_down_nobody_is_exposed_and_the_rest_waits(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = world.exposed_run()
    with world.mlflow_down():
        with pytest.raises(Unreachable):
            back(world)
        assert not world.published().exposed
        assert world.run(run_id).state is RunState.ROLLING_BACK
        assert waiting(world) == ["r1"]
        with pytest.raises(StaleGeneration):
            raise_exposure(run_id, 2)
        for _ in range(2):
            caplog.clear()
            (found,) = rollback.resume()
            assert (found["model"], found["state"]) == (world.model, "waiting")
            (alert,) = [record for record in caplog.records if record.levelno == logging.ERROR]
            assert "is not finished; nobody is exposed" in alert.getMessage()
    assert [entry.action for entry in entries(world, "rollback.deferred")] == ["rollback.deferred"]
    assert rollback.resume() == [{"model": world.model, "state": "finished", "told": "1"}]
    assert serves(world, "1")
    assert world.run(run_id).state is RunState.ROLLED_BACK
    assert (waiting(world), rollback.resume()) == ([], [])
    assert world.actions().count("rollback.finished") == 1


def test_a_retry_with_the_same_key_finishes_what_waits(world: World) -> None:
    promote(world)
    with world.mlflow_down(), pytest.raises(Unreachable):
        back(world)
    assert back(world)["target"] == "1"
    assert (serves(world, "1"), waiting(world)) == (True, [])


def test_a_version_that_somebody_chooses_meanwhile_replaces_what_waits_and_nothing_else_does(
    make_world: Callable[..., World],
) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    world.client.set_registered_model_alias(world.model, "champion", "2")
    with world.mlflow_down():
        for key, target in (("r1", None), ("r2", "3"), ("r3", None), ("r4", "3")):
            with pytest.raises(Unreachable):
                back(world, key=key, target_version=target)
    assert waiting(world) == ["r2"]
    assert rollback.resume() == [{"model": world.model, "state": "finished", "told": "3"}]
    assert (serves(world, "3"), waiting(world)) == (True, [])


def test_what_was_finished_by_a_process_that_could_not_say_so_waits_no_longer(world: World) -> None:
    promote(world)
    back(world)
    with world.store.write() as connection:
        order = Order(world.model, "it hurts", "Ada", "r1")
        outbox.put(connection, FINISH, order.to_dict(), at=world.clock())
    assert rollback.resume() == [{"model": world.model, "state": "finished", "told": "1"}]
    assert waiting(world) == []
    assert world.actions().count("rollback.finished") == 1


def test_the_watch_on_the_registry_finishes_what_waits(world: World) -> None:
    promote(world)
    with world.mlflow_down(), pytest.raises(Unreachable):
        back(world)
    RegistryTrigger()._read()
    assert (serves(world, "1"), waiting(world)) == (True, [])


def test_a_gateway_that_is_down_keeps_nobody_exposed_and_the_registry_is_restored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from understudy import gateways

    run_id = world.exposed_run()
    url = f"http://127.0.0.1:{free_port()}"

    def nobody_answers(*_: object) -> None:
        gateways.status(url)

    with monkeypatch.context() as patch:
        # As with a real one that is down, without its twenty seconds of patience.
        patch.setattr(gateways, "wait_until_followed", nobody_answers)
        with pytest.raises(Unreachable, match="gateway"):
            back(world)
    assert serves(world, "1")
    assert (world.run(run_id).state, waiting(world)) == (RunState.ROLLING_BACK, ["r1"])
    assert rollback.resume()[0]["state"] == "finished"
    assert world.run(run_id).state is RunState.ROLLED_BACK


def test_what_can_never_be_finished_is_given_back_to_a_person(world: World) -> None:
    world.exposed_run()
    with world.mlflow_down(), pytest.raises(Unreachable):
        back(world)
    world.client.delete_model_version(world.model, "1")
    (found,) = rollback.resume()
    assert found["state"] == "refused"
    assert waiting(world) == []
    (refused,) = entries(world, "rollback.refused")
    assert refused.body["code"] == "NO_SUCH_VERSION"


def test_what_is_finished_and_not_proven_is_said_to_be_so(world: World) -> None:
    run_id = world.exposed_run()
    with world.mlflow_down(), pytest.raises(Unreachable):
        back(world)
    with world.store.write() as connection:
        connection.execute(schema.rollback_points.update().values(digest="0" * 64))
    (found,) = rollback.resume()
    assert found["state"] == "unproven"
    assert (waiting(world), entries(world, "rollback.refused")) == ([], [])
    assert world.run(run_id).state is RunState.ROLLED_BACK


def test_the_lock_of_the_run_is_not_waited_for(world: World) -> None:
    run_id = world.exposed_run()
    with world.store.read() as connection:
        held = runs.active(connection, world.model)
    assert held is not None
    assert held.run_id == run_id
    back(world)
    assert world.active() is None
