"""The installations with a real MLflow that the lifecycle's tests have, and a run that took its rollback point."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.lifecycle.conftest import World, datasets, make_world, models, world
from understudy.points import features
from understudy.points.point import Point, find
from understudy.registry import FEATURE_SET_TAG
from understudy.store.feature_sets import FeatureSet

__all__ = [
    "altered",
    "datasets",
    "feature_set",
    "make_world",
    "models",
    "own_data",
    "point_of",
    "recipe",
    "run_id",
    "world",
]


@pytest.fixture
def run_id(world: World) -> str:
    """A run of version 2 that is under way, with nobody exposed."""
    return world.started("2")


def feature_set(world: World, name: str, version: str, recipe: Path, *, tagged: bool = True) -> FeatureSet:
    """Register what a version needs as a feature set made by a file, and tag the version with it."""
    rows = world.settings.data / "holdout.parquet"
    found = features.register(world.session, world.model, name, version, recipe, rows, "Ada")
    if tagged:
        world.client.set_model_version_tag(world.model, version, FEATURE_SET_TAG, name)
    return found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """What makes the features."""
    path = tmp_path / "features.sql"
    path.write_text("SELECT hour, wind FROM flights")
    return path


def point_of(world: World, run_id: str) -> Point:
    with world.store.read() as connection:
        return find(connection, run_id)


def altered(path: Path) -> bytes:
    """Change one bit in the middle of a file and return what it was before."""
    before = path.read_bytes()
    place = len(before) // 2
    path.chmod(0o600)
    path.write_bytes(before[:place] + bytes([before[place] ^ 1]) + before[place + 1 :])
    return before


def own_data(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a world datasets of its own, which a test may change; the others share theirs."""
    folder = tmp_path / "data"
    shutil.copytree(world.settings.data, folder)
    monkeypatch.setattr(world.session, "settings", replace(world.settings, data=folder))
    return folder
