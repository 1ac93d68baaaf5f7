"""Spans reach a real collector, and cost nobody anything when there is none or it is down."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Sent

from tests.collector import Collector, collecting
from tests.servers import free_port
from understudy import telemetry
from understudy.errors import DataMissing
from understudy.telemetry import TraceContext, current, span, tracer


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


def run(code: str, **environment: str) -> str:
    """Run code in a fresh process and return the last line that it printed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")} | environment
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_without_an_endpoint_there_is_no_tracer_and_nothing_is_loaded() -> None:
    code = """
import json, sys
from understudy import telemetry
assert telemetry.tracer() is None
with telemetry.span("work") as own:
    assert telemetry.current() is own.context
print(json.dumps([name for name in sys.modules if name.startswith(("opentelemetry", "requests", "google"))]))
"""
    assert json.loads(run(code)) == []


@pytest.mark.parametrize("switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}])
def test_the_standard_switches_turn_spans_off(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, switch: dict[str, str]
) -> None:
    for name, value in switch.items():
        monkeypatch.setenv(name, value)
    assert tracer() is None


def test_blocks_nest_whether_or_not_spans_are_sent() -> None:
    assert current() is None
    with span("outer") as outer:
        with span("inner") as inner:
            assert (inner.context.trace_id, current()) == (outer.context.trace_id, inner.context)
        assert current() is outer.context
        with span("elsewhere", parent=TraceContext.new()) as elsewhere:
            assert elsewhere.context.trace_id != outer.context.trace_id
    assert current() is None


def test_spans_arrive_with_parent_attributes_link_and_kind_of_error(collector: Collector) -> None:
    caller, cause = TraceContext.new(), TraceContext.new()
    places = []

    def fail() -> None:
        facts = {"understudy.run": "r-1"}
        with span("outer", parent=caller, attributes=facts, caused_by=cause, server=True) as own:
            own.set({"understudy.rows": 7, "understudy.unknown": None})
            with span("inner"):
                places.append(own.context)
            raise DataMissing("the pilot's name is Captain-7")

    with pytest.raises(DataMissing):
        fail()
    (outer,) = places
    own = tracer()
    assert own is not None
    own.flush(30)
    (received,), (inside,) = collector.named("outer"), collector.named("inner")
    assert (received.trace_id, received.parent_id) == (caller.trace_id, caller.span_id)
    assert (outer.trace_id, outer.span_id) == (received.trace_id, received.span_id)
    assert received.attributes == {
        "understudy.run": "r-1", "understudy.rows": 7, "error.type": "DATA_MISSING",
    }  # fmt: skip
    assert (received.kind, inside.kind) == (Sent.SPAN_KIND_SERVER, Sent.SPAN_KIND_INTERNAL)
    assert received.links == (cause.trace_id,)
    assert received.error == "DATA_MISSING"
    assert "Captain" not in str(received)
    assert (inside.trace_id, inside.parent_id, inside.error) == (outer.trace_id, outer.span_id, "")
    assert received.service == "understudy"
    assert received.started_at <= inside.started_at <= inside.ended_at <= received.ended_at


def test_a_caller_that_does_not_record_is_not_recorded_here_either(collector: Collector) -> None:
    quiet = TraceContext(TraceContext.new().trace_id, TraceContext.new().span_id, sampled=False)
    with span("quiet", parent=quiet) as own:
        assert (own.context.trace_id, own.context.sampled) == (quiet.trace_id, False)
    with span("loud", flush=True):
        pass
    collector.wait_for("loud")
    assert collector.named("quiet") == []


def test_a_block_that_asks_for_it_is_sent_before_a_process_ends_without_a_word(collector: Collector) -> None:
    code = """
import os
from understudy.telemetry import span
with span("last words", flush=True) as own:
    pass
print(own.context.trace_id, flush=True)
os._exit(0)
"""
    trace_id = run(code, OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_SERVICE_NAME="named-elsewhere")
    assert collector.wait_for("last words", trace_id).service == "named-elsewhere"


def test_a_collector_that_is_down_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="opentelemetry")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{free_port()}/v1/traces")
    for _ in range(3000):  # more than the queue holds
        with span("work"):
            pass
    with span("end", flush=True) as last:
        pass
    assert last.context.sampled
    own = tracer()
    assert own is not None
    own.close(0.1)


def test_nobody_waits_for_a_collector_that_takes_spans_and_never_answers(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="opentelemetry")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with span("work", flush=True):
            pass
        # The block is over and sending is not.
        assert [thread for thread in threading.enumerate() if thread.name == "understudy-spans"]
        own = tracer()
        assert own is not None
        own.close(0.1)


def test_an_exporter_that_cannot_be_set_up_is_told_once_and_stops_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1/broken-queue")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "-1")
    for _ in range(2):
        with span("work"):
            assert telemetry.current() is not None
    assert [
        record.getMessage() for record in caplog.records if "cannot be set up" in record.getMessage()
    ] == [
        "spans are not sent, the exporter cannot be set up: ValueError: max_export_batch_size must be a positive integer."
    ]
