"""What a rollback leaves in the record: steps with their time, objectives, who was told, and what serves since when."""

from __future__ import annotations

import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle.conftest import World
from tests.rollback.ways import back, entries, promote, serves
from tests.servers import wait_until
from understudy.errors import FeatureSetMismatch
from understudy.points import features
from understudy.registry import FEATURE_SET_TAG, Registry
from understudy.rollback import engine
from understudy.rollback.steps import STEPS
from understudy.store import exposures, history


def test_each_step_is_in_the_ledger_with_its_seconds_and_what_was_read_back(world: World) -> None:
    promote(world)
    result = back(world)
    steps = {entry.body["step"]: entry.body for entry in entries(world, "rollback.step")}
    assert list(steps) == result["recipe"]["steps"]
    assert all(step["seconds"] >= 0 for step in steps.values())
    assert steps["registry"]["found"]["champion"] == steps["serving"]["found"]["champion"] == "1"
    assert [name for name, step in steps.items() if step["changed"]] == [
        "registry", "serving", "gateways", "consumers",
    ]  # fmt: skip


def test_objectives_are_recorded_beside_what_was_measured(world: World) -> None:
    world.declare(rollback={"duration": "10m", "zero_within": "1m", "impact": 2})
    run_id = world.exposed_run(stage=2)
    exposure = world.exposure()
    assert exposure is not None
    found = back(world)["objectives"]
    assert set(found) == {"duration", "zero_within", "accuracy", "impact"}
    assert (found["duration"]["objective"], found["duration"]["met"]) == (600.0, True)
    assert found["accuracy"] == {"measured": 1.0, "objective": 1.0, "met": True}
    assert found["impact"] == {"measured": exposure.percent, "objective": 2.0, "met": False}
    (finished,) = entries(world, "rollback.finished")
    assert (finished.run_id, finished.body["objectives"]) == (run_id, found)


def test_a_change_of_champion_is_seen_by_everybody(world: World) -> None:
    promote(world)
    assert back(world)["objectives"]["impact"]["measured"] == 100.0


def test_a_lapsed_lease_exposed_nobody(world: World) -> None:
    world.exposed_run()
    world.clock.now += 3600
    assert back(world)["objectives"]["impact"]["measured"] == 0.0


def test_a_step_that_exceeds_its_objective_raises_an_alert_while_it_lasts(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    promote(world)
    told = threading.Event()
    monkeypatch.setitem(STEPS, "registry", replace(STEPS["registry"], seconds=0.01))
    real, stalled = Registry.verify, logging.getLogger("understudy.rollback.objectives")

    class Bell(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.set()

    def slow(*arguments: Any) -> None:
        assert told.wait(30), "no alert while the step takes long"
        real(*arguments)

    bell = Bell()
    stalled.addHandler(bell)
    monkeypatch.setattr(Registry, "verify", slow)
    try:
        back(world)
    finally:
        stalled.removeHandler(bell)
    assert serves(world, "1")
    assert "step registry takes longer than its objective of 0.01 s" in caplog.text
    # The watcher's own thread writes its entry.
    (entry,) = wait_until(lambda: entries(world, "rollback.stalled"), "the alert was noted")
    assert entry.body["step"] == "registry"


def test_consumers_are_told_once_and_in_the_ledger(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.declare(
        consumers=[{"name": "ops", "contact": "ops@example.org"}, {"name": "billing", "contact": "#b"}]
    )
    promote(world)
    back(world)
    told = entries(world, "consumer.notified")
    assert [entry.body["consumer"]["name"] for entry in told] == ["billing", "ops"]
    assert "ops (ops@example.org): version 1" in caplog.text
    assert entries(world, "consumers.listed")[0].body["consumers"] == [
        {"name": "billing", "contact": "#b", "found": "spec"},
        {"name": "ops", "contact": "ops@example.org", "found": "spec"},
    ]


def test_a_restored_champion_is_on_record_with_its_generation_from_that_moment(world: World) -> None:
    promote(world)
    at = world.clock.now
    world.clock.now += 10
    back(world)
    world.clock.now += 10
    with world.store.read() as connection:
        before = history.as_of(connection, world.model, at)
        after = history.as_of(connection, world.model, world.clock())
        served = exposures.find(connection, world.model)
    assert before.in_force is not None
    assert before.in_force.champion == "2"
    assert after.in_force is not None
    assert served is not None
    assert (after.in_force.champion, after.in_force.generation) == ("1", served.generation)


def test_a_model_that_the_store_did_not_know_is_on_record_with_both_versions(world: World) -> None:
    world.client.set_registered_model_alias(world.model, "champion", "2")
    back(world)
    changes = entries(world, "champion.adopted", "champion.restored")
    assert [(entry.action, entry.body["champion"]) for entry in changes] == [
        ("champion.adopted", "2"),
        ("champion.restored", "1"),
    ]


def test_suites_are_put_back_and_what_they_replace_is_kept(world: World) -> None:
    world.exposed_run()
    path = world.settings.expectations / "rows.json"
    before = path.read_bytes()
    path.write_bytes(b'{"name": "rows", "expectations": []}')
    found = back(world)["found"]["suites"]
    assert path.read_bytes() == before
    assert (found["parts"], found["restored"], found["differ"]) == (1, 1, [])
    kept = {item.read_bytes() for item in world.settings.snapshots_dir.glob("??/*")}
    assert b'{"name": "rows", "expectations": []}' in kept


def test_a_newer_rollback_to_another_version_replaces_one_that_is_on(
    make_world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(versions=("plain", "good", "harmful"))
    promote(world)
    real = engine._take

    def replaced(*arguments: Any) -> None:
        monkeypatch.setattr(engine, "_take", real)
        back(world, key="r2", target_version="3")
        real(*arguments)

    monkeypatch.setattr(engine, "_take", replaced)
    assert back(world, key="r1")["target"] == "3"
    assert serves(world, "3")
    assert world.actions().count("rollback.finished") == 1


def test_the_feature_set_goes_back_with_the_champion_at_the_same_generation(
    world: World, tmp_path: Path
) -> None:
    transformation = tmp_path / "features.sql"
    transformation.write_text("select 1")
    for version, name in (("1", "narrow"), ("2", "wide")):
        rows = world.settings.data / "holdout.parquet"
        features.register(world.session, world.model, name, version, transformation, rows, "Ada")
        world.client.set_model_version_tag(world.model, version, FEATURE_SET_TAG, name)
    promote(world)
    assert world.published().feature_set == "wide"
    # Gateways refuse a version whose tag is another than the document's, and nothing may block a rollback.
    world.client.set_model_version_tag(world.model, "1", FEATURE_SET_TAG, "wide")
    back(world)
    assert world.client.get_model_version(world.model, "1").tags[FEATURE_SET_TAG] == "narrow"
    served = world.published()
    assert (served.champion, served.feature_set) == ("1", "narrow")
    (restored,) = entries(world, "champion.restored")
    assert restored.body["generation"] == served.generation


def test_a_target_that_names_an_unknown_feature_set_is_refused_before_anything_is_begun(world: World) -> None:
    world.client.set_registered_model_alias(world.model, "champion", "2")
    world.client.set_model_version_tag(world.model, "1", FEATURE_SET_TAG, "nobody's")
    with pytest.raises(FeatureSetMismatch, match="nobody's"):
        back(world)
    assert world.alias() == "2"
    assert entries(world, "rollback.started") == []
