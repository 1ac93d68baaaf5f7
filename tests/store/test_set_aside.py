"""What was asked for while the store could not be written is in it before anything is published from it again."""

from __future__ import annotations

from typing import Any

import pytest

from tests import declared
from tests.store.conftest import Start
from understudy.errors import RollbackUnfinished, StoreError
from understudy.exposure import Exposure, publish, read_flag
from understudy.settings import Settings
from understudy.store import Store, exposures, ledger, outbox, runs, set_aside
from understudy.store.unfinished import FINISH

MODEL = declared.MODEL
ORDER: dict[str, Any] = {
    "model": MODEL,
    "reason": "it hurts",
    "actor": "Ada",
    "key": "cli/1",
    "target_version": None,
}


@pytest.fixture
def run(store: Store, start: Start, installation: Settings) -> runs.Run:
    """A run that is exposed in the store; the flag document alone says zero, and an order is set aside."""
    started = start()
    with store.write() as connection:
        raised = exposures.raise_to(connection, started.run_id, 1, 5.0, 60.0, at=store.clock())
    set_aside.keep(installation.home, ORDER)
    publish(installation.flags_path, [Exposure(MODEL, raised.generation + 1, "1")])
    return started


def waiting(store: Store) -> list[str]:
    with store.read() as connection:
        return [errand.body["key"] for errand in outbox.pending(connection, FINISH)]


def test_whoever_publishes_next_publishes_zero(store: Store, installation: Settings, run: runs.Run) -> None:
    exposures.publish_flags(store, installation)
    published = read_flag(installation.flags_path, MODEL)
    assert published is not None
    assert not published.exposed
    with store.read() as connection:
        assert exposures.find(connection, MODEL) == published
        assert runs.get(connection, run.run_id).state is runs.RunState.ROLLING_BACK
        dropped, deferred = ledger.entries(
            connection, model=MODEL, actions=("exposure.dropped", "rollback.deferred")
        )
    assert (dropped.actor, dropped.reason, deferred.actor) == ("Ada", "it hurts", "Ada")
    assert waiting(store) == ["cli/1"]


def test_it_is_taken_over_once(store: Store, installation: Settings, run: runs.Run) -> None:
    for _ in range(2):
        exposures.take_over_orders(store, installation)
        # As if the process had died between the commit and the removal of the file.
        set_aside.keep(installation.home, ORDER)
    exposures.take_over_orders(store, installation)
    assert waiting(store) == ["cli/1"]
    with store.read() as connection:
        assert len(ledger.entries(connection, actions=("exposure.dropped",))) == 1
    assert list((installation.home / "orders").iterdir()) == []


def test_as_long_as_the_store_cannot_take_it_nothing_is_published(
    store: Store, installation: Settings, run: runs.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = installation.flags_path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", _refuses)
        with pytest.raises(StoreError, match="read-only"):
            exposures.publish_flags(store, installation)
    assert installation.flags_path.read_bytes() == before
    assert len(list((installation.home / "orders").iterdir())) == 1


def _refuses(store: Store) -> Any:
    raise StoreError("The store is read-only.")


def test_until_the_rollback_is_done_no_run_begins(store: Store, installation: Settings, start: Start) -> None:
    with store.write() as connection:
        exposures.adopt(connection, MODEL, "1", actor="tests", at=store.clock())
    set_aside.keep(installation.home, ORDER)
    exposures.take_over_orders(store, installation)
    with pytest.raises(RollbackUnfinished, match="it hurts"):
        start()


def test_an_order_for_a_model_that_the_store_never_knew_harms_nobody(
    store: Store, installation: Settings
) -> None:
    set_aside.keep(installation.home, ORDER)
    exposures.publish_flags(store, installation)
    assert waiting(store) == ["cli/1"]


def test_a_file_that_is_no_order_is_named_and_keeps_nobody_from_publishing(
    store: Store, installation: Settings, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start()
    folder = installation.home / "orders"
    folder.mkdir(parents=True)
    (folder / "torn.json").write_text('{"model": "del')
    exposures.publish_flags(store, installation)
    assert read_flag(installation.flags_path, MODEL) is not None
    assert "torn.json" in caplog.text
