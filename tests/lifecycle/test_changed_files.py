"""Files of a version that change after its run was admitted: nothing of them runs, and nobody promotes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.lifecycle.conftest import World
from understudy import lifecycle
from understudy.errors import FilesChanged
from understudy.registry import DIGEST_TAG
from understudy.store.runs import RunState


@contextmanager
def altered(world: World, name: str) -> Iterator[None]:
    """Change one byte of a version's files where MLflow keeps them, and put it back."""
    model_id = world.models.logged[name].rpartition("/")[2]
    (path,) = (
        path
        for path in (world.models.folder / "artifacts").rglob("requirements.txt")
        if model_id in path.parts
    )
    before = path.read_bytes()
    path.write_bytes(before.swapcase())
    try:
        yield
    finally:
        path.write_bytes(before)


def tag(world: World, version: str) -> str | None:
    found = world.session.registry.version(world.model, version).tags.get(DIGEST_TAG)
    assert found is None or len(found) == 64
    return found


def test_a_start_records_what_the_files_of_both_versions_hash_to(world: World) -> None:
    assert (tag(world, "1"), tag(world, "2")) == (None, None)
    evidence = world.begin("2")["evidence"]
    assert tag(world, "2") == evidence["challenger_digest"]
    assert tag(world, "1") not in (None, tag(world, "2"))


@pytest.mark.parametrize("name", ["plain", "good"])
def test_a_version_whose_files_changed_since_it_was_first_admitted_starts_nothing(
    world: World, name: str
) -> None:
    run_id = world.begin("2")["run_id"]
    lifecycle.abort(run_id, "stopped by a test")
    recorded = tag(world, "1"), tag(world, "2")
    with (
        altered(world, name),
        pytest.raises(FilesChanged, match=r"the registry.s tag understudy\.digest has"),
    ):
        world.begin("2", key="start-2")
    refused = world.run("delay_test-v2-2")
    assert (refused.state, "FILES_CHANGED" in (refused.ending or "")) == (RunState.FAILED, True)
    assert world.active() is None
    assert (tag(world, "1"), tag(world, "2")) == recorded
    # Put back, they are what they were.
    assert world.begin("2", key="start-3")["outcome"] == "PASS"


def test_files_that_change_during_a_run_are_neither_evaluated_nor_promoted(world: World) -> None:
    run_id = world.begin("2")["run_id"]
    with altered(world, "good"), pytest.raises(FilesChanged):
        lifecycle.evaluate(run_id)
    world.exposed_run(run_id=run_id)
    world.record(run_id, "compare")
    with altered(world, "good"), pytest.raises(FilesChanged, match="register it as a new version"):
        lifecycle.promote(run_id)
    assert world.alias() == "1"
    assert world.run(run_id).state is RunState.EXPOSED
    assert world.published().champion == "1"
    assert lifecycle.promote(run_id)["reason"] == "promoted"
