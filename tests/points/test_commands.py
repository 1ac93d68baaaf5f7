"""The commands about rollback points, against a real registry."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import answered, run
from tests.lifecycle.conftest import World
from tests.points.conftest import altered, point_of
from understudy.points.doors import snapshots_of
from understudy.points.manifest import PARTS


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def suite(world: World, run_id: str) -> Path:
    return snapshots_of(world.session).path(point_of(world, run_id).parts["suites"]["files"]["rows"])


def test_a_point_is_shown_with_its_parts_and_the_last_proof(world: World, run_id: str) -> None:
    told = run("rollback-point", "show", run_id).stdout
    assert f"Version 1 of {world.model}, taken by run {run_id}" in told
    assert "Nobody has proven yet" in told
    assert all(part in told for part in PARTS)
    assert run("rollback-point", "verify", run_id).exit_code == 0
    assert "It leads back" in run("rollback-point", "show", run_id).stdout
    shown = answered("rollback-point", "show", run_id)
    assert (shown["digest"], shown["readiness"]["ready"]) == (point_of(world, run_id).digest, True)


def test_a_point_that_was_altered_fails_and_says_where(world: World, run_id: str) -> None:
    assert answered("rollback-point", "verify", run_id)["problems"] == []
    altered(suite(world, run_id))
    told = run("rollback-point", "verify", run_id)
    assert (told.exit_code, told.stderr.startswith(f"{run_id}: suites, files rows: recorded ")) == (1, True)
    assert answered("rollback-point", "verify", run_id, code=1)["ready"] is False
    (found,) = answered("rollback-point", "verify", code=1)  # of all models
    assert (found["run_id"], found["ready"]) == (run_id, False)
    assert "does not lead back" in run("rollback-point", "show", run_id).stdout


def test_what_changed_since_is_shown_and_two_points_are_compared(world: World, run_id: str) -> None:
    assert "Nothing differs" in run("rollback-point", "diff", run_id).stdout
    live = world.settings.expectations / "rows.json"
    live.write_text(live.read_text() + " ")
    (found,) = answered("rollback-point", "diff", run_id)
    assert (found["part"], found["item"]) == ("suites", "files rows")
    assert "files rows" in run("rollback-point", "diff", run_id).stdout
    assert answered("rollback-point", "diff", run_id, run_id) == []


def test_where_no_run_has_taken_a_point_there_is_nothing_to_verify(world: World) -> None:
    assert answered("rollback-point", "verify") == []
    assert "No run has taken a rollback point yet." in run("rollback-point", "verify").stdout


def test_an_unknown_run_is_an_error_not_a_traceback(world: World) -> None:
    for command in ("show", "verify", "diff"):
        assert answered("rollback-point", command, "nobody", code=1)["error"]["code"] == "NO_SUCH_RUN"


def test_a_feature_set_is_registered_and_listed_with_the_one_in_force(world: World, tmp_path: Path) -> None:
    (tmp_path / "features.sql").write_text("SELECT hour FROM flights")
    files = (
        "--transformation",
        str(tmp_path / "features.sql"),
        "--rows",
        str(world.settings.data / "holdout.parquet"),
    )
    rest = ("--version", "1", *files)
    assert "No feature set of" in run("features", "list", world.model).stdout
    assert answered("features", "list", world.model) == []
    told = run("features", "register", world.model, "hours", *rest).stdout
    assert "has 1 columns" in told
    assert answered("features", "register", world.model, "hours", *rest)["columns"] == [["hour", "double"]]
    assert answered("features", "list", world.model)[0]["active"] is False
    world.client.set_model_version_tag(world.model, "1", "understudy.feature_set", "hours")
    world.begin("2")
    assert answered("features", "list", world.model)[0]["active"] is True
    assert "hours" in run("features", "list", world.model).stdout
    wrong = ("--version", "2", *rest[2:])
    found = answered("features", "register", world.model, "hours", *wrong, code=1)
    assert found["error"]["code"] == "FEATURE_SET_MISMATCH"
