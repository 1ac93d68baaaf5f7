"""Runs and the model's lock."""

from __future__ import annotations

import threading

import pytest

from tests import declared
from tests.store.conftest import Clock, Start
from understudy.errors import ConcurrentRun, NoSuchRun
from understudy.store import Store, ledger, runs
from understudy.store.runs import RunState


def test_a_run_is_found_by_its_id_and_its_key_with_everything_it_was_started_with(
    store: Store, start: Start
) -> None:
    run = start(key="one")
    assert (run.run_id, run.state, run.stage) == ("delay_test-v2-1", RunState.PREPARING, 0)
    with store.read() as connection:
        assert runs.get(connection, run.run_id) == runs.by_key(connection, "one") == run
        assert runs.active(connection, declared.MODEL) == run
        assert runs.by_key(connection, "two") is None
        assert runs.active(connection, "other") is None
    assert declared.experiment() == declared.experiment().model_validate(run.spec)


def test_a_second_run_of_a_model_is_refused_with_the_name_of_the_first(start: Start) -> None:
    first = start()
    with pytest.raises(ConcurrentRun, match=first.run_id) as caught:
        start(version="3")
    assert "understudy rollback delay" in str(caught.value)


def test_another_model_is_not_concerned(start: Start) -> None:
    start()
    assert start(model="other").model == "other"


def test_of_many_threads_that_start_at_once_exactly_one_gets_the_lock(store: Store, start: Start) -> None:
    start(model="warm")
    won, lost, other = [], [], []
    ready = threading.Barrier(8)

    def race(number: int) -> None:
        ready.wait()
        try:
            won.append(start(version=str(number + 2), key=f"key-{number}"))
        except ConcurrentRun as error:
            lost.append(error)
        except Exception as error:
            other.append(error)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(lost), other) == (1, 7, [])
    with store.read() as connection:
        assert runs.active(connection, declared.MODEL) == won[0]
        assert ledger.verify(connection) is None


@pytest.mark.parametrize("state", [RunState.PROMOTED, RunState.ROLLED_BACK, RunState.FAILED])
def test_an_ended_run_gives_the_lock_back_and_never_comes_back(
    store: Store, start: Start, clock: Clock, state: RunState
) -> None:
    run = start()
    with store.write() as connection:
        runs.end(connection, run, state, ending="done", actor="tests", at=clock())
    with store.write() as connection:
        runs.set_state(connection, run.run_id, RunState.EXPOSED, clock())
        runs.end(connection, run, RunState.PROMOTED, ending="again", actor="tests", at=clock())
        ended = runs.get(connection, run.run_id)
        said = [entry.action for entry in ledger.entries(connection, run_id=run.run_id)]
    assert (ended.state, ended.ending) == (state, "done")
    assert said == ["run.started", f"run.{state.value}"]
    clock.now += 1
    again = start()
    assert again.run_id == "delay_test-v2-2"


def test_the_newest_runs_come_first(store: Store, start: Start, clock: Clock) -> None:
    for _ in range(3):
        run = start()
        with store.write() as connection:
            runs.end(connection, run, RunState.FAILED, ending="e", actor="t", at=clock())
        clock.now += 1
    with store.read() as connection:
        found = [run.run_id for run in runs.latest(connection, declared.MODEL, limit=2)]
    assert found == ["delay_test-v2-3", "delay_test-v2-2"]


def test_an_unknown_run_is_an_error_with_the_fix(store: Store) -> None:
    with store.read() as connection, pytest.raises(NoSuchRun, match="understudy status"):
        runs.get(connection, "nobody")


@pytest.mark.parametrize(
    ("state", "may"),
    [
        (RunState.PREPARING, True),
        (RunState.EXPOSED, True),
        (RunState.PROMOTING, False),
        (RunState.ROLLING_BACK, False),
        (RunState.PROMOTED, False),
        (RunState.ROLLED_BACK, False),
        (RunState.FAILED, False),
    ],
)
def test_only_a_run_that_is_on_its_way_up_may_raise_exposure(state: RunState, may: bool) -> None:
    assert state.may_expose is may
