"""The one true exposure: fencing, leases, and the document that follows it."""

from __future__ import annotations

import random
import threading

import pytest
import sqlalchemy as sa

from tests.declared import MODEL
from tests.store.conftest import Clock, Start
from understudy.errors import StaleGeneration, StoreError
from understudy.exposure import Exposure, read_flag
from understudy.settings import Settings
from understudy.store import Store, exposures, ledger, runs, schema
from understudy.store.runs import RunState


def _raise(
    store: Store, run: runs.Run, stage: int = 1, percent: float = 10.0, lease: float = 30.0
) -> Exposure:
    with store.write() as connection:
        return exposures.raise_to(connection, run.run_id, stage, percent, lease, at=store.clock())


def _drop(store: Store, model: str = MODEL) -> Exposure:
    with store.write() as connection:
        return exposures.drop(connection, model, actor="tests", reason="a test", at=store.clock())


def _state(store: Store, run: runs.Run, state: RunState) -> None:
    with store.write() as connection:
        runs.set_state(connection, run.run_id, state, store.clock())


def _renew(store: Store, run: runs.Run) -> Exposure | None:
    with store.write() as connection:
        return exposures.renew(connection, run.run_id, 30.0, at=store.clock())


def _actions(store: Store) -> list[str]:
    with store.read() as connection:
        return [entry.action for entry in ledger.entries(connection)]


