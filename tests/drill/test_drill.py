"""A drill plays the real way back on an installation of its own, names what nothing caught, and leaves production alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.commands import answered
from tests.lifecycle.conftest import World
from understudy.drill.run import drill, drilled_models
from understudy.errors import BadParameter, NoSuchVersion
from understudy.store import drills, ledger, schema

OBJECTIVES = {"zero_within": "60s", "duration": "300s"}
"""A drill measures; how fast a busy machine is decides nothing here."""


def production(world: World) -> dict[str, Any]:
    """Return everything that a drill must not touch."""
    registry, home = world.session.registry, world.settings.home
    tables = [
        table
        for table in schema.metadata.sorted_tables
        if table.name not in ("drills", "ledger", "ledger_head")
    ]
    with world.store.read() as connection:
        rows = {table.name: [tuple(row) for row in connection.execute(sa.select(table))] for table in tables}
    return {
        "rows": rows,
        "files": {path.name for path in home.iterdir()},
        "flags": world.settings.flags_path.read_bytes(),
        "versions": registry.versions(world.model),
        "aliases": dict(world.client.get_registered_model(world.model).aliases),
        "experiments": sorted(item.name for item in world.client.search_experiments()),
    }


def test_a_drill_of_real_scenarios(world: World) -> None:
    world.declare(rollback=OBJECTIVES)
    run_id = world.started(world.versions["good"])
    before = production(world)
    told: list[str] = []
    names = ["registry_down", "flipped_sign", "drift", "tag_mismatch"]
    found = drill(world.model, names, actor="Ada", progress=lambda part, what: told.append(what))
    assert production(world) == before
    scenes = {one["scenario"]: one for one in found["scenarios"]}
    assert list(scenes) == ["drift", "tag_mismatch", "flipped_sign", "registry_down"]
    assert (told[0], told[-1]) == ("copying the champion", "registry_down")

    # The suite of this experiment counts rows and nothing else, so nobody notices that they have drifted.
    assert (found["passed"], scenes["drift"]["passed"]) == (False, False)
    assert "nothing caught it" in scenes["drift"]["sentence"]
    assert found["sentence"] == "1 of 4 scenarios failed: drift."

    assert scenes["tag_mismatch"]["passed"], scenes["tag_mismatch"]
    assert (scenes["tag_mismatch"]["caught_by"], scenes["tag_mismatch"]["harmed"]) == (
        "FEATURE_SET_MISMATCH",
        0,
    )

    for name in ("flipped_sign", "registry_down"):
        one = scenes[name]
        assert one["passed"], one
        assert one["caught_by"].startswith("brier")
        assert 0 < one["units"] <= one["harmed"] < one["asked"]
        assert one["lost"] == 0

    with world.store.read() as connection:
        kept = drills.newest(connection, world.model)
        (entry,) = ledger.entries(connection, model=world.model, actions=("drill.finished",))
        assert ledger.verify(connection) is None
    assert {name: one.passed for name, one in kept.items()} == {
        name: one["passed"] for name, one in scenes.items()
    }
    assert (entry.actor, entry.reason) == ("Ada", found["sentence"])
    assert world.run(run_id).state.value == "preparing"
    json.dumps(found)


def test_an_unknown_scenario_is_refused_with_the_known_ones(world: World) -> None:
    with pytest.raises(BadParameter, match=r"no scenario 'earthquake'.*flipped_sign"):
        drill(world.model, ["earthquake"], actor="Ada")


def test_a_model_without_an_experiment_or_a_champion_is_refused(world: World) -> None:
    with pytest.raises(BadParameter, match=f"known models: {world.model}"):
        drill("nobody", actor="Ada")
    world.client.delete_registered_model_alias(world.model, "champion")
    with pytest.raises(NoSuchVersion, match="nothing to make a bad twin from"):
        drill(world.model, actor="Ada")
    assert drilled_models(world.session) == []


def test_models_with_an_experiment_and_a_champion_are_drilled(world: World) -> None:
    assert drilled_models(world.session) == [world.model]


def test_the_command_says_what_is_wrong_and_leaves_nothing(home: Path) -> None:
    found = answered("drill", "nobody", "--scenario", "slow", code=1)
    assert found["error"]["code"] == "BAD_PARAMETER"
    with_error = answered("drill", "delay", code=1)
    assert with_error["error"]["code"] == "BAD_PARAMETER"
