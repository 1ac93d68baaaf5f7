"""One id from the caller's header to the answer, the events, the log line and the spans at a real collector."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.collector import Collector, collecting
from tests.gateway.conftest import MODEL, Registered, logged, row, split
from tests.servers import RunningGateway, free_port, wait_until
from understudy.exposure import Exposure, publish
from understudy.telemetry import TraceContext, parse

CALLER = TraceContext.new()


def events_of(gateway: RunningGateway, request_id: str) -> list[dict[str, Any]]:
    return [event for event in logged(gateway) if event["request_id"] == request_id]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (CALLER.traceparent, True),
        (None, False),
        ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False),
        (CALLER.traceparent.upper(), False),
        (CALLER.traceparent + ",x", False),
    ],
    ids=["whole", "none", "zeros", "capitals", "more"],
)
def test_the_callers_trace_is_in_every_event_and_in_the_answer_or_nobodys(
    gateway: RunningGateway, given: str | None, kept: bool
) -> None:
    headers = {"traceparent": given} if given else {}
    answer = gateway.client.post("/invocations", json=split([row(1), row(2)]), headers=headers)
    events = events_of(gateway, answer.headers["x-request-id"])
    assert [event["trace_id"] for event in events] == [CALLER.trace_id if kept else None] * 2
    assert answer.headers.get("traceresponse") == (given if kept else None)


def test_what_the_mirror_made_of_a_request_bears_its_trace(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.better, mirror=True)
    headers = {"traceparent": CALLER.traceparent, "x-request-id": "mirrored-1"}
    wait_until(
        lambda: (
            gateway.client.post("/invocations", json=split([row(1)]), headers=headers)
            and logged(gateway, "mirrors")
        ),
        "a mirrored request",
    )
    assert {event["trace_id"] for event in logged(gateway, "mirrors")} == {CALLER.trace_id}


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as running:
        yield running


@pytest.fixture(scope="module")
def followed(
    gateway_with: Callable[..., Any], registered: Registered, collector: Collector, tmp_path_factory: Any
) -> Iterator[RunningGateway]:
    """A gateway that sends spans, with half of the units on the challenger."""
    home = tmp_path_factory.mktemp("followed")
    exposed = Exposure(
        model=MODEL,
        generation=3,
        champion=registered.good,
        challenger=registered.better,
        run_id="delay_test-v2-1",
        stage=1,
        percent=50.0,
        lease_expires_at=4_000_000_000,
        mirror=True,
    )
    publish(home / "flags.json", [exposed])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        with gateway_with(home=home) as running:
            wait_until(lambda: running.status()["challenger_error"] is None, "the challenger")
            yield running


def test_a_request_is_a_span_of_its_callers_trace_with_one_for_each_thing_that_was_done(
    followed: RunningGateway, collector: Collector, registered: Registered
) -> None:
    caller = TraceContext.new()
    answer = followed.client.post(
        "/invocations",
        json=split([row(number) for number in range(50)]),
        headers={"traceparent": caller.traceparent, "x-request-id": "spans-1"},
    )
    assert answer.status_code == 200
    server = collector.wait_for("POST /invocations", caller.trace_id)
    assert (server.parent_id, server.service, server.error) == (caller.span_id, "understudy-gateway", "")
    assert server.attributes["understudy.request_id"] == "spans-1"
    assert server.attributes["understudy.generation"] == 3
    assert set(server.attributes["understudy.arm"].split(",")) == {"challenger", "control"}
    place = parse(answer.headers["traceresponse"])
    assert place is not None
    assert (place.trace_id, place.span_id) == (caller.trace_id, server.span_id)
    for name, version in (("champion", registered.good), ("challenger", registered.better)):
        asked = collector.wait_for(name, caller.trace_id)
        assert asked.parent_id == server.span_id
        assert (asked.attributes["understudy.version"], asked.error) == (version, "")
        assert 0 < asked.attributes["understudy.rows"] < 50
        assert server.started_at <= asked.started_at <= asked.ended_at <= server.ended_at
    for name in ("log", "mirror"):
        assert collector.wait_for(name, caller.trace_id).parent_id == server.span_id
    assert {event["trace_id"] for event in events_of(followed, "spans-1")} == {caller.trace_id}


def test_a_request_without_a_trace_begins_one_which_its_events_and_its_answer_name(
    followed: RunningGateway, collector: Collector
) -> None:
    answer = followed.client.post("/invocations", json=split([row(1)]))
    place = parse(answer.headers["traceresponse"])
    assert place is not None
    (event,) = events_of(followed, answer.headers["x-request-id"])
    assert event["trace_id"] == place.trace_id
    assert collector.wait_for("POST /invocations", place.trace_id).parent_id == ""


def test_what_a_client_did_wrong_is_told_and_is_no_error_of_the_server(
    followed: RunningGateway, collector: Collector
) -> None:
    caller = TraceContext.new()
    answer = followed.client.post(
        "/invocations",
        content=b'{"dataframe_split": {"columns": ["pilot"], "data": [["Captain-7"]',
        headers={"traceparent": caller.traceparent, "content-type": "application/json"},
    )
    assert answer.status_code == 400
    server = collector.wait_for("POST /invocations", caller.trace_id)
    assert (server.attributes["http.response.status_code"], server.error) == (400, "")
    assert server.attributes["error.type"] == "BAD_REQUEST"
    assert "Captain-7" not in str(collector.spans)


def test_a_collector_that_is_down_is_nobodys_problem(
    gateway_with: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with gateway_with() as running:
        for number in range(60):
            assert running.client.post("/invocations", json=split([row(number)])).status_code == 200
        assert len(logged(running)) == 60
    # It ended when it was asked to, with sending still under way; one that does not is killed.
    assert running.process.returncode == -signal.SIGTERM


def test_the_log_line_about_a_request_bears_its_ids(
    gateway_with: Callable[..., Any], registered: Registered, tmp_path: Any
) -> None:
    publish(
        tmp_path / "flags.json", [Exposure(model=MODEL, generation=1, champion=registered.awkward["raising"])]
    )
    with gateway_with(home=tmp_path) as running:
        headers = {"traceparent": CALLER.traceparent, "x-request-id": "failing-1"}
        assert running.client.post("/invocations", json=split([row(1)]), headers=headers).status_code >= 400
        lines = [json.loads(text) for text in running.log.read_text().splitlines()]
    (told,) = [line for line in lines if line.get("request_id") == "failing-1"]
    assert (told["level"], told["trace_id"], told["model"]) == ("ERROR", CALLER.trace_id, MODEL)
