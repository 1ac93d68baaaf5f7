"""While a rollback of a model is on nothing begins on it, and a run on its way back never exposes anybody again."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from tests import declared
from tests.store.conftest import Start
from understudy.errors import RollbackUnfinished, StaleGeneration
from understudy.store import Store, exposures, ledger, outbox, runs
from understudy.store.unfinished import FINISH

MODEL = declared.MODEL


def note(store: Store, action: str, model: str = MODEL) -> None:
    with store.write() as connection:
        ledger.append(
            connection, at=store.clock(), actor="Ada", action=action, model=model, reason="it hurts"
        )


def test_a_run_cannot_begin_while_a_rollback_is_on(store: Store, start: Start) -> None:
    note(store, "rollback.started")
    with pytest.raises(RollbackUnfinished, match=rf"{MODEL} has not ended \(it hurts\).*--resume"):
        start()
    with store.read() as connection:
        assert runs.latest(connection, MODEL) == []


@pytest.mark.parametrize(
    "ending", ["rollback.finished", "rollback.abandoned", "exposure.reset"], ids=lambda name: name
)
def test_after_the_end_of_the_rollback_it_can(store: Store, start: Start, ending: str) -> None:
    note(store, "rollback.started")
    note(store, ending)
    assert start().model == MODEL


def test_an_order_that_was_refused_ends_no_rollback_that_somebody_else_began(
    store: Store, start: Start
) -> None:
    note(store, "rollback.started")
    note(store, "rollback.refused")
    with pytest.raises(RollbackUnfinished):
        start()


def test_the_rollback_of_another_model_is_no_reason(store: Store, start: Start) -> None:
    note(store, "rollback.started", "other")
    assert start().model == MODEL


def test_a_rollback_that_waits_for_a_server_and_never_began_counts(store: Store, start: Start) -> None:
    with store.write() as connection:
        outbox.put(connection, FINISH, {"model": MODEL, "reason": "it hurts", "key": "r1"}, at=1.0)
    with pytest.raises(RollbackUnfinished, match="it hurts"):
        start()
    with store.write() as connection:
        (errand,) = outbox.pending(connection, FINISH)
        outbox.mark_done(connection, errand, at=2.0)
    assert start().model == MODEL


def at_once(*acts: Callable[[], None]) -> None:
    """Let every act go in a thread of its own at the same moment; what they raise fails the test."""
    barrier, raised = threading.Barrier(len(acts)), []

    def go(act: Callable[[], None]) -> None:
        barrier.wait(30)
        try:
            act()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=go, args=(act,)) for act in acts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not raised


@pytest.mark.parametrize("number", range(5))
def test_of_starts_and_a_rollback_at_once_none_begins_after_it(
    store: Store, start: Start, number: int
) -> None:
    def begin(name: str) -> Callable[[], None]:
        def act() -> None:
            try:
                run = start(key=name)
            except (RollbackUnfinished, runs.ConcurrentRun):
                return
            with store.write() as connection:
                runs.end(
                    connection,
                    run,
                    runs.RunState.FAILED,
                    ending="a test",
                    actor="tests",
                    at=store.clock(),
                )

        return act

    at_once(*(begin(f"{number}-{name}") for name in range(4)), lambda: note(store, "rollback.started"))
    with store.read() as connection:
        found = [
            entry.action for entry in ledger.entries(connection, actions=("run.started", "rollback.started"))
        ]
    assert found[-1] == "rollback.started"


@pytest.mark.parametrize("number", range(5))
def test_once_a_run_was_stopped_no_race_raises_or_renews_its_exposure(
    store: Store, start: Start, number: int
) -> None:
    run = start(key=str(number))
    with store.write() as connection:
        exposures.raise_to(connection, run.run_id, 1, 5.0, 60.0, at=store.clock())
    stopped = threading.Event()

    def climb() -> None:
        for turn in range(1_000):
            try:
                with store.write() as connection:
                    exposures.raise_to(connection, run.run_id, 1, 5.0 + turn % 2, 60.0, at=store.clock())
                    exposures.renew(connection, run.run_id, 60.0, at=store.clock())
            except StaleGeneration:
                assert stopped.wait(30), "it was refused before anybody stopped it"
                return

    def stop() -> None:
        with store.write() as connection:
            exposures.stop(connection, MODEL, actor="Ada", reason="it hurts", at=store.clock())
        stopped.set()

    at_once(climb, climb, stop)
    with store.read() as connection:
        last = ledger.entries(
            connection, model=MODEL, newest=1, actions=("exposure.raised", "exposure.dropped")
        )
        served, state = exposures.find(connection, MODEL), runs.get(connection, run.run_id).state
    assert [entry.action for entry in last] == ["exposure.dropped"]
    assert served is not None
    assert (served.challenger, served.exposed, state) == (None, False, runs.RunState.ROLLING_BACK)
    with pytest.raises(StaleGeneration), store.write() as connection:
        exposures.raise_to(connection, run.run_id, 1, 5.0, 60.0, at=store.clock())
