"""One real Airflow, MLflow and gateway: the doors in, the way up, the ways back, and what breaks on the way.

The story of versions 2 and 3 is a fixture (``promoted``, ``rolled_back``, ``taken_back``), played once for all tests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest

from tests.live.buses import move_stage
from tests.live.conftest import DAG
from tests.live.installation import ENDED, Live
from understudy.store.runs import RunState

pytestmark = [pytest.mark.airflow, pytest.mark.stack]

BEFORE_EXPOSURE = ("preregister", "check_data", "evaluate", "shadow", "critical_path", "spike")
STEPS = (*BEFORE_EXPOSURE, "stage_1", "stage_2", "compare", "promote")


def test_an_alias_in_the_registry_starts_one_run_that_ends_with_a_new_champion(
    live: Live, promoted: str
) -> None:
    tasks = live.airflow.tasks(DAG, promoted)
    assert tasks.pop("roll_back") == "skipped"
    assert set(tasks.values()) == {"success"}
    run = live.run(promoted)
    assert run is not None
    assert (run.state, run.version, run.champion, run.actor) == (RunState.PROMOTED, "2", "1", "registry")
    assert all(verdict.verdict.passed for verdict in live.records.verdicts(run.run_id).values())
    raised = [
        entry.body["to"]
        for entry in live.records.actions()
        if entry.action == "exposure.raised" and entry.run_id == run.run_id
    ]
    assert raised == [20, 100]


def test_mlflow_keeps_the_run_and_its_steps_and_each_side_links_to_the_other(
    live: Live, promoted: str
) -> None:
    client, run = live.records.doors.registry.client, live.run(promoted)
    assert run is not None
    assert run.mlflow_run_id is not None
    parent = client.get_run(run.mlflow_run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["challenger"] == "2"
    assert parent.data.tags["airflow.url"].startswith(f"{live.stack.airflow_url}/dags/{DAG}/runs/registry__")
    assert "report.html" in [file.path for file in client.list_artifacts(run.mlflow_run_id)]

    query = f"tags.mlflow.parentRunId = '{run.mlflow_run_id}'"
    steps = {
        found.data.tags["understudy.step"]: found
        for found in client.search_runs([parent.info.experiment_id], query)
    }
    assert set(steps) == set(STEPS)
    assert {found.info.status for found in steps.values()} == {"FINISHED"}
    assert steps["evaluate"].data.metrics["brier.gain"] > 0.02
    assert steps["stage_1"].data.params["percent"] == "20.0"
    assert steps["evaluate"].inputs.dataset_inputs[0].dataset.name == "holdout"
    assert "paired.csv" in [file.path for file in client.list_artifacts(steps["evaluate"].info.run_id)]
    docs = client.list_artifacts(steps["check_data"].info.run_id, "data_docs")
    assert [file.path for file in docs] == [
        "data_docs/bus_requests.requests.html",
        "data_docs/bus_trips.reference.html",
    ]
    page = f"{live.stack.mlflow_url}/#/experiments/{parent.info.experiment_id}/runs/{steps['evaluate'].info.run_id}"
    assert live.airflow.xcom(DAG, promoted, "evaluate")["mlflow_url"] == page
    assert live.airflow.links(DAG, promoted, "evaluate")["MLflow run"] == page


def test_a_version_that_harms_online_is_rolled_back_from_its_first_stage(
    live: Live, rolled_back: str
) -> None:
    run = live.run(rolled_back)
    assert run is not None
    assert (run.state, run.version, run.actor) == (RunState.ROLLED_BACK, "3", "admin"), live.why(rolled_back)
    verdicts = live.records.verdicts(run.run_id)
    # Nothing before real traffic could have known.
    assert all(verdicts[step].verdict.passed for step in BEFORE_EXPOSURE)
    caught = verdicts["stage_1"]
    assert (caught.verdict.reason, caught.verdict.metric) == ("guardrail_breached", "brier")
    tasks = live.airflow.tasks(DAG, rolled_back)
    assert tasks["stage_1.guard"] == "failed"
    assert (tasks["stage_2.raise_exposure"], tasks["promote"]) == ("upstream_failed", "upstream_failed")
    assert (tasks["roll_back"], tasks["report"]) == ("success", "success")
    assert live.airflow.state("rollback", f"rollback__{run.run_id}") == "success"
    assert "is worse by at least" in live.airflow.xcom(DAG, rolled_back, "stage_1.guard")["sentence"]
    actions = [entry.action for entry in live.records.actions() if entry.run_id == run.run_id]
    assert [actions.count(name) for name in ("exposure.raised", "exposure.dropped", "run.rolled_back")] == [
        1,
        1,
        1,
    ]
    assert actions.index("exposure.dropped") < actions.index("rollback.started")


def test_the_rollback_dag_takes_production_to_the_version_before(
    live: Live, taken_back: dict[str, Any]
) -> None:
    assert (taken_back["current"], taken_back["target"]) == ("2", "1")
    assert live.records.alias() == "1"
    assert (live.records.stage("1"), live.records.stage("2")) == ("Production", "Archived")
    served = live.gateway()
    assert (served["champion"], served["challenger"], served["exposed"]) == ("1", None, False)
    assert live.records.alias("challenger") is None
    last = live.records.actions()[-1]
    assert (last.action, last.actor, last.reason) == ("rollback.finished", "admin", "Drivers complain.")


def test_a_dry_run_and_a_second_rollback_change_nothing(live: Live, taken_back: dict[str, Any]) -> None:
    before = (live.records.exposure(), live.records.alias())
    recorded = len(live.records.actions())
    again = {"model": live.model, "reason": "Again, please."}
    rehearsed = live.airflow.start("rollback", again | {"target_version": "2", "dry_run": True})
    guessed = live.airflow.start("rollback", again)
    assert live.airflow.ended("rollback", rehearsed) == "success"
    plan = live.airflow.xcom("rollback", rehearsed, "restore")
    assert (plan["target"], plan["dry_run"]) == ("2", True)
    # Further back than one step is never guessed, so calling twice does not walk down the versions.
    assert live.airflow.ended("rollback", guessed) == "failed"
    assert "NO_PREVIOUS_VERSION" in live.airflow.log("rollback", guessed, "restore")
    assert (live.records.exposure(), live.records.alias()) == before
    assert [entry.action for entry in live.records.actions()[recorded:]] == ["rollback.refused"]


def test_a_stage_move_starts_a_run_too_and_no_version_starts_twice(
    live: Live, taken_back: dict[str, Any]
) -> None:
    move_stage(live.records.doors.registry.client, live.model, "4", "Staging")
    dag_run = f"registry__{live.model}:4"
    live.until(lambda: live.airflow.state(DAG, dag_run), "the start through the registry door", 60)
    assert live.ended(dag_run) == "failed"
    log = live.airflow.log(DAG, dag_run, "preregister")
    assert "[VERSION_INCOMPATIBLE]" in log
    assert "has no signature" in log
    run = live.run(dag_run)
    assert run is not None
    assert (run.state, run.stage) == (RunState.FAILED, 0)
    assert live.airflow.tasks(DAG, dag_run)["roll_back"] == "skipped"
    assert live.gateway()["exposed"] is False
    # The door has looked again since version 2 got its alias twice and its stage moved, and since version 3 got its alias.
    through_the_door = {name for name in live.airflow.runs(DAG) if name.startswith("registry__")}
    assert through_the_door == {f"registry__{live.model}:2", dag_run}


def test_the_clock_starts_a_run(live: Live) -> None:
    nightly = "experiment__bus_nightly"
    details = live.airflow.client.get(f"/dags/{nightly}/details").raise_for_status().json()
    assert details["timetable_summary"] == "* * * * *"
    try:
        dag_run = live.until(
            lambda: next(
                (name for name in live.airflow.runs(nightly) if name.startswith("scheduled__")), None
            ),
            "a scheduled run",
            90,
        )
    finally:
        live.airflow.client.patch(f"/dags/{nightly}", json={"is_paused": True}).raise_for_status()
    assert live.airflow.ended(nightly, dag_run) == "failed"
    assert "[NO_SUCH_VERSION]" in live.airflow.log(nightly, dag_run, "preregister")


def test_a_start_that_cannot_be_meant_is_refused_with_its_fix(live: Live, taken_back: dict[str, Any]) -> None:
    before = live.records.exposure()
    misspelt = live.start({"verion": "2"})
    unknown = live.start({"version": "99"})
    refused = live.airflow.client.post(
        f"/dags/{DAG}/dagRuns", json={"logical_date": None, "conf": {"version": "two"}}
    )
    assert refused.status_code == 400
    for dag_run, code, fix in (
        (misspelt, "BAD_PARAMETER", "this DAG takes reason, version"),
        (unknown, "NO_SUCH_VERSION", "Registered versions: 1, 2, 3, 4, 5"),
    ):
        assert live.ended(dag_run) == "failed"
        log = live.airflow.log(DAG, dag_run, "preregister")
        assert f"[{code}]" in log
        assert fix in log
        assert live.run(dag_run) is None
    assert live.records.exposure() == before


def test_servers_that_die_on_the_way_never_leave_anybody_exposed(
    live: Live, taken_back: dict[str, Any]
) -> None:
    """MLflow dies before exposure and comes back; a rival is refused; MLflow and the gateway die during exposure."""
    live.traffic.full()
    dag_run = live.start({"version": "2", "reason": "Once more."})
    live.until(lambda: live.airflow.tasks(DAG, dag_run).get("preregister") == "success", "the registration")
    live.stack.mlflow.process.stop(grace=0)
    live.until(
        lambda: "up_for_retry" in live.airflow.tasks(DAG, dag_run).values(), "a task that will be retried"
    )
    assert live.gateway()["exposed"] is False
    live.stack.mlflow.start()
    live.stack.mlflow.wait_ready()
    live.traffic.trickle()
    run = live.until_exposed(dag_run)

    rival = live.start({"version": "3", "reason": "Me too."})
    assert live.ended(rival) == "failed"
    log = live.airflow.log(DAG, rival, "preregister")
    assert "[CONCURRENT_RUN]" in log
    assert run.run_id in log
    assert live.gateway()["run"] == run.run_id
    assert live.airflow.state(DAG, dag_run) == "running"

    # Whether the exposure is sound can be told without MLflow: it goes on serving, and its lease is renewed.
    live.stack.mlflow.process.stop(grace=0)
    lease = live.gateway()["lease_expires_at"]
    live.until(lambda: live.gateway()["lease_expires_at"] > lease + 1, "a renewed lease", 30)
    assert live.gateway()["exposed"] is True
    live.stack.mlflow.start()
    live.stack.mlflow.wait_ready()

    gateway = live.stack.gateway
    assert gateway is not None
    os.kill(gateway.process.pid, signal.SIGKILL)
    live.until(
        lambda: (served := live.records.exposure()) is not None and served.challenger is None,
        "zero exposure",
        60,
    )
    live.stack.start_gateway(live.model)
    assert (live.gateway()["champion"], live.gateway()["exposed"]) == ("1", False)
    assert live.ended(dag_run) == "failed"
    ended = live.run(dag_run)
    assert ended is not None
    assert ended.state is RunState.ROLLED_BACK
    assert live.records.verdicts(run.run_id)["stage_1"].verdict.reason == "lease_lapsed"
    assert live.records.alias() == "1"


def test_without_a_triggerer_the_lease_lapses_by_itself_and_the_shell_takes_over(
    live: Live, taken_back: dict[str, Any]
) -> None:
    live.traffic.trickle()
    dag_run = live.start({"version": "2", "reason": "Whoever watches may vanish."})
    run = live.until_exposed(dag_run)
    live.until(
        lambda: live.airflow.tasks(DAG, dag_run)["stage_1.guard"] == "deferred", "the guard in the triggerer"
    )
    live.kill(live.triggerers())
    served = live.gateway()
    assert served["exposed"] is True
    left = served["lease_expires_at"] - time.time()
    assert left <= run.spec["lease"]
    live.until(lambda: live.gateway()["exposed"] is False, "the end of the lease", left + 2)
    served_before = live.traffic.served
    live.until(lambda: live.traffic.served > served_before, "an answer after the lease")
    answered = live.answered_by_challenger(run.run_id)
    assert answered
    assert answered[-1] < served["lease_expires_at"]
    assert live.airflow.state(DAG, dag_run) not in ENDED

    command = ["-m", "understudy.cli", "rollback", live.model, "--reason", "Nobody is watching."]
    done = subprocess.run(
        [sys.executable, *command], env=live.stack.env(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    ended = live.run(dag_run)
    assert ended is not None
    assert ended.state is RunState.ROLLED_BACK
    assert (live.gateway()["champion"], live.records.alias()) == ("1", "1")
    live.records.actions()