def test_stages_are_climbed_one_by_one_each_under_a_new_generation(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    first = _raise(store, run)
    assert (first.generation, first.stage, first.lease_expires_at) == (2, 1, int(clock() + 30))
    assert (first.champion, first.challenger, first.run_id) == ("1", "2", run.run_id)
    clock.now += 5
    again = _raise(store, run)
    assert (again.generation, again.stage) == (3, 1)
    second = _raise(store, run, 2, 50.0)
    assert (second.generation, second.stage) == (4, 2)
    with store.read() as connection:
        found = runs.get(connection, run.run_id)
        assert exposures.find(connection, MODEL) == second
    assert (found.state, found.stage, found.stage_entered_at) == (RunState.EXPOSED, 2, clock())


def test_entering_a_stage_again_does_not_start_its_soak_again(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    _raise(store, run)
    entered = clock.now
    clock.now += 20
    _raise(store, run)
    with store.read() as connection:
        assert runs.get(connection, run.run_id).stage_entered_at == entered


@pytest.mark.parametrize("stage", [-1, 0, 2, 3])
def test_a_stage_cannot_be_skipped(store: Store, start: Start, stage: int) -> None:
    run = start()
    with pytest.raises(StaleGeneration, match="one by one"):
        _raise(store, run, stage)
    with store.read() as connection:
        found = exposures.find(connection, MODEL)
    assert found == Exposure(MODEL, 1, "1")


def test_a_stage_cannot_be_taken_back_down(store: Store, start: Start) -> None:
    run = start()
    _raise(store, run, 1)
    _raise(store, run, 2, 50.0)
    with pytest.raises(StaleGeneration, match="one by one"):
        _raise(store, run, 1)


@pytest.mark.parametrize("state", [RunState.ROLLING_BACK, RunState.PROMOTING])
def test_a_run_that_is_not_on_its_way_up_cannot_raise_exposure(
    store: Store, start: Start, state: RunState
) -> None:
    run = start()
    _raise(store, run)
    _state(store, run, state)
    with pytest.raises(StaleGeneration, match=state.value):
        _raise(store, run)
    assert _renew(store, run) is None


@pytest.mark.parametrize("state", [RunState.ROLLED_BACK, RunState.FAILED, RunState.PROMOTED])
def test_an_ended_run_can_neither_raise_nor_renew(store: Store, start: Start, state: RunState) -> None:
    run = start()
    _raise(store, run)
    _drop(store)
    with store.write() as connection:
        runs.end(connection, run, state, ending="e", actor="t", at=store.clock())
    with pytest.raises(StaleGeneration, match=state.value):
        _raise(store, run)
    assert _renew(store, run) is None


def test_a_model_exposed_by_one_run_cannot_be_raised_by_another(store: Store, start: Start) -> None:
    first = start()
    _raise(store, first)
    with store.write() as connection:
        runs.end(connection, first, RunState.FAILED, ending="died", actor="t", at=store.clock())
    second = start(version="3")
    with pytest.raises(StaleGeneration, match=first.run_id):
        _raise(store, second)


def test_a_renewal_moves_the_lease_and_nothing_else(store: Store, start: Start, clock: Clock) -> None:
    run = start()
    raised = _raise(store, run)
    clock.now += 29
    renewed = _renew(store, run)
    assert renewed is not None
    assert renewed.lease_expires_at == int(clock() + 30)
    assert renewed.__dict__ | {"lease_expires_at": None} == raised.__dict__ | {"lease_expires_at": None}
    assert _actions(store)[-1] == "exposure.raised"


def test_a_lease_that_lapsed_stays_lapsed(store: Store, start: Start, clock: Clock) -> None:
    run = start()
    raised = _raise(store, run)
    clock.now += 30
    assert _renew(store, run) is None
    with store.read() as connection:
        assert exposures.find(connection, MODEL) == raised


def test_dropping_is_one_generation_and_one_entry_however_often_it_is_asked(
    store: Store, start: Start
) -> None:
    run = start()
    _raise(store, run)
    dropped = [_drop(store) for _ in range(3)]
    assert dropped == [Exposure(MODEL, 3, "1")] * 3
    assert _actions(store).count("exposure.dropped") == 1
    assert _renew(store, run) is None


def test_a_model_nobody_knows_is_an_error_with_the_fix(store: Store) -> None:
    with pytest.raises(StoreError, match="alias `champion`"):
        _drop(store, "nobody")


def test_promotion_is_void_unless_the_run_is_promoting_and_exposed(store: Store, start: Start) -> None:
    run = start()
    _raise(store, run)

    def promote() -> Exposure:
        with store.write() as connection:
            return exposures.promote(connection, run.run_id, at=store.clock())

    with pytest.raises(StaleGeneration, match="exposed"):
        promote()
    _state(store, run, RunState.PROMOTING)
    assert promote() == Exposure(MODEL, 3, "2")
    with pytest.raises(StaleGeneration):
        promote()


def test_a_rollback_that_dropped_exposure_voids_the_promotion(store: Store, start: Start) -> None:
    run = start()
    _raise(store, run)
    _state(store, run, RunState.PROMOTING)
    _drop(store)
    with pytest.raises(StaleGeneration, match="overtook"), store.write() as connection:
        exposures.promote(connection, run.run_id, at=store.clock())


def test_a_champion_moved_outside_is_followed_unless_somebody_is_exposed(store: Store, start: Start) -> None:
    run = start()
    with store.write() as connection:
        moved = exposures.adopt(connection, MODEL, "7", actor="t", at=1.0)
        assert exposures.adopt(connection, MODEL, "7", actor="t", at=1.0) == moved
    assert (moved.champion, moved.generation) == ("7", 2)
    raised = _raise(store, run)
    with store.write() as connection:
        assert exposures.adopt(connection, MODEL, "9", actor="t", at=1.0) == raised


def test_setting_the_champion_ends_whatever_is_exposed_and_may_be_repeated(
    store: Store, start: Start
) -> None:
    _raise(store, start())
    with store.write() as connection:
        first = exposures.set_champion(connection, MODEL, "1", at=1.0)
        assert exposures.set_champion(connection, MODEL, "1", at=1.0) == first
    assert first == Exposure(MODEL, 3, "1")


def test_what_is_published_is_what_the_store_says_and_the_outbox_is_done(
    store: Store, start: Start, installation: Settings
) -> None:
    _raise(store, start())
    exposures.publish_flags(store, installation)
    with store.read() as connection:
        known = exposures.every(connection)
        assert [read_flag(installation.flags_path, MODEL)] == known
        open_ = schema.outbox.c.done_at.is_(None)
        assert connection.execute(sa.select(sa.func.count()).where(open_)).scalar() == 0


def test_many_writers_that_publish_at_once_leave_a_document_equal_to_the_store(
    store: Store, start: Start, installation: Settings
) -> None:
    models = [f"m{number}" for number in range(3)]
    started = {model: start(model=model) for model in models}
    seen: dict[str, list[int]] = {model: [] for model in models}
    failures: list[BaseException] = []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        try:
            for _ in range(12):
                model = dice.choice(models)
                change = _raise(store, started[model]) if dice.random() < 0.6 else _drop(store, model)
                seen[model].append(change.generation)
                exposures.publish_flags(store, installation)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with store.read() as connection:
        known = exposures.every(connection)
        assert ledger.verify(connection) is None
    assert [read_flag(installation.flags_path, exposure.model) for exposure in known] == known
    for exposure in known:
        assert exposure.generation == max([1, *seen[exposure.model]])


def test_generations_only_grow_and_are_never_given_twice(store: Store, start: Start) -> None:
    run = start()
    given: list[int] = []

    def climb() -> None:
        given.extend(_raise(store, run).generation for _ in range(10))

    threads = [threading.Thread(target=climb) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(given) == list(range(2, 32))
