"""The audit names what nobody has noticed, and each finding leads to a page that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lifecycle.conftest import World
from tests.rollback.ways import Killed, killed_at
from tests.store.conftest import past_the_triggers
from understudy import rollback
from understudy.lifecycle.audit import ERROR, INFO, WARNING, Finding, audit
from understudy.rollback import engine
from understudy.store import drills
from understudy.store.drills import Drilled


def kinds(found: list[Finding]) -> dict[str, str]:
    return {one.kind: one.severity for one in found}


@pytest.fixture(autouse=True)
def _every_page_exists(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Finding.__init__

    def checked(self: Finding, *values: str) -> None:
        made(self, *values)
        assert (repo / self.runbook).is_file(), self.runbook

    monkeypatch.setattr(Finding, "__init__", checked)


def test_where_all_is_well_nothing_is_found(world: World) -> None:
    world.exposed_run()
    assert audit(world.session) == []


def test_a_document_that_says_something_else_than_the_store_is_an_error(world: World) -> None:
    world.exposed_run()
    old = world.settings.flags_path.read_bytes()
    rollback.execute(world.model, "it hurts", "Ada", "r")
    world.settings.flags_path.write_bytes(old)
    (found,) = audit(world.session)
    assert (found.kind, found.severity) == ("stale_flag", ERROR)
    world.settings.flags_path.write_text("{")
    (found,) = audit(world.session)
    assert "cannot be read" in found.sentence


def test_a_lease_that_ran_out_under_a_run_is_an_error(world: World) -> None:
    run_id = world.exposed_run()
    world.clock.now += 200
    (found,) = audit(world.session)
    assert (found.kind, found.severity) == ("expired_lease", ERROR)
    assert run_id in found.sentence


def test_a_run_that_outlasts_its_stage_is_an_error_and_one_that_waits_for_a_day_a_warning(
    world: World,
) -> None:
    run_id = world.exposed_run()
    world.clock.now += 300 + 601
    assert kinds(audit(world.session))["past_its_end"] == ERROR
    rollback.execute(world.model, "it hurts", "Ada", "r")
    world.clock.now += 1
    assert "past_its_end" not in kinds(audit(world.session))
    assert world.run(run_id).state.terminal
    world.started(world.versions["good"])
    world.clock.now += 2 * 86400
    assert kinds(audit(world.session))["past_its_end"] == WARNING


def test_an_altered_ledger_is_an_error(world: World) -> None:
    world.exposed_run()
    past_the_triggers(world.store, "UPDATE ledger SET actor = 'nobody' WHERE seq = 2")
    found = next(one for one in audit(world.session) if one.kind == "broken_chain")
    assert (found.about, found.severity) == ("entry 2", ERROR)


def test_a_rollback_point_that_does_not_verify_any_more_is_an_error(world: World) -> None:
    run_id = world.exposed_run()
    kept = sorted(path for path in world.settings.snapshots_dir.rglob("*") if path.is_file())
    kept[0].chmod(0o644)
    kept[0].write_bytes(b"altered")
    found = next(one for one in audit(world.session) if one.kind == "unproven_point")
    assert (found.about, found.severity) == (run_id, ERROR)


def test_a_champion_that_somebody_else_moved_is_an_error(world: World) -> None:
    world.exposed_run()
    world.client.set_registered_model_alias(world.model, "champion", "2")
    found = next(one for one in audit(world.session) if one.kind == "champion_differs")
    assert found.severity == ERROR


def test_a_rollback_that_has_just_begun_is_under_way_and_one_that_died_is_an_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.exposed_run()
    monkeypatch.setattr(engine, "_finish", killed_at(engine, "_finish", 0, after=False))
    with pytest.raises(Killed):
        rollback.execute(world.model, "it hurts", "Ada", "r")
    assert "unfinished_rollback" not in kinds(audit(world.session))
    world.clock.now += 61
    assert kinds(audit(world.session))["unfinished_rollback"] == ERROR


def test_a_rollback_that_waits_for_a_server_is_an_error(world: World) -> None:
    world.exposed_run()
    with world.mlflow_down(), pytest.raises(Exception, match="does not answer"):
        rollback.execute(world.model, "it hurts", "Ada", "r")
    assert kinds(audit(world.session))["unfinished_rollback"] == ERROR


def test_a_registry_that_does_not_answer_keeps_nothing_else_from_being_looked_at(world: World) -> None:
    world.exposed_run()
    world.clock.now += 200
    with world.mlflow_down():
        found = kinds(audit(world.session))
    assert (found["not_looked_at"], found["expired_lease"]) == (WARNING, ERROR)


def test_drills_that_are_missing_are_a_warning_and_failed_ones_an_error(world: World) -> None:
    world.declare(drill={"scenarios": ["slow"]})
    assert kinds(audit(world.session)) == {"not_drilled": WARNING}
    failed = Drilled("d", world.model, "1", "slow", False, "s", {}, world.clock())
    with world.store.write() as connection:
        drills.record(connection, [failed], actor="Ada", reason="a test")
    assert kinds(audit(world.session)) == {"not_drilled": ERROR}


def test_who_chose_a_version_past_the_usual_way_is_listed_for_a_week(world: World) -> None:
    world.exposed_run()
    rollback.execute(world.model, "it hurts", "Ada", "r", target_version="2")
    found = [one for one in audit(world.session) if one.kind == "override"]
    assert [one.severity for one in found] == [INFO]
    assert "Ada" in found[0].sentence
    world.clock.now += 8 * 86400
    assert "override" not in kinds(audit(world.session))


def test_a_spec_that_is_broken_is_a_warning(world: World) -> None:
    (world.settings.experiments / "typo.yaml").write_text("name: typo\n")
    (found,) = audit(world.session)
    assert (found.kind, found.severity) == ("broken_spec", WARNING)
