"""A rollback point of a real version in a real registry: one byte changed anywhere is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.lifecycle.conftest import World
from tests.points.conftest import altered, feature_set, own_data, point_of
from tests.store.conftest import past_the_triggers
from understudy.errors import NoSuchRun, NoWayBack, Unreachable
from understudy.points.doors import snapshots_of
from understudy.points.manifest import PARTS, digest_of
from understudy.points.verify import changed, verify
from understudy.store import schema


def named(world: World, run_id: str) -> list[tuple[str, str]]:
    return [(item.part, item.item) for item in verify(world.session, run_id)]


def stored(world: World, name: str, file: str) -> Path:
    """Return where MLflow keeps a file of a version."""
    model_id = world.models.logged[name].rpartition("/")[2]
    (path,) = (found for found in (world.models.folder / "artifacts").rglob(file) if model_id in found.parts)
    return path


def test_a_point_holds_every_part_and_verifies(world: World, run_id: str) -> None:
    point = point_of(world, run_id)
    assert tuple(point.parts) == PARTS
    assert (point.version, point.digest) == ("1", digest_of(dict(point.manifest)))
    assert {"MLmodel", "requirements.txt"} <= set(point.parts["model"]["files"])
    assert set(point.parts["snapshot"]["datasets"]) == {"reference.parquet", "holdout.parquet"}
    assert point.parts["spec"]["kept"] == world.run(run_id).spec_digest
    assert point.parts["probe"]["count"] == 200
    assert verify(world.session, run_id) == []
    assert changed(world.session, point) == []


@pytest.mark.parametrize("file", ["requirements.txt", "MLmodel", "model.*"])
def test_a_byte_of_the_versions_files_is_named(world: World, run_id: str, file: str) -> None:
    path = stored(world, "plain", file)
    before = altered(path)
    try:
        assert ("model", f"files {path.name}") in named(world, run_id)
    finally:
        path.write_bytes(before)
    assert named(world, run_id) == []


def test_a_signature_that_was_changed_is_named_with_the_file(world: World, run_id: str) -> None:
    path = stored(world, "plain", "MLmodel")
    before = path.read_bytes()
    path.write_bytes(before.replace(b'"name": "hour"', b'"name": "year"'))
    assert path.read_bytes() != before
    try:
        found = named(world, run_id)
    finally:
        path.write_bytes(before)
    assert {("model", "files MLmodel"), ("signature", "inputs hour"), ("signature", "inputs year")} <= set(
        found
    )


SNAPSHOTS: list[tuple[str, str, Callable[[dict], str]]] = [
    ("snapshot", "datasets holdout.parquet", lambda parts: parts["snapshot"]["datasets"]["holdout.parquet"]),
    ("snapshot", "datasets reference.parquet", lambda parts: parts["snapshot"]["datasets"]["reference.parquet"]),
    ("flags", "document", lambda parts: parts["flags"]["document"]),
    ("suites", "files rows", lambda parts: parts["suites"]["files"]["rows"]),
    ("spec", "kept", lambda parts: parts["spec"]["kept"]),
    ("probe", "rows", lambda parts: parts["probe"]["rows"]),
    ("probe", "answers", lambda parts: parts["probe"]["answers"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("part", "item", "digest"), SNAPSHOTS, ids=[f"{one}-{two}" for one, two, _ in SNAPSHOTS]
)
def test_a_byte_of_what_is_kept_is_named(
    world: World, run_id: str, part: str, item: str, digest: Callable[..., str]
) -> None:
    path = snapshots_of(world.session).path(digest(point_of(world, run_id).parts))
    altered(path)
    assert named(world, run_id) == [(part, item)]
    path.unlink()
    (missing,) = verify(world.session, run_id)
    assert (missing.part, missing.item, missing.found) == (part, item, "nothing")


def test_a_spec_that_was_changed_in_the_store_is_named(world: World, run_id: str) -> None:
    spec = world.run(run_id).spec | {"lease": 31.0}
    with world.store.write() as connection:
        connection.execute(schema.runs.update().where(schema.runs.c.run_id == run_id).values(spec=spec))
    assert named(world, run_id) == [("spec", "frozen")]


def test_a_feature_set_that_was_changed_is_named_in_the_store_and_in_what_is_kept_of_it(
    world: World, recipe: Path
) -> None:
    chosen = feature_set(world, "first", "1", recipe)
    run_id = world.started("2")
    assert named(world, run_id) == []
    path = snapshots_of(world.session).path(chosen.transformation)
    before = altered(path)
    assert named(world, run_id) == [("feature_set", "transformation")]
    path.write_bytes(before)
    past_the_triggers(world.store, "UPDATE feature_sets SET transformation = :other", other="f" * 64)
    assert named(world, run_id) == [("feature_set", "transformation")]


@pytest.mark.parametrize("part", PARTS)
def test_a_manifest_that_was_changed_in_the_store_is_named_even_when_its_digests_were_made_anew(
    world: World, run_id: str, part: str
) -> None:
    manifest = json.loads(json.dumps(point_of(world, run_id).manifest))
    manifest["parts"][part]["name" if part == "model" else "forged"] = "other"
    rewrite(world, run_id, manifest, point_of(world, run_id).digest)
    assert {("manifest", "digest in the store"), (part, "manifest")} <= set(named(world, run_id))
    facts = {key: value for key, value in manifest["parts"][part].items() if key != "digest"}
    manifest["parts"][part] = facts | {"digest": digest_of(facts)}
    rewrite(world, run_id, manifest, digest_of(manifest))
    ((found, item),) = named(world, run_id)
    assert (found, "of the ledger" in item) == ("manifest", True)


def rewrite(world: World, run_id: str, manifest: dict, digest: str) -> None:
    table = schema.rollback_points
    with world.store.write() as connection:
        connection.execute(
            table.update().where(table.c.run_id == run_id).values(manifest=manifest, digest=digest)
        )


def test_a_point_that_the_ledger_does_not_know_is_named(world: World, run_id: str) -> None:
    past_the_triggers(world.store, "DELETE FROM ledger WHERE action = 'rollback_point.taken'")
    assert ("manifest", "entry of the ledger") in named(world, run_id)


def test_a_version_that_is_gone_from_the_registry_is_named_by_its_files(world: World, run_id: str) -> None:
    world.client.delete_model_version(world.model, "1")
    assert ("model", "files MLmodel") in named(world, run_id)


def test_without_mlflow_nobody_knows(world: World, run_id: str) -> None:
    with world.mlflow_down(), pytest.raises(Unreachable):
        verify(world.session, run_id)


def test_an_unknown_run_and_a_run_without_a_point_are_named(world: World, run_id: str) -> None:
    with pytest.raises(NoSuchRun):
        verify(world.session, "nobody")
    with world.store.write() as connection:
        connection.execute(sa.delete(schema.rollback_points))
    with pytest.raises(NoWayBack, match="start a new run"):
        verify(world.session, run_id)


def test_what_lives_on_may_change_and_the_difference_is_told(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = own_data(world, tmp_path, monkeypatch)
    run_id = world.started("2")
    suite = world.settings.expectations / "rows.json"
    suite.write_text(suite.read_text() + " ")
    (data / "holdout.parquet").unlink()
    world.declare(lease="29s")
    world.settings.flags_path.write_text("{}")
    found = changed(world.session, point_of(world, run_id))
    assert [(item.part, item.item) for item in found] == [
        ("snapshot", "datasets holdout.parquet"), ("flags", "document"), ("suites", "files rows"), ("spec", "frozen")
    ]  # fmt: skip
    assert found[0].found == "nothing"
    assert named(world, run_id) == []


def test_a_champion_that_moved_on_is_told_file_by_file(world: World, run_id: str) -> None:
    world.session.registry.set_alias(world.model, "champion", "2")
    found = {(item.part, item.item) for item in changed(world.session, point_of(world, run_id))}
    assert {("model", "version"), ("model", "files MLmodel"), ("signature", "inputs wind")} <= found
