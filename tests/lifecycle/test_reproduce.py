"""Every decision of a run is made again from the store alone, and whoever changed the record is found out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.lifecycle.conftest import World, flights
from tests.lifecycle.served import BETTER, WORSE, traffic
from tests.lifecycle.test_steps import log_requests
from tests.points.conftest import altered as altered_file
from tests.points.conftest import own_data, point_of
from understudy import lifecycle
from understudy.errors import NoSuchRun, StepNotPassed
from understudy.lifecycle.report import render
from understudy.lifecycle.reproduce import reproduce
from understudy.points.doors import snapshots_of
from understudy.store import schema


def climbed(world: World) -> str:
    """Bring a run through its first stage: two looks that hold, one that advances."""
    run_id = world.exposed_run()
    world.clock.now += 5
    traffic(world, run_id, BETTER, units=3000)
    assert lifecycle.look(run_id, 1)["decision"] == "HOLD"
    world.clock.now += 10
    traffic(world, run_id, BETTER, units=3000)
    assert lifecycle.look(run_id, 1)["decision"] == "HOLD"
    world.clock.now += 20
    traffic(world, run_id, BETTER)
    assert lifecycle.look(run_id, 1)["decision"] == "ADVANCE"
    lifecycle.conclude_stage(run_id, 1)
    return run_id


def looks(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [item for item in found["verdicts"] if item["how"] == "moments"]


def test_every_look_is_decided_again_without_the_event_log(world: World) -> None:
    run_id = climbed(world)
    shutil.rmtree(world.settings.events_dir)
    seen: list[tuple[int, int]] = []
    found = reproduce(run_id, lambda done, of: seen.append((done, of)))
    assert found["reproduced"], found
    assert (found["spec_unchanged"], found["same_code"]) == (True, True)
    assert len(looks(found)) == 3
    assert seen[-1] == (len(found["verdicts"]), len(found["verdicts"]))


def test_a_rollback_is_reproduced_too(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, WORSE)
    assert lifecycle.look(run_id, 1)["decision"] == "ROLL_BACK"
    with pytest.raises(StepNotPassed):
        lifecycle.conclude_stage(run_id, 1)
    found = reproduce(run_id)
    assert found["reproduced"], found
    assert looks(found)[0]["outcome"] == "FAIL"


def test_a_look_that_only_held_is_kept_short_shown_as_such_and_reproduced(world: World) -> None:
    world.cohorts = ("origin=JFK", "origin=LGA")
    run_id = world.exposed_run()
    world.clock.now += 5
    traffic(world, run_id, BETTER)
    assert lifecycle.look(run_id, 1)["decision"] == "HOLD"
    (held,) = world.verdicts(run_id, "stage_1")
    assert {part.cohort for part in held.verdict.parts} == {None, "all"}
    rest = held.verdict.parts[-1]
    assert sum(rest.evidence["reasons"].values()) == 4  # two metrics that decide, in two cohorts
    page = render(world.session.passage(run_id))
    assert rest.sentence in page
    assert "brier over the run" in page
    assert reproduce(run_id)["reproduced"]


def test_the_ship_rule_is_applied_again(world: World) -> None:
    run_id = world.exposed_run(2)
    traffic(world, run_id, BETTER)
    world.record(run_id, "stage_2")
    lifecycle.compare(run_id)
    found = reproduce(run_id)
    assert found["reproduced"], found
    assert [item["step"] for item in looks(found)] == ["online_result"]


def altered(world: World, table: sa.Table, change: Any) -> None:
    with world.store.engine.begin() as connection:
        rows = connection.execute(sa.select(table)).mappings().all()
        for row in rows:
            values = change(dict(row))
            if values:
                connection.execute(table.update().where(table.c.id == row["id"]).values(**values))


def test_a_verdict_that_was_turned_round_is_named(world: World) -> None:
    run_id = climbed(world)

    def turn(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["decision"] != "HOLD":
            return None
        return {"decision": "ADVANCE", "body": row["body"] | {"outcome": "PASS"}}

    altered(world, schema.verdicts, turn)
    found = reproduce(run_id)
    assert not found["reproduced"]
    wrong = [item for item in found["verdicts"] if item["differences"]]
    assert len(wrong) == 2
    assert {part["path"] for part in wrong[0]["differences"]} >= {"kind", "outcome"}


def test_moments_that_were_changed_are_named(world: World) -> None:
    run_id = climbed(world)
    with world.store.engine.begin() as connection:
        # Whoever owns the database can take the guard off first; the record still tells.
        of_moments = "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'moments'"
        for (name,) in connection.execute(sa.text(of_moments)).all():
            connection.execute(sa.text(f"DROP TRIGGER {name}"))
        connection.execute(schema.moments.delete().where(schema.moments.c.seq == 1))
    found = reproduce(run_id)
    assert not found["reproduced"]
    assert "gap" in json.dumps(found["verdicts"])


def test_a_spec_that_was_changed_afterwards_is_named(world: World) -> None:
    run_id = climbed(world)
    with world.store.engine.begin() as connection:
        spec = world.run(run_id).spec | {"alpha": 0.2}
        connection.execute(schema.runs.update().where(schema.runs.c.run_id == run_id).values(spec=spec))
    found = reproduce(run_id)
    assert (found["reproduced"], found["spec_unchanged"]) == (False, False)


def judged_offline(world: World) -> str:
    """Check a run's data and evaluate it, as it is done before anybody is exposed."""
    run_id = world.started("2")
    log_requests(world)
    lifecycle.check_data(run_id)
    lifecycle.evaluate(run_id)
    return run_id


def copies(found: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {item["step"]: item["differences"] for item in found["verdicts"] if item["how"] == "copies"}


def test_what_was_judged_on_data_is_judged_again_on_copies_of_it_whatever_became_of_the_data(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = own_data(world, tmp_path, monkeypatch)
    run_id = judged_offline(world)
    for name in ("holdout", "reference"):
        flights(9, 50).to_parquet(data / f"{name}.parquet")
    shutil.rmtree(world.settings.events_dir)
    (world.settings.expectations / "rows.json").write_text("{}")
    found = reproduce(run_id)
    assert (found["reproduced"], found["altered_copies"]) == (True, []), found
    assert copies(found) == {"check_data": [], "evaluate": []}
    with (
        world.mlflow_down()
    ):  # without the versions only what the evaluation says of itself can be held against it
        found = reproduce(run_id)
    assert (found["reproduced"], list(copies(found))) == (True, ["check_data"])
    path = snapshots_of(world.session).path(
        point_of(world, run_id).parts["snapshot"]["datasets"]["holdout.parquet"]
    )
    altered_file(path)
    found = reproduce(run_id)
    assert not found["reproduced"]
    assert found["altered_copies"][0].startswith("snapshot, datasets holdout.parquet: recorded ")
    (difference,) = copies(found)["evaluate"]
    assert (difference["path"], str(path) in difference["again"]) == ("data", True)
    assert copies(found)["check_data"] == []


def test_a_number_of_an_evaluation_that_was_changed_is_named(world: World) -> None:
    run_id = judged_offline(world)

    def better(row: dict[str, Any]) -> dict[str, Any] | None:
        if row["step"] != "evaluate":
            return None
        row["body"]["evidence"]["forecast"]["all"]["upper"] -= 0.01
        return {"body": row["body"]}

    altered(world, schema.verdicts, better)
    (difference,) = copies(reproduce(run_id))["evaluate"]
    assert difference["path"] == "evidence.forecast.all.upper"


def test_an_unknown_run_is_an_error_of_its_own(world: World) -> None:
    with pytest.raises(NoSuchRun):
        reproduce("no-such-run")
