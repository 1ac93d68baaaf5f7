from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest
from airflow.sdk.exceptions import AirflowSkipException, DagRunTriggerException, TaskDeferred

from understudy.errors import BadParameter, StepNotPassed
from understudy.orchestration.operators import (
    GuardOperator,
    LifecycleOperator,
    PreregisterOperator,
    RollBackOperator,
    StartRunOperator,
)

PASSED = {"outcome": "PASS", "sentence": "Good.", "mlflow_url": "http://mlflow/run", "run_id": "demo-v2-1"}
TIMED = PASSED | {"work_seconds": ANY}
FAILED = {"outcome": "FAIL", "sentence": "Worse.", "mlflow_url": "http://mlflow/run", "reason": "harm"}
KEY = "experiment__demo/manual__1"


class Instance:
    """The part of a task instance that operators use."""

    dag_id = "experiment__demo"
    run_id = "manual__1"

    def __init__(self, **states: str) -> None:
        self.states = states
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def get_task_states(self, dag_id: str, run_ids: list[str]) -> dict[str, dict[str, str]]:
        return {run_ids[0]: {name.replace("__", "."): state for name, state in self.states.items()}}


def context(conf: dict[str, Any] | None = None, user: str | None = "ana", **states: str) -> dict[str, Any]:
    form = {"version": None, "reason": None}
    dag_run = SimpleNamespace(
        dag_id="experiment__demo",
        run_id="manual__1",
        run_type="manual",
        conf=conf,
        triggering_user_name=user,
    )
    return {
        "dag": SimpleNamespace(params=form),
        "dag_run": dag_run,
        "params": form | (conf or {}),
        "ti": Instance(**states),
    }


def preregister() -> PreregisterOperator:
    return PreregisterOperator(task_id="preregister", experiment="demo")


def guard() -> GuardOperator:
    return GuardOperator(task_id="guard", stage=2, look_every=1.5, give_up_after=90, run_id="demo-v2-1")


def roll_back() -> RollBackOperator:
    return RollBackOperator(task_id="roll_back", unless_succeeded="promote")


