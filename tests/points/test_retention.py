"""Retention: what a live rollback point needs stays, everything else goes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.lifecycle.conftest import World
from tests.points.conftest import altered, own_data, point_of
from understudy.errors import SnapshotBroken
from understudy.lifecycle.event_log import keep_events
from understudy.points.doors import snapshots_of
from understudy.points.retention import live, sweep
from understudy.points.verify import verify
from understudy.store import runs

DAY = 86400.0


def ended(world: World, lease: str) -> str:
    """Start a run with a spec of its own, and end it a hundred days later."""
    world.declare(lease=lease)
    run_id = world.started("2")
    world.clock.now += 100 * DAY
    with world.store.write() as connection:
        run = runs.get(connection, run_id)
        runs.end(connection, run, runs.RunState.FAILED, ending="test", actor="tests", at=world.clock())
    for path in snapshots_of(world.session).folder.glob("??/*"):
        os.utime(path, (0.0, 0.0))
    return run_id


def alive(world: World) -> list[str]:
    with world.store.read() as connection:
        return [point.run_id for point in live(world.session, connection)]


def test_without_days_every_point_stays(world: World) -> None:
    first, second = ended(world, "31s"), ended(world, "32s")
    assert alive(world) == [first, second]
    assert sweep(world.session) == 0
    assert verify(world.session, first) == []


def test_old_points_go_but_the_newest_and_those_of_runs_that_are_on_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "30")
    old, last = ended(world, "31s"), ended(world, "32s")
    assert alive(world) == [last]
    told: list[str] = []
    keep_events(world.session, told.append)
    assert "Snapshots that no rollback point needs any more are removed" in told[-1]
    # Datasets, suites and probe are the same in both, so the newest point needs them too.
    assert {item.part for item in verify(world.session, old)} == {"spec"}
    assert verify(world.session, last) == []
    world.declare(lease="33s")
    running = world.started("2")
    world.clock.now += 100 * DAY
    assert alive(world) == [running]
    assert point_of(world, running).run_id == running


def test_steps_decide_on_the_data_that_was_kept(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = own_data(world, tmp_path, monkeypatch)
    run_id = world.started("2")
    passage = world.session.passage(run_id)
    (data / "holdout.parquet").unlink()
    assert len(passage.dataset("holdout.parquet")) == 1200
    altered(
        snapshots_of(world.session).path(
            point_of(world, run_id).parts["snapshot"]["datasets"]["holdout.parquet"]
        )
    )
    with pytest.raises(SnapshotBroken):
        passage.dataset("holdout.parquet")
