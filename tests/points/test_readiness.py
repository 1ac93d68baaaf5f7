"""Readiness: the version that a point leads to answers the recorded probe as it did, or nobody is exposed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.commands import run
from tests.lifecycle.conftest import STEPS_BEFORE_EXPOSURE, World
from tests.points.conftest import altered, point_of
from understudy import lifecycle
from understudy.errors import NoWayBack, Unreachable
from understudy.lifecycle.status import status
from understudy.points import readiness
from understudy.points.doors import snapshots_of
from understudy.points.manifest import seal
from understudy.points.point import Point
from understudy.points.readiness import check, check_all, probe, require, require_fresh
from understudy.store import readiness as recorded


def newest(world: World, run_id: str) -> recorded.Readiness | None:
    with world.store.read() as connection:
        return recorded.newest(connection, run_id)


def with_answers(world: World, run_id: str, change: Callable[[list[float]], list[float]]) -> Point:
    """Return a run's point with other recorded answers."""
    point = point_of(world, run_id)
    kept = snapshots_of(world.session)
    parts = {name: {k: v for k, v in part.items() if k != "digest"} for name, part in point.parts.items()}
    answers = change(json.loads(kept.read(parts["probe"]["answers"])))
    parts["probe"] |= {"answers": kept.keep(json.dumps(answers).encode())}
    return Point(run_id, point.model, point.version, seal(parts), point.digest, point.at)


def test_a_point_that_leads_back_is_recorded_as_ready_with_the_time(world: World, run_id: str) -> None:
    assert newest(world, run_id) is None
    found = check(world.session, run_id)
    assert (found.ready, found.version, found.at) == (True, "1", world.clock.now)
    assert newest(world, run_id) == found
    world.clock.now += 60
    assert check(world.session, run_id).at == world.clock.now
    assert newest(world, run_id) != found


def test_a_start_proves_the_way_back_from_what_was_kept(world: World) -> None:
    run_id = world.begin("2")["run_id"]
    found = newest(world, run_id)
    assert found is not None
    assert found.ready


def test_an_answer_that_differs_is_named_and_the_last_digits_are_not(world: World, run_id: str) -> None:
    tolerated = readiness.TOLERANCE / 2
    assert probe(world.session, with_answers(world, run_id, lambda seen: [x + tolerated for x in seen])) == []
    shifted = with_answers(world, run_id, lambda seen: [*seen[:7], seen[7] + 1e-5, *seen[8:]])
    (told,) = probe(world.session, shifted)
    assert told.startswith("probe, answer to row 7: recorded 0.")
    assert told.endswith("(1 of 200 answers differ)")


def test_nobody_is_exposed_without_a_way_back_that_is_proven_anew(world: World, run_id: str) -> None:
    world.record(run_id, *STEPS_BEFORE_EXPOSURE)
    path = snapshots_of(world.session).path(point_of(world, run_id).parts["suites"]["files"]["rows"])
    before = altered(path)
    with pytest.raises(NoWayBack, match=r"suites, files rows.*rollback-point verify"):
        lifecycle.raise_exposure(run_id, 1)
    found, exposure = newest(world, run_id), world.exposure()
    assert found is not None
    assert exposure is not None
    assert (found.ready, exposure.exposed, world.published().exposed) == (False, False, False)
    path.write_bytes(before)
    assert lifecycle.raise_exposure(run_id, 1)["stage"] == 1


def test_a_later_stage_asks_again(world: World) -> None:
    run_id = world.exposed_run()
    world.record(run_id, "stage_1")
    snapshots_of(world.session).path(point_of(world, run_id).parts["probe"]["rows"]).unlink()
    with pytest.raises(NoWayBack, match="probe, rows"):
        lifecycle.raise_exposure(run_id, 2)
    exposure = world.exposure()
    assert exposure is not None
    assert exposure.percent == 10.0


def test_whoever_looked_last_is_believed_and_a_look_holds_for_a_quarter_of_an_hour(
    world: World, run_id: str
) -> None:
    def asked() -> None:
        with world.store.read() as connection:
            require_fresh(connection, run_id, world.clock())

    with pytest.raises(NoWayBack, match="nobody has looked at it"):
        asked()
    good = check(world.session, run_id)
    asked()
    for later in (
        readiness.FRESH_SECONDS + 1,
        -readiness.FRESH_SECONDS - 1,
    ):  # a clock that was set back proves nothing
        world.clock.now += later
        with pytest.raises(NoWayBack, match="901 s ago"):
            asked()
        world.clock.now -= later
    asked()
    with world.store.write() as connection:
        recorded.record(connection, replace(good, ready=False, sentence="Its files are gone."))
    with pytest.raises(NoWayBack, match="Its files are gone"):
        asked()


def test_who_finds_the_way_back_broken_while_exposure_is_being_raised_prevents_it(
    world: World, run_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.record(run_id, *STEPS_BEFORE_EXPOSURE)
    proven = readiness.require

    def broken_meanwhile(*arguments: Any) -> None:
        good = proven(*arguments)
        with world.store.write() as connection:
            recorded.record(connection, replace(good, ready=False, sentence="Somebody else found it broken."))

    monkeypatch.setattr(readiness, "require", broken_meanwhile)
    with pytest.raises(NoWayBack, match="Somebody else"):
        lifecycle.raise_exposure(run_id, 1)
    assert not world.published().exposed


def test_all_models_are_looked_at_and_the_status_says_what_was_found(world: World) -> None:
    def told() -> dict[str, Any]:
        (state,) = [item for item in status(world.session) if item["model"] == world.model]
        return dict(state["way_back"])

    assert check_all(world.session) == []
    first = world.started("2")
    assert told() == {
        "run": first, "version": "1", "ready": None, "sentence": "Nobody has proven yet that it leads back.", "problems": [],
        "seconds": None, "at": None,
    }  # fmt: skip
    (found,) = check_all(world.session)
    assert (found.run_id, found.ready, told()["at"]) == (first, True, world.clock())
    snapshots_of(world.session).path(point_of(world, first).parts["probe"]["rows"]).unlink()
    world.clock.now += 60
    (found,) = check_all(world.session)
    assert (found.ready, told()["ready"], told()["at"]) == (False, False, world.clock())
    assert told()["problems"][0].startswith("probe, rows")
    shown = run("status", world.model).stdout
    assert "way back" in shown
    assert "BROKEN to version 1: probe, rows" in shown


def test_without_mlflow_nothing_is_recorded_and_nobody_is_exposed(world: World, run_id: str) -> None:
    world.record(run_id, *STEPS_BEFORE_EXPOSURE)
    with world.mlflow_down():
        with pytest.raises(Unreachable):
            require(world.session, run_id)
        with pytest.raises(Unreachable):
            lifecycle.raise_exposure(run_id, 1)
    assert newest(world, run_id) is None
    assert not world.published().exposed
