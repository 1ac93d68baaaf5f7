"""Containment in the store: a harmed cohort goes back to the champion, the run goes on without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.declared import MODEL
from tests.store.conftest import Clock, Start
from tests.store.test_exposures import _actions, _drop, _raise, _renew, _state
from understudy.exposure import Exposure, read_flag
from understudy.settings import Settings
from understudy.store import Store, exposures, ledger, runs, schema
from understudy.store.runs import RunState


def _contain(store: Store, run: runs.Run, *cohorts: str) -> Exposure | None:
    with store.write() as connection:
        return exposures.contain(connection, run.run_id, cohorts, reason="Harm was found.", at=store.clock())


def test_a_contained_cohort_is_a_new_generation_and_an_entry_that_says_who_what_and_why(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    raised = _raise(store, run)
    clock.now += 5
    contained = _contain(store, run, "origin=JFK", "carrier=AA")
    assert contained == replace(raised, generation=3, contained=("carrier=AA", "origin=JFK"))
    with store.read() as connection:
        assert exposures.find(connection, MODEL) == contained
        assert exposures.every(connection) == [contained]
        entry = ledger.entries(connection, run_id=run.run_id)[-1]
        assert ledger.verify(connection) is None
    assert (entry.action, entry.actor, entry.reason, entry.model, entry.at) == (
        "cohort.contained",
        "understudy",
        "Harm was found.",
        MODEL,
        clock(),
    )
    assert entry.body == {
        "cohorts": ["carrier=AA", "origin=JFK"],
        "contained": ["carrier=AA", "origin=JFK"],
        "generation": 3,
        "version": "2",
        "lease_before": raised.lease_expires_at,
        "trace_id": run.trace_id,
    }


def test_containing_what_is_contained_changes_nothing_and_another_cohort_is_added(
    store: Store, start: Start
) -> None:
    run = start()
    _raise(store, run)
    first = _contain(store, run, "origin=JFK")
    assert [_contain(store, run, "origin=JFK", "origin=JFK"), _contain(store, run)] == [first] * 2
    assert _actions(store).count("cohort.contained") == 1
    second = _contain(store, run, "origin=JFK", "origin=EWR")
    assert second is not None
    assert (second.generation, second.contained) == (4, ("origin=EWR", "origin=JFK"))
    with store.read() as connection:
        assert ledger.entries(connection)[-1].body["cohorts"] == ["origin=EWR"]


def test_what_is_contained_stays_so_while_the_run_climbs_and_renews(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    _raise(store, run)
    _contain(store, run, "origin=JFK")
    clock.now += 10
    renewed = _renew(store, run)
    assert renewed is not None
    assert (renewed.generation, renewed.contained) == (3, ("origin=JFK",))
    assert _raise(store, run, 1).contained == ("origin=JFK",)
    assert _raise(store, run, 2, 50.0).contained == ("origin=JFK",)
    clock.now += 31
    assert _raise(store, run, 2, 50.0).contained == ("origin=JFK",)


def test_nothing_stays_contained_once_everybody_has_the_same_version_again(
    store: Store, start: Start
) -> None:
    dropped = start()
    _raise(store, dropped)
    _contain(store, dropped, "origin=JFK")
    assert _drop(store) == Exposure(MODEL, 4, "1")
    with store.write() as connection:
        runs.end(connection, dropped, RunState.FAILED, ending="e", actor="t", at=store.clock())
    promoted = start()
    assert _raise(store, promoted).contained == ()
    _contain(store, promoted, "origin=JFK")
    _state(store, promoted, RunState.PROMOTING)
    with store.write() as connection:
        assert exposures.promote(connection, promoted.run_id, at=store.clock()) == Exposure(MODEL, 7, "2")


def test_there_is_nothing_to_contain_without_a_live_lease_of_this_very_run(
    store: Store, start: Start, clock: Clock
) -> None:
    run = start()
    assert _contain(store, run, "origin=JFK") is None
    _raise(store, run)
    for state in (RunState.ROLLING_BACK, RunState.PROMOTING):
        _state(store, run, state)
        assert _contain(store, run, "origin=JFK") is None
    _state(store, run, RunState.EXPOSED)
    clock.now += 30
    assert _contain(store, run, "origin=JFK") is None
    _drop(store)
    assert _contain(store, run, "origin=JFK") is None
    with store.write() as connection:
        runs.end(connection, run, RunState.FAILED, ending="e", actor="t", at=store.clock())
    _raise(store, start(version="3"))
    assert _contain(store, run, "origin=JFK") is None
    assert "cohort.contained" not in _actions(store)


def test_a_cohort_without_a_column_is_refused_and_nothing_is_changed(store: Store, start: Start) -> None:
    run = start()
    raised = _raise(store, run)
    with pytest.raises(ValueError, match="column=value"):
        _contain(store, run, "origin=JFK", "all")
    with store.read() as connection:
        assert exposures.find(connection, MODEL) == raised


def test_an_exposure_of_before_there_was_containment_contains_nothing(
    installation: Settings, tmp_path: Path
) -> None:
    old = sa.create_engine(f"sqlite:///{tmp_path / 'old.db'}")
    config = Config()
    config.set_main_option("script_location", str(Path(schema.__file__).parent / "migrations"))
    with old.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        connection.execute(
            sa.text(
                "INSERT INTO exposures (model, generation, champion, stage, percent, mirror) "
                "VALUES ('old', 4, '1', 0, 0, 0)"
            )
        )
    old.dispose()
    opened = Store.open(replace(installation, store_url=str(old.url)))
    with opened.read() as connection:
        assert exposures.find(connection, "old") == Exposure("old", 4, "1")
    opened.close()


def test_what_is_contained_is_published(store: Store, start: Start, installation: Settings) -> None:
    run = start()
    _raise(store, run)
    contained = _contain(store, run, "origin=JFK")
    exposures.publish_flags(store, installation)
    assert read_flag(installation.flags_path, MODEL) == contained
