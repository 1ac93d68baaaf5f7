"""The catalogue: each kind of incident has its recipe, the safest one that applies is picked, and it is shown first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.lifecycle.conftest import World
from tests.rollback.ways import back, entries, promote, serves
from understudy.rollback import facts, recipes
from understudy.rollback.recipes import CATALOGUE
from understudy.rollback.steps import STEPS
from understudy.store import records
from understudy.verdicts import Outcome, Verdict

ROOT = Path(__file__).resolve().parents[2]
WHILE_A_RUN_IS_ON = ("partial_data", "data_drift")


@pytest.mark.parametrize("recipe", CATALOGUE, ids=lambda recipe: recipe.kind)
def test_every_recipe_begins_with_exposure_restores_everything_and_has_a_page(recipe: recipes.Recipe) -> None:
    assert recipe.steps[0] == "exposure"
    assert sorted(recipe.steps) == sorted(STEPS)
    assert recipe.steps.index("serving") < recipe.steps.index("gateways") < recipe.steps.index("consumers")
    page, _, anchor = recipe.runbook.partition("#")
    titles = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(), re.MULTILINE)
    assert anchor in {title.lower().replace(" ", "-") for title in titles}
    assert recipe.users_notice
    assert recipe.seconds > 0


def test_every_kind_of_incident_has_a_recipe() -> None:
    assert {recipe.kind for recipe in CATALOGUE} == set(facts.INCIDENTS)


@pytest.mark.parametrize("kind", [recipe.kind for recipe in CATALOGUE])
@pytest.mark.parametrize("running", [True, False], ids=["run on", "no run"])
def test_a_recipe_is_picked_by_its_kind_and_its_steps_are_taken_in_order(
    world: World, kind: str, running: bool
) -> None:
    world.exposed_run() if running else promote(world)
    result = back(world, reason=f"{kind}: seen at 02:40")
    general = kind in WHILE_A_RUN_IS_ON and not running
    picked = recipes.named("model_regression" if general else kind)
    assert result["recipe"] == picked.to_dict()
    assert [entry.body["step"] for entry in entries(world, "rollback.step")] == list(picked.steps)
    assert serves(world, "1")


LOOKS = {
    "stale events": ("stale_events", None, "partial_data"),
    "a broken split": ("sample_ratio_mismatch", None, "partial_data"),
    "slow answers": ("guardrail_breached", "slow", "latency_spike"),
    "worse answers": ("guardrail_breached", "brier", "model_regression"),
}


@pytest.mark.parametrize(("why", "metric", "kind"), LOOKS.values(), ids=LOOKS.keys())
def test_the_last_look_tells_the_kind(world: World, why: str, metric: str | None, kind: str) -> None:
    run_id = world.exposed_run()
    verdict = Verdict(Outcome.FAIL, why, "Seen.", metric=metric)
    with world.store.write() as connection:
        records.record_verdict(
            connection, run_id, "stage_1", verdict, at=world.clock(), decision="ROLL_BACK", evidence={}
        )
    plan = back(world, dry_run=True)
    assert (plan["incident"], plan["recipe"]["kind"]) == (kind, kind)
    assert why in plan["told_by"]


def test_the_plan_shows_recipe_steps_and_consumers_and_changes_nothing(world: World) -> None:
    world.declare(consumers=[{"name": "billing", "contact": "#billing"}])
    world.client.set_registered_model_tag(world.model, "understudy.consumes", "something else")
    world.client.create_registered_model(f"{world.model}-arrivals")
    world.client.set_registered_model_tag(f"{world.model}-arrivals", "understudy.consumes", world.model)
    run_id = world.exposed_run()
    before = (world.actions(), world.exposure(), world.published(), world.alias())
    plan = back(world, dry_run=True)
    assert (plan["target"], plan["run_id"], plan["dry_run"]) == ("1", run_id, True)
    assert plan["consumers"] == [
        {"name": "billing", "contact": "#billing", "found": "spec"},
        {"name": f"{world.model}-arrivals", "contact": "", "found": "mlflow"},
    ]
    assert (world.actions(), world.exposure(), world.published(), world.alias()) == before