def test_preregister_hands_on_who_asked_for_what_and_why(
    lifecycle: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_AIRFLOW_URL", "http://airflow")
    lifecycle.answers["begin"] = PASSED
    assert preregister().execute(context({"version": "2", "reason": "New weather feed"})) == TIMED
    ((name, asked),) = lifecycle.calls
    assert name == "begin"
    assert asked == {
        "experiment": "demo",
        "version": "2",
        "key": KEY,
        "actor": "ana",
        "reason": "New weather feed",
        "airflow_run": {
            "dag_id": "experiment__demo",
            "run_id": "manual__1",
            "run_type": "manual",
            "url": "http://airflow/dags/experiment__demo/runs/manual__1",
        },
        "traceparent": None,
    }


def test_preregister_hands_on_the_trace_of_whoever_started_the_run_through_the_api(lifecycle: Any) -> None:
    place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    lifecycle.answers["begin"] = PASSED
    preregister().execute(context({"version": "2", "traceparent": place}))
    ((_, asked),) = lifecycle.calls
    assert asked["traceparent"] == place


def test_a_misspelt_start_parameter_is_refused_before_anything_is_registered(lifecycle: Any) -> None:
    with pytest.raises(BadParameter, match="'verson'; this DAG takes reason, version"):
        preregister().execute(context({"verson": "2"}))
    assert lifecycle.calls == []


def test_a_step_returns_its_verdict_and_knows_its_mlflow_run(lifecycle: Any) -> None:
    lifecycle.answers["raise_exposure"] = PASSED
    step = LifecycleOperator(step="raise_exposure", arguments={"stage": 3}, run_id="demo-v2-1")
    assert step.execute(context()) == TIMED
    assert lifecycle.calls == [("raise_exposure", "demo-v2-1", {"stage": 3})]
    (link,) = step.operator_extra_links
    assert link.get_link(step, ti_key=None) == "http://mlflow/run"


def test_a_step_that_did_not_pass_fails_and_still_leaves_its_verdict(lifecycle: Any) -> None:
    lifecycle.answers["evaluate"] = StepNotPassed("evaluate", FAILED)
    step, given = LifecycleOperator(step="evaluate", run_id="demo-v2-1"), context()
    with pytest.raises(StepNotPassed, match="Worse"):
        step.execute(given)
    assert given["ti"].pushed == {"return_value": FAILED}
    (link,) = step.operator_extra_links
    assert link.get_link(step, ti_key=None) == "http://mlflow/run"


def test_a_step_without_a_registered_run_is_skipped(lifecycle: Any) -> None:
    with pytest.raises(AirflowSkipException):
        LifecycleOperator(step="report", run_id="").execute(context())
    assert lifecycle.calls == []


def test_the_guard_defers_to_its_trigger_while_the_stage_is_open(lifecycle: Any, looks: Any) -> None:
    lifecycle.answers["look"] = looks("HOLD")
    with pytest.raises(TaskDeferred) as deferred:
        guard().execute(context())
    assert deferred.value.trigger.serialize()[1] == {
        "run_id": "demo-v2-1",
        "stage": 2,
        "look_every": 1.5,
        "patience": 3,
    }
    assert deferred.value.timeout.total_seconds() == 90
    assert deferred.value.method_name == "execute_complete"


def test_a_guard_that_is_tried_again_after_the_decision_does_not_wait(lifecycle: Any, looks: Any) -> None:
    lifecycle.answers = {"look": looks("ADVANCE"), "conclude_stage": PASSED}
    assert guard().execute(context()) == TIMED


@pytest.mark.parametrize("decision", ["ADVANCE", "ROLL_BACK"])
def test_the_store_and_not_the_event_says_how_a_stage_ended(
    lifecycle: Any, looks: Any, decision: str
) -> None:
    lifecycle.answers["conclude_stage"] = StepNotPassed("stage_2", FAILED)
    with pytest.raises(StepNotPassed, match="Worse"):
        guard().execute_complete(context(), looks(decision))
    lifecycle.answers["conclude_stage"] = PASSED
    assert guard().execute_complete(context(), looks("ADVANCE")) == TIMED


def test_a_lost_guard_says_why_it_was_lost(lifecycle: Any) -> None:
    lost = {"outcome": "ERROR", "reason": "guard_lost", "sentence": "3 looks in a row failed."}
    given = context()
    with pytest.raises(StepNotPassed, match="3 looks in a row failed"):
        guard().execute_complete(
            given, {"decision": "ROLL_BACK", "sentence": lost["sentence"], "verdict": lost}
        )
    assert given["ti"].pushed == {"return_value": lost}
    assert lifecycle.calls == []


def test_roll_back_of_an_exposed_run_starts_the_rollback_and_waits_for_it(lifecycle: Any) -> None:
    lifecycle.answers["abort"] = {
        "rollback_needed": True,
        "model": "flights",
        "run_id": "demo-v2-1",
        "reason": "Harm.",
    }
    with pytest.raises(DagRunTriggerException) as signal:
        roll_back().execute(context(stage_2__guard="failed", promote="upstream_failed"))
    assert lifecycle.calls == [("abort", KEY, "Failed in Airflow: stage_2.guard.")]
    assert signal.value.trigger_dag_id == "rollback"
    assert signal.value.dag_run_id == "rollback__demo-v2-1"
    assert signal.value.conf == {"model": "flights", "reason": "Harm."}
    assert signal.value.wait_for_completion
    assert signal.value.deferrable


def test_roll_back_leaves_a_run_alone_that_came_through(lifecycle: Any) -> None:
    with pytest.raises(AirflowSkipException):
        roll_back().execute(context(promote="success"))
    assert lifecycle.calls == []


@pytest.mark.parametrize("promote", ["failed", "upstream_failed", "skipped", "removed"])
def test_roll_back_ends_the_exposure_whatever_kept_the_run_from_promotion(
    lifecycle: Any, promote: str
) -> None:
    lifecycle.answers["abort"] = {"rollback_needed": False, "model": None, "run_id": None, "reason": ""}
    with pytest.raises(AirflowSkipException):
        roll_back().execute(context(promote=promote))
    assert lifecycle.called("abort") == 1


def test_roll_back_fails_when_the_rollback_failed() -> None:
    done = {"run_ids": ["rollback__demo-v2-1"], "rollback__demo-v2-1": "success"}
    roll_back().execute_complete(context(), ("trigger", done))
    with pytest.raises(RuntimeError, match="rollback__demo-v2-1 ended as failed"):
        roll_back().execute_complete(context(), ("trigger", done | {"rollback__demo-v2-1": "failed"}))


def test_a_start_is_asked_for_under_a_fixed_id_so_that_a_repeat_is_skipped() -> None:
    start = StartRunOperator(
        task_id="start",
        dag_to_start="experiment__demo",
        run_id_to_start="registry__flights:2",
        conf={"version": "2"},
    )
    with pytest.raises(DagRunTriggerException) as signal:
        start.execute(context())
    assert signal.value.dag_run_id == "registry__flights:2"
    assert signal.value.skip_when_already_exists
    assert not signal.value.reset_dag_run
    assert signal.value.logical_date is None
