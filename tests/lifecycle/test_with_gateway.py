"""One run from start to promotion and back again, with a real gateway that answers real requests."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pandas as pd
import pytest

from tests.lifecycle.conftest import World, flights
from tests.logged import events_of
from tests.servers import RunningGateway, start_gateway, wait_until
from understudy import lifecycle, rollback
from understudy.errors import StepNotPassed
from understudy.store.runs import RunState

STAGE = {"percent": 50, "soak": "1s", "timeout": "300s", "min_units": 30, "margin_scale": 2}


@pytest.fixture
def served(make_world: Callable[..., World]) -> Iterator[tuple[World, RunningGateway]]:
    """A world on the real clock whose gateway is up."""
    world = make_world()
    world.store.clock = time.time
    shadow = {"requests": 400, "min_requests": 100, "min_agreement": 0.4}
    world.declare(stages=[STAGE], lease="600s", stale_after="500s", shadow=shadow)
    with start_gateway(
        world.settings.home, world.model, world.models.uri, world.settings.experiments
    ) as gateway:
        world.session.settings = replace(world.settings, gateway_urls=(gateway.url,))
        yield world, gateway


def ask(gateway: RunningGateway, frame: pd.DataFrame, name: str) -> None:
    """Send rows as requests, and afterwards their outcomes."""
    rows = frame.drop(columns="late").assign(
        # Many aircraft: how rare errors may be is told by units, not by requests.
        tailnum=[f"N{number % 800:05d}" for number in range(len(frame))],
        event_id=[f"{name}-{number}" for number in range(len(frame))],
        event_time=[1_400_000_000.0 + 10 * number for number in range(len(frame))],
    )
    for start in range(0, len(rows), 500):
        part = rows.iloc[start : start + 500]
        body = f'{{"dataframe_split": {part.to_json(orient="split", index=False)}}}'
        answer = gateway.client.post(
            "/invocations", content=body, headers={"Content-Type": "application/json"}
        )
        assert answer.status_code == 200, answer.text
        assert len(answer.json()["predictions"]) == len(part)
    outcomes = [
        {"event_id": event_id, "outcome": float(late), "occurred_at": at + 5}
        for event_id, late, at in zip(rows["event_id"], frame["late"], rows["event_time"], strict=True)
    ]
    assert gateway.client.post("/outcomes", json={"outcomes": outcomes}).status_code == 200


def test_a_run_climbs_is_promoted_and_is_taken_back_with_every_gateway_following(
    served: tuple[World, RunningGateway],
) -> None:
    world, gateway = served
    ask(gateway, flights(11, 500), "before")
    run_id = world.begin("2")["run_id"]
    for step in (lifecycle.check_data, lifecycle.evaluate, lifecycle.shadow):
        assert step(run_id)["outcome"] == "PASS"
        assert gateway.status()["challenger"] is None
    lifecycle.raise_exposure(run_id, 1)
    shown = gateway.status()
    assert (shown["run"], shown["stage"], shown["percent"], shown["challenger"]) == (run_id, 1, 50.0, "2")
    ask(gateway, flights(12, 4000), "under-guard")
    wait_until(lambda: time.time() - (world.run(run_id).stage_entered_at or 0) > 1, "the end of the soak")
    decided = lifecycle.look(run_id, 1)
    assert decided["decision"] == "ADVANCE", decided["sentence"]
    assert lifecycle.conclude_stage(run_id, 1)["outcome"] == "PASS"
    assert lifecycle.compare(run_id)["outcome"] == "PASS"
    assert lifecycle.promote(run_id)["outcome"] == "PASS"
    assert (gateway.status()["champion"], world.alias()) == ("2", "2")
    assert lifecycle.report(run_id)["state"] == RunState.PROMOTED.value
    result = rollback.execute(world.model, "a drill", "Ada", "back")
    assert result["target"] == "1"
    assert (gateway.status()["champion"], world.alias()) == ("1", "1")
    assert set(result["seconds"]) == {"zero_exposure", *result["recipe"]["steps"]}
    steps = world.client.search_runs(
        [world.client.get_experiment_by_name("delay_test").experiment_id],
        f"tags.`mlflow.parentRunId` = '{world.run(run_id).mlflow_run_id}'",
    )
    assert {step.info.run_name for step in steps} == {
        "preregister", "check_data", "evaluate", "shadow", "stage_1", "compare", "promote"
    }  # fmt: skip


def mirrored_world(served: tuple[World, RunningGateway]) -> tuple[World, RunningGateway, str]:
    world, gateway = served
    shadow = {"requests": 400, "min_requests": 100, "min_agreement": 0.4, "mirror": "2s"}
    world.declare(stages=[STAGE], lease="600s", stale_after="500s", shadow=shadow)
    ask(gateway, flights(11, 500), "before")
    return world, gateway, str(world.begin("2")["run_id"])


def test_live_requests_are_mirrored_and_nobody_sees_the_challengers_answers(
    served: tuple[World, RunningGateway],
) -> None:
    world, gateway, run_id = mirrored_world(served)
    with ThreadPoolExecutor(1) as pool:
        shadow = pool.submit(lifecycle.shadow, run_id)
        rounds = 0
        while not shadow.done():
            rounds += 1
            ask(gateway, flights(20 + rounds, 50), f"live-{rounds}")
    verdict = shadow.result()
    assert verdict["outcome"] == "PASS"
    assert "mirrored live requests, " in verdict["sentence"]
    lines = [json.loads(line) for path in gateway.events.glob("requests/*") for line in path.open()]
    arms = {row["arm"] for line in lines for row in events_of(line)}
    assert arms == {"unexposed"}
    wait_until(lambda: gateway.status()["challenger"] is None, "the gateway to follow the end of the mirror")
    shown = gateway.status()
    assert (shown["challenger"], shown["mirror"]["on"], shown["percent"]) == (None, False, 0.0)
    actions = world.actions()
    assert actions.index("mirror.started") < actions.index("exposure.dropped")


def test_a_mirror_without_traffic_does_not_pass_and_is_switched_off(
    served: tuple[World, RunningGateway],
) -> None:
    world, gateway, run_id = mirrored_world(served)
    with pytest.raises(StepNotPassed, match="No live request was mirrored"):
        lifecycle.shadow(run_id)
    wait_until(lambda: gateway.status()["challenger"] is None, "the gateway to follow the end of the mirror")
    assert lifecycle.abort(run_id, "Shadow did not pass.")["rollback_needed"] is False
    assert world.run(run_id).state is RunState.FAILED
