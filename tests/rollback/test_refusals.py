"""What cannot be done is refused by name, and nobody is exposed all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from tests.lifecycle.conftest import World
from tests.rollback.ways import Killed, back, entries, killed_at, promote, serves
from understudy import rollback
from understudy.errors import (
    ArtifactUnloadable,
    BadParameter,
    FilesChanged,
    FlagDocumentError,
    NoSuchVersion,
    RestorationUnproven,
    StoreError,
    UnderstudyError,
)
from understudy.exposure import Exposure, read_flag
from understudy.registry import DIGEST_TAG
from understudy.rollback import engine
from understudy.rollback.emergency import zero_without_store
from understudy.rollback.progress import Order
from understudy.store import exposures, schema
from understudy.store.runs import RunState


def order(world: World) -> Order:
    return Order(world.model, "it hurts", "Ada", "r1")


def spoil_files(world: World) -> None:
    world.client.set_model_version_tag(world.model, "1", DIGEST_TAG, "0" * 64)


def delete_version(world: World) -> None:
    world.client.delete_model_version(world.model, "1")


def test_a_version_that_was_deleted_is_named_before_anything_is_begun(world: World) -> None:
    promote(world)
    delete_version(world)
    with pytest.raises(NoSuchVersion, match="no version '1'"):
        back(world)
    assert world.alias() == "2"
    assert entries(world, "rollback.started") == []


@pytest.mark.parametrize("spoil", [delete_version, spoil_files])
def test_nobody_stays_exposed_when_there_is_nothing_to_go_back_to(
    world: World, spoil: Callable[[World], Any]
) -> None:
    run_id = world.exposed_run()
    spoil(world)
    with pytest.raises(UnderstudyError, match=r"version '1'|version 1"):
        back(world)
    assert not world.published().exposed
    run = world.run(run_id)
    assert run.state in (RunState.ROLLING_BACK, RunState.ROLLED_BACK)
    assert not run.state.may_expose


def test_a_version_whose_files_changed_does_not_become_champion(world: World) -> None:
    promote(world)
    spoil_files(world)
    with pytest.raises(FilesChanged, match="version 1"):
        back(world)
    assert world.alias() == "2"
    # The way on is to name another one.
    with pytest.raises(BadParameter, match="champion already"):
        back(world, key="r2", target_version="2")


def test_a_version_whose_artifacts_are_gone_does_not_become_champion(world: World) -> None:
    run_id = world.exposed_run()
    run = world.client.create_run("0").info
    gone = world.client.create_model_version(world.model, f"{run.artifact_uri}/gone", run.run_id).version
    with pytest.raises(ArtifactUnloadable, match=f"Version {gone}"):
        back(world, target_version=str(gone))
    assert world.alias() == "1"
    assert not world.published().exposed
    assert not world.run(run_id).state.may_expose
    assert back(world, key="r2")["target"] == "1"


def test_a_model_that_was_deleted_from_mlflow_exposes_nobody_any_more(world: World) -> None:
    run_id = world.exposed_run()
    world.client.delete_registered_model(world.model)
    with pytest.raises(NoSuchVersion, match=world.model):
        back(world)
    assert not world.published().exposed
    assert not world.run(run_id).state.may_expose


@pytest.mark.parametrize("jump", [-7 * 86400.0, 10 * 365 * 86400.0], ids=["back a week", "on by ten years"])
def test_a_clock_that_jumps_between_two_tries_changes_nothing_but_the_duration(
    world: World, monkeypatch: pytest.MonkeyPatch, jump: float
) -> None:
    promote(world)
    with monkeypatch.context() as patch:
        patch.setattr(engine, "_finish", killed_at(engine, "_finish", 0, after=False))
        with pytest.raises(Killed):
            back(world)
    world.clock.now += jump
    found = back(world)["objectives"]["duration"]
    assert serves(world, "1")
    assert found["measured"] >= max(0.0, jump)
    assert world.actions().count("rollback.finished") == 1
    back(world, key="r2", target_version="2")
    assert serves(world, "2")


def test_a_version_that_is_champion_already_is_no_target(world: World) -> None:
    promote(world)
    with pytest.raises(BadParameter, match=r"Version 2 of .* is the champion already"):
        back(world, target_version="2")


def test_the_champion_of_a_run_that_is_on_is_a_target(world: World) -> None:
    run_id = world.exposed_run()
    assert back(world, target_version="1")["target"] == "1"
    assert world.run(run_id).state is RunState.ROLLED_BACK


def test_a_second_door_that_asks_for_what_was_just_done_gets_that(world: World) -> None:
    world.exposed_run()
    first = back(world, target_version="1")
    assert back(world, key="r2", target_version="1") == first


def test_an_altered_manifest_is_named_and_the_champion_serves_everybody(world: World) -> None:
    run_id = world.exposed_run()
    with world.store.write() as connection:
        table = schema.rollback_points
        row = connection.execute(sa.select(table).where(table.c.run_id == run_id)).one()
        parts = row.manifest["parts"] | {"code": row.manifest["parts"]["code"] | {"version": "forged"}}
        connection.execute(table.update().values(manifest=row.manifest | {"parts": parts}))
    with pytest.raises(RestorationUnproven, match="manifest"):
        back(world)
    assert serves(world, "1")
    assert world.run(run_id).state is RunState.ROLLED_BACK
    with pytest.raises(RestorationUnproven, match="manifest"):
        back(world)
    (done,) = entries(world, "rollback.finished")
    assert not done.body["objectives"]["accuracy"]["met"]


@pytest.mark.parametrize("content", [b"", b'{"flags": {"del', b"[]"])
def test_a_half_written_flag_document_is_written_anew(world: World, content: bytes) -> None:
    world.exposed_run()
    world.settings.flags_path.write_bytes(content)
    back(world)
    assert serves(world, "1")


def test_a_flag_document_that_cannot_be_written_is_named_and_the_store_says_zero(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.exposed_run()
    world.settings.flags_path.unlink()
    world.settings.flags_path.mkdir()
    with pytest.raises(FlagDocumentError, match="cannot be written"):
        back(world)
    found = world.exposure()
    assert found is not None
    assert not found.exposed
    world.settings.flags_path.rmdir()
    back(world)
    assert serves(world, "1")


def test_a_database_that_can_only_be_read_is_named_and_exposure_is_zero_in_the_flag_document(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.exposed_run()
    before = world.published()
    path = world.settings.home / "store.db"
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///file:{path}?mode=ro&uri=true")
    with pytest.raises(StoreError, match="set to zero in the flag document"):
        back(world)
    assert world.published() == Exposure(
        world.model, before.generation + 1, "1", feature_set=before.feature_set
    )
    # The store goes on as if it had done that itself.
    monkeypatch.delenv("UNDERSTUDY_STORE_URL")
    published = world.published()
    exposures.publish_flags(world.store, world.settings)
    assert world.exposure() == world.published() == published
    back(world)
    assert serves(world, "1")
    assert rollback.resume() == []


def test_a_database_that_is_torn_is_named_and_exposure_is_zero_in_the_flag_document(world: World) -> None:
    world.exposed_run()
    world.store.close()
    for path in world.settings.home.glob("store.db*"):
        path.write_bytes(b"no database" * 4096)
    with pytest.raises(StoreError, match="set to zero in the flag document"):
        back(world)
    assert not world.published().exposed
    assert len(list((world.settings.home / "orders").iterdir())) == 1


def test_an_order_that_cannot_be_kept_keeps_nobody_exposed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.exposed_run()
    (world.settings.home / "orders").write_text("no folder")
    assert "could not be kept" in zero_without_store(world.settings, order(world))
    assert not world.published().exposed


def test_the_last_resort_leaves_other_models_alone(world: World) -> None:
    world.exposed_run()
    other = Exposure("other", 3, "1", "2", "r", 1, 50.0, int(world.clock()) + 30)
    from understudy.exposure import publish

    publish(world.settings.flags_path, [world.published(), other])
    zero_without_store(world.settings, order(world))
    assert read_flag(world.settings.flags_path, "other") == other
    assert not world.published().exposed


@pytest.mark.parametrize("content", [b"", b"torn", b'{"flags": 5}', None])
def test_without_a_store_and_without_a_document_the_lease_is_what_is_left(
    world: World, content: bytes | None
) -> None:
    world.exposed_run()
    if content is None:
        world.settings.flags_path.unlink()
    else:
        world.settings.flags_path.write_bytes(content)
    assert "lease lapses" in zero_without_store(world.settings, order(world))
