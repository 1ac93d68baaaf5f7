"""One id, end to end: a request to a real gateway, its events, its run, the ledger, MLflow, Airflow's link and the spans."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.collector import Collector, collecting
from tests.lifecycle.conftest import World
from tests.servers import RunningGateway, start_gateway
from understudy import lifecycle, rollback
from understudy.cli import app
from understudy.telemetry import TraceContext, parse


@pytest.fixture
def followed(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[World, RunningGateway, Collector]]:
    """An installation on the real clock with a gateway and a collector that both of them report to."""
    world = make_world()
    world.store.clock = time.time
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        settings = world.settings
        with start_gateway(settings.home, world.model, world.models.uri, settings.experiments) as gateway:
            world.session.settings = replace(settings, gateway_urls=(gateway.url,))
            yield world, gateway, collector


def traced(wanted: str) -> Any:
    told = CliRunner().invoke(app, ["trace", wanted, "--json"])
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def test_from_one_request_id_to_the_run_that_served_it_and_from_one_trace_to_all_its_steps(
    followed: tuple[World, RunningGateway, Collector],
) -> None:
    world, gateway, collector = followed
    starter, client = TraceContext.new(), TraceContext.new()
    airflow = {"dag_id": "experiment__delay_test", "run_id": "manual__1", "url": "http://airflow/runs/1"}
    begun = lifecycle.begin("delay_test", "2", "key", "Ada", "a test", airflow, starter.traceparent)
    run_id = begun["run_id"]
    world.record(run_id, "check_data", "evaluate", "shadow")
    raised = lifecycle.raise_exposure(run_id, 1)
    answer = gateway.client.post(
        "/invocations",
        json={
            "dataframe_records": [
                {
                    "tailnum": f"N{number}",
                    "event_id": f"flight-{number}",
                    "origin": "JFK",
                    "hour": 8.0,
                    "wind": 3.0,
                }
                for number in range(40)
            ]
        },
        headers={"x-request-id": "the-request", "traceparent": client.traceparent},
    )
    assert (answer.status_code, answer.headers["x-request-id"]) == (200, "the-request")
    told = [{"event_id": "flight-7", "outcome": 1, "occurred_at": time.time()}]
    assert gateway.client.post("/outcomes", json={"outcomes": told}).status_code == 200

    found = traced("the-request")
    (request,), (run,) = found["requests"], found["runs"]
    assert (request["trace_id"], request["run"], request["generation"]) == (
        client.trace_id, run_id, raised["generation"],
    )  # fmt: skip
    assert len(request["events"]) == 40
    assert [outcome["event_id"] for outcome in found["outcomes"]] == ["flight-7"]
    assert (run["run"], run["trace_id"], run["airflow"]) == (run_id, starter.trace_id, airflow)
    tags = world.client.get_run(run["mlflow"]["run_id"]).data.tags
    assert tags["understudy.trace_id"] == starter.trace_id
    assert [entry["action"] for entry in found["ledger"] if entry["served"]] == ["exposure.raised"]
    assert traced("flight-7")["requests"][0]["request_id"] == "the-request"
    assert traced(client.trace_id)["requests"] == found["requests"]

    place = parse(answer.headers["traceresponse"])
    assert place is not None
    served = collector.wait_for("POST /invocations", client.trace_id)
    assert (served.parent_id, served.span_id, served.service) == (
        client.span_id, place.span_id, "understudy-gateway",
    )  # fmt: skip
    assert collector.wait_for("log", client.trace_id).parent_id == served.span_id

    rollback.execute(world.model, "a drill", "Ada", "back")
    steps = ("begin", "raise_exposure", "rollback")
    spans = {name: collector.wait_for(name, starter.trace_id) for name in steps}
    assert spans["begin"].parent_id == starter.span_id
    assert {spans[name].parent_id for name in steps[1:]} == {spans["begin"].span_id}
    assert {span.service for span in spans.values()} == {"understudy"}
    ended = traced(starter.trace_id)
    assert [one["state"] for one in ended["runs"]] == ["rolled_back"]
    assert {entry["trace_id"] for entry in ended["ledger"]} == {starter.trace_id}
    assert "rollback.finished" in [entry["action"] for entry in ended["ledger"]]
