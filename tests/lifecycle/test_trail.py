"""One id leads from a request to the run, its ledger entries, Airflow and MLflow; spans follow the same way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.collector import Collector, collecting
from tests.lifecycle.conftest import World
from tests.lifecycle.served import BETTER, traffic
from understudy import lifecycle, rollback, telemetry
from understudy.errors import NoSuchId, StepNotPassed
from understudy.events.finder import find_events
from understudy.lifecycle.trail import follow, sentences
from understudy.store import ledger
from understudy.telemetry import TraceContext, span


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


def trace_ids(world: World) -> set[str | None]:
    with world.store.read() as connection:
        return {entry.body.get("trace_id") for entry in ledger.entries(connection, model=world.model)}


def begun(world: World, **more: Any) -> Any:
    return world.run(
        lifecycle.begin(
            "delay_test", "2", "dag/run", "Ada", "a test", {"dag_id": "d", "run_id": "r"}, **more
        )["run_id"]
    )


def test_a_run_continues_the_trace_it_is_given_into_the_ledger_and_mlflow(world: World) -> None:
    caller = TraceContext.new()
    run = begun(world, traceparent=caller.traceparent)
    assert run.trace_id == caller.trace_id
    assert run.traceparent != caller.traceparent
    assert trace_ids(world) == {caller.trace_id}
    tags = world.client.get_run(run.mlflow_run_id).data.tags
    assert tags["understudy.trace_id"] == caller.trace_id
    (step,) = world.client.search_runs(
        [world.client.get_experiment_by_name("delay_test").experiment_id],
        f"tags.`mlflow.parentRunId` = '{run.mlflow_run_id}'",
    )
    assert step.data.tags["understudy.trace_id"] == caller.trace_id
    with pytest.raises(StepNotPassed) as stopped:
        lifecycle.conclude_stage(run.run_id, 1)
    assert stopped.value.verdict["trace_id"] == caller.trace_id


@pytest.mark.parametrize("given", [None, "", "00-garbage", f"ff-{7:032x}-{7:016x}-01"])
def test_a_run_without_a_valid_trace_begins_one(world: World, given: str | None) -> None:
    run = begun(world, traceparent=given)
    assert run.trace_id
    assert trace_ids(world) == {run.trace_id}
    # The same start told again is still the same trace.
    assert begun(world, traceparent=TraceContext.new().traceparent) == run


def test_a_rollback_belongs_to_the_trace_of_the_run_it_ends_else_to_its_callers(world: World) -> None:
    run_id = world.exposed_run()
    caller = TraceContext.new()
    told = {"model": world.model, "reason": "harm", "actor": "Ada"}
    with telemetry.within(caller.traceparent):
        ended = rollback.execute(**told, key="one")
        alone = rollback.execute(**told, key="two", target_version="2")
        again = rollback.execute(**told, key="two")
    assert ended["trace_id"] == world.run(run_id).trace_id
    with world.store.read() as connection:
        entries = ledger.entries(connection, model=world.model)
    of_run = [entry.body.get("trace_id") for entry in entries if entry.run_id == run_id]
    assert set(of_run) - {None} == {ended["trace_id"]}
    assert (alone["trace_id"], again) == (caller.trace_id, alone)
    assert trace_ids(world) - {None} == {ended["trace_id"], caller.trace_id}
    followed = [entry["action"] for entry in follow(world.session, caller.trace_id)["ledger"]]
    assert [action for action in followed if action != "rollback.step"] == [
        "rollback.started", "champion.restored", "consumers.listed", "rollback.finished",
    ]  # fmt: skip


def test_from_the_id_of_one_event_everything_is_found(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, BETTER, units=40)
    exposure = world.exposure()
    assert exposure is not None
    event_id = f"{world.clock()}-newest"
    found = follow(world.session, event_id)
    (request,) = found["requests"]
    assert (request["run"], request["generation"]) == (run_id, exposure.generation)
    assert [event["event_id"] for event in request["events"]] == [event_id]
    (run,) = found["runs"]
    assert (run["run"], run["trace_id"]) == (run_id, world.run(run_id).trace_id)
    served = [entry for entry in found["ledger"] if entry["served"]]
    assert [(entry["action"], entry["run"]) for entry in served] == [("exposure.raised", run_id)]
    assert {entry["trace_id"] for entry in found["ledger"]} == {run["trace_id"]}
    told = "\n".join(sentences(found))
    for part in (event_id, run_id, run["trace_id"], "exposure.raised", "<- served under this"):
        assert part in told


def test_an_outcome_is_shown_with_the_request_it_belongs_to(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, BETTER, units=40)
    (event_id,) = {
        event["event_id"]
        for event in find_events(
            world.settings.events_dir, "outcomes", [f"{world.clock()}-{n}" for n in range(40)]
        )[:1]
    }
    found = follow(world.session, event_id)
    answered = [event["event_id"] for request in found["requests"] for event in request["events"]]
    assert [outcome["event_id"] for outcome in found["outcomes"]] == answered
    assert "outcome of" in "\n".join(sentences(found))


def test_a_run_is_found_by_its_id_its_key_and_its_trace_with_the_way_to_airflow_and_mlflow(
    world: World,
) -> None:
    run = begun(world)
    for wanted in (run.run_id, run.key, run.trace_id):
        found = follow(world.session, wanted)
        (shown,) = found["runs"]
        assert shown["run"] == run.run_id
        assert shown["mlflow"]["run_id"] == run.mlflow_run_id
        assert shown["mlflow"]["url"].endswith(f"/#/runs/{run.mlflow_run_id}")
        assert shown["airflow"] == {"dag_id": "d", "run_id": "r"}
        assert "run.started" in [entry["action"] for entry in found["ledger"]]
    assert "Airflow d / r" in "\n".join(sentences(found))


@pytest.mark.parametrize("wanted", ["nothing", "", "%", "0" * 32, "' OR 1 = 1 --", "_" * 32])
def test_an_id_that_nothing_bears_is_an_error_that_says_what_can_be_asked(world: World, wanted: str) -> None:
    world.exposed_run()
    with pytest.raises(NoSuchId, match="X-Request-Id"):
        follow(world.session, wanted)


def test_the_steps_of_a_run_are_spans_of_one_trace(world: World, collector: Collector) -> None:
    caller, operator = TraceContext.new(), TraceContext.new()
    run = begun(world, traceparent=caller.traceparent)
    begin = collector.wait_for("begin", caller.trace_id)
    assert (begin.parent_id, run.traceparent) == (
        caller.span_id,
        f"00-{begin.trace_id}-{begin.span_id}-01",
    )
    world.record(run.run_id, "preregister", "check_data", "evaluate", "shadow")
    lifecycle.raise_exposure(run.run_id, 1)
    with pytest.raises(StepNotPassed):
        lifecycle.conclude_stage(run.run_id, 1)
    raised, ended = (
        collector.wait_for(name, caller.trace_id) for name in ("raise_exposure", "conclude_stage")
    )
    assert {raised.parent_id, ended.parent_id} == {begin.span_id}
    assert (raised.error, ended.error) == ("", "STEP_NOT_PASSED")
    assert raised.attributes["understudy.run"] == run.run_id
    with telemetry.within(operator.traceparent):
        rollback.execute(world.model, "harm", "Ada", "back")
    back = collector.wait_for("rollback", caller.trace_id)
    assert (back.parent_id, back.links) == (begin.span_id, (operator.trace_id,))
    assert lifecycle.abort("nobody", "why")["rollback_needed"] is False
    assert collector.wait_for("abort").trace_id != caller.trace_id


def test_what_happens_without_a_run_belongs_to_the_trace_under_way(world: World) -> None:
    with span("outside") as own, world.store.write() as connection:
        entry = ledger.append(connection, at=1.0, actor="a", action="b", reason="c")
    assert entry.body == {"trace_id": own.context.trace_id}
    with world.store.read() as connection:
        assert ledger.verify(connection) is None
