"""Feature sets: registered once, named by a tag that must fit, and one of them active for each model."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lifecycle.conftest import World, flights
from tests.points.conftest import feature_set
from understudy import lifecycle
from understudy.errors import BadParameter, DataMissing, FeatureSetMismatch
from understudy.points import features
from understudy.points.doors import snapshots_of
from understudy.registry import FEATURE_SET_TAG
from understudy.store import feature_sets, history
from understudy.store.runs import RunState


def active(world: World) -> tuple[str | None, str | None]:
    """Return the active set as the store and as the flag document has it."""
    exposure = world.exposure()
    return (exposure.feature_set if exposure else None), world.published().feature_set


def test_a_registered_set_does_not_change(world: World, recipe: Path) -> None:
    first = feature_set(world, "hours", "1", recipe)
    assert first.columns == (("hour", "double"),)
    assert feature_set(world, "hours", "1", recipe) == first
    with pytest.raises(FeatureSetMismatch, match="choose another name"):
        feature_set(world, "hours", "2", recipe)
    recipe.write_text("SELECT hour + 1 FROM flights")
    with pytest.raises(FeatureSetMismatch, match="transformation"):
        feature_set(world, "hours", "1", recipe)
    with world.store.read() as connection:
        assert feature_sets.every(connection, world.model) == [first]
    with pytest.raises(DataMissing, match="cannot be read"):
        feature_set(world, "more", "1", recipe / "gone")


@pytest.mark.parametrize("name", ["", "  ", "n" * 101])
def test_a_name_that_no_tag_or_store_can_hold_is_refused(world: World, recipe: Path, name: str) -> None:
    with pytest.raises(BadParameter, match="1 to 100 characters"):
        feature_set(world, name, "1", recipe)


def test_rows_that_are_no_parquet_are_named_with_what_is_wanted(world: World, recipe: Path) -> None:
    with pytest.raises(DataMissing, match=r"features.sql is no readable Parquet file with rows"):
        features.register(world.session, world.model, "hours", "1", recipe, recipe, "Ada")


def test_what_makes_a_set_and_rows_of_it_are_kept_and_other_rows_are_refused(
    world: World, recipe: Path, tmp_path: Path
) -> None:
    found = feature_set(world, "hours and wind", "2", recipe)
    kept = snapshots_of(world.session)
    assert kept.read(found.transformation) == recipe.read_bytes()
    assert kept.read(found.snapshot) == (world.settings.data / "holdout.parquet").read_bytes()
    rows = flights(4, 20)
    for other, said in (
        (rows.drop(columns="wind"), "wind is missing"),
        (rows.assign(wind=rows["wind"].astype(str)), "wind is (object|str) and not double"),
    ):
        other.to_parquet(tmp_path / "rows.parquet")
        with pytest.raises(FeatureSetMismatch, match=said):
            features.register(
                world.session, world.model, "other", "2", recipe, tmp_path / "rows.parquet", "Ada"
            )


def test_a_version_that_was_tagged_anew_after_its_admission_is_not_promoted(
    world: World, recipe: Path
) -> None:
    feature_set(world, "hours and wind", "2", recipe)
    run_id = world.exposed_run(run_id=world.begin("2")["run_id"])
    assert world.published().challenger_feature_set == "hours and wind"
    feature_set(world, "others of the same columns", "2", recipe)
    world.record(run_id, "compare")
    with pytest.raises(FeatureSetMismatch, match="was admitted with 'hours and wind'"):
        lifecycle.promote(run_id)
    assert world.alias() == "1"


def test_the_champions_set_is_active_from_the_start_and_the_promoted_ones_afterwards(
    world: World, recipe: Path
) -> None:
    feature_set(world, "hours", "1", recipe)
    feature_set(world, "hours and wind", "2", recipe)
    run_id = world.begin("2")["run_id"]
    assert active(world) == ("hours", "hours")
    world.exposed_run(run_id=run_id)
    assert active(world) == ("hours", "hours")
    world.record(run_id, "compare")
    lifecycle.promote(run_id)
    assert active(world) == ("hours and wind", "hours and wind")
    with world.store.write() as connection:
        back = features.activate(
            connection, world.model, "hours", actor="Ada", reason="rolled back", run_id=None, at=world.clock()
        )
        then = history.as_of(connection, world.model, world.clock())
    assert back.feature_set == "hours"
    assert then.exposure is not None
    assert (then.exposure.feature_set, then.exposure.generation) == ("hours", back.generation)
    assert world.actions().count("feature_set.activated") == 3


def test_activating_the_active_set_again_changes_nothing(world: World, recipe: Path) -> None:
    feature_set(world, "hours", "1", recipe)
    world.begin("2")
    before = world.exposure()
    with world.store.write() as connection:
        again = features.activate(
            connection, world.model, "hours", actor="Ada", reason="again", run_id=None, at=world.clock()
        )
        with pytest.raises(FeatureSetMismatch, match="cannot be made active"):
            features.activate(
                connection, world.model, "years", actor="Ada", reason="no", run_id=None, at=world.clock()
            )
    assert (again, world.actions().count("feature_set.activated")) == (before, 1)


@pytest.mark.parametrize(("version", "name"), [("1", "hours"), ("2", "hours"), ("2", "nothing of that name")])
def test_a_tag_that_does_not_fit_is_refused_and_nobody_is_exposed(
    world: World, recipe: Path, version: str, name: str
) -> None:
    other = "1" if version == "2" else "2"
    feature_set(world, "hours", other, recipe, tagged=False)
    world.client.set_model_version_tag(world.model, version, FEATURE_SET_TAG, name)
    with pytest.raises(FeatureSetMismatch, match=f"Version {version} of {world.model} names feature set"):
        world.begin("2")
    assert world.run("delay_test-v2-1").state is RunState.FAILED
    assert active(world) == (None, None)
