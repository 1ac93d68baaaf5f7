"""A rollback that dies before or after anything it does ends the same when it is asked again, and is one in the record."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lifecycle.conftest import Models, World, build_world
from tests.rollback.ways import Killed, back, entries, killed_at, promote, serves
from understudy import gateways
from understudy.points import readiness
from understudy.registry import Registry
from understudy.rollback import progress
from understudy.store import Store, exposures
from understudy.store.runs import RunState

FEWEST_WRITES = 14
"""Of a rollback; one more or less publication is no matter. Whatever is beyond the last write is a rollback that nobody kills."""

OUTSIDE = {
    "publishing": (exposures, "publish_flags"),
    "moving the alias": (Registry, "make_champion"),
    "removing the challenger's alias": (Registry, "delete_alias"),
    "asking the gateways": (gateways, "wait_until_followed"),
    "the probe": (readiness, "check"),
}


def ended_once(world: World, run_id: str) -> None:
    assert serves(world, "1")
    assert world.active() is None
    actions = world.actions()
    assert actions.count("rollback.started") == actions.count("rollback.finished") == 1
    assert actions.count("consumers.listed") == 1
    assert actions.count("consumer.notified") == 1
    assert actions.count("champion.adopted") == 1
    (started,) = entries(world, "rollback.started")
    steps = [entry.body["step"] for entry in entries(world, "rollback.step")]
    assert steps[0] == "exposure"
    assert set(steps) == {"exposure", "registry", "suites", "serving", "gateways", "probe", "consumers"}
    assert all(entry.body["started"] == started.seq for entry in entries(world, "rollback.step"))
    restored = entries(world, "champion.restored")
    if world.run(run_id).state is RunState.PROMOTED:
        (only,) = restored
        assert (only.body["champion"], only.body["before"]) == ("1", "2")
    else:
        assert (world.run(run_id).state, restored) == (RunState.ROLLED_BACK, [])


@dataclass(frozen=True)
class Prepared:
    """An installation whose model is to be taken back, and a copy of its state, since to make it takes seconds."""

    world: World
    run_id: str
    copy: Path

    def again(self) -> World:
        """Put everything back as it was prepared: the files, and the aliases in MLflow."""
        world, home = self.world, self.world.settings.home
        world.store.close()
        shutil.rmtree(home)
        shutil.copytree(self.copy, home)
        exposed = world.active() is not None
        client = world.client
        client.set_registered_model_alias(world.model, "champion", "1" if exposed else "2")
        if exposed:
            client.set_registered_model_alias(world.model, "challenger", "2")
        else:
            client.delete_registered_model_alias(world.model, "challenger")
        return world


def _prepare(models: Models, datasets: Path, folder: Path, *, running: bool) -> Iterator[Prepared]:
    with pytest.MonkeyPatch.context() as patch:
        world = build_world(models, datasets, folder, patch, f"crash-{running}".lower())
        world.declare(consumers=[{"name": "billing", "contact": "#billing"}])
        run_id = world.exposed_run() if running else promote(world)
        world.store.close()
        shutil.copytree(world.settings.home, folder / "copy")
        yield Prepared(world, run_id, folder / "copy")


@pytest.fixture(scope="module", params=[True, False], ids=["run on", "no run"])
def prepared(
    request: pytest.FixtureRequest, models: Models, datasets: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prepared]:
    yield from _prepare(models, datasets, tmp_path_factory.mktemp("prepared"), running=request.param)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("act", OUTSIDE)
def test_dying_at_anything_outside_the_store(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, act: str, after: bool
) -> None:
    world = prepared.again()
    running = world.active() is not None
    room, name = OUTSIDE[act]
    monkeypatch.setattr(room, name, killed_at(room, name, 0, after))
    died = _again_until_done(world)
    assert died or (running and act == "moving the alias")
    ended_once(world, prepared.run_id)


@pytest.mark.parametrize("number", range(16))
def test_dying_between_any_two_writes(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    world = prepared.again()
    real, count = Store.write, iter(range(1_000_000))

    @contextmanager
    def write(store: Store) -> Any:
        if next(count) == number:
            raise Killed(f"before write {number}")
        with real(store) as connection:
            yield connection

    monkeypatch.setattr(Store, "write", write)
    assert _again_until_done(world) or number >= FEWEST_WRITES, "fewer writes than there are steps and ends"
    if number > 0:
        assert not world.published().exposed
    ended_once(world, prepared.run_id)


def _again_until_done(world: World) -> bool:
    died = False
    for _ in range(2):
        try:
            back(world)
        except Killed:
            died = True
    return died


def test_two_that_ask_at_once_are_one_rollback_with_one_result(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = prepared.again()
    real, second = progress.note_step, {}

    def overtaken(*arguments: Any, **named: Any) -> None:
        monkeypatch.setattr(progress, "note_step", real)
        second.update(back(world, key="r2"))
        real(*arguments, **named)

    monkeypatch.setattr(progress, "note_step", overtaken)
    first = back(world, key="r1")
    assert first == second == back(world, key="r1") == back(world, key="r2")
    assert [entry.body["key"] for entry in entries(world, "rollback.started", "rollback.joined")] == [
        "r1",
        "r2",
    ]
    ended_once(world, prepared.run_id)
