from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from understudy.orchestration.actor import actor_of, reason_of, traceparent_of


def run(user: str | None = None, run_type: str = "manual", run_id: str = "manual__1") -> Any:
    return SimpleNamespace(triggering_user_name=user, run_type=run_type, run_id=run_id)


@pytest.mark.parametrize(
    ("dag_run", "actor"),
    [
        (run(user="ana"), "ana"),
        (run(user="ana", run_type="operator_triggered"), "ana"),
        (run(run_type="scheduled"), "schedule"),
        (run(run_type="operator_triggered", run_id="registry__flights:2"), "registry"),
        (run(run_type="operator_triggered", run_id="rollback__one-v2-1"), "airflow"),
        (run(), "airflow"),
    ],
)
def test_the_actor_is_the_person_if_airflow_knows_one_and_the_door_otherwise(
    dag_run: Any, actor: str
) -> None:
    assert actor_of(dag_run) == actor


@pytest.mark.parametrize(
    ("given", "dag_run", "reason"),
    [
        ("  New weather feed ", run(user="ana"), "New weather feed"),
        (None, run(user="ana"), "Started by ana; no reason was given."),
        ("   ", run(run_type="scheduled"), "Scheduled start."),
    ],
)
def test_a_start_always_has_a_reason(given: str | None, dag_run: Any, reason: str) -> None:
    assert reason_of({"params": {"reason": given}, "dag_run": dag_run}) == reason


def test_a_run_continues_the_trace_in_its_configuration_and_otherwise_airflows_if_airflow_sends_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    given = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    provider = TracerProvider()
    with provider.get_tracer("airflow").start_as_current_span("worker.preregister") as worker:
        place = worker.get_span_context()
        # Without a provider Airflow hands on an id too, of a trace that nobody collects.
        assert traceparent_of(SimpleNamespace(conf=None)) is None
        monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
        airflows = f"00-{place.trace_id:032x}-{place.span_id:016x}-01"
        assert traceparent_of(SimpleNamespace(conf={})) == airflows
        assert traceparent_of(SimpleNamespace(conf={"traceparent": given})) == given
    assert traceparent_of(SimpleNamespace(conf={"traceparent": 7})) is None
