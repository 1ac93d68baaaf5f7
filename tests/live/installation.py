"""What the live tests hold in their hands: the running installation, seen through the doors that users have."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil
import pytest

from tests.live.buses import Traffic
from tests.logged import logged_events
from tests.servers import wait_until
from understudy.exposure import Exposure
from understudy.session import Session
from understudy.settings import Settings
from understudy.stack import Stack
from understudy.store import Store, exposures, ledger, records, runs

__all__ = ["Airflow", "Live", "doors_of"]

ENDED = ("success", "failed")
PATIENCE = 150.0
"""Seconds until something that takes some on an idle machine counts as not happening."""


class Airflow:
    """Airflow's REST API as a signed-in user."""

    def __init__(self, url: str, token: str) -> None:
        headers = {"Authorization": f"Bearer {token}"}
        self.client = httpx.Client(base_url=f"{url}/api/v2", headers=headers, timeout=30, trust_env=False)

    def start(self, dag: str, conf: dict[str, Any], run_id: str | None = None) -> str:
        """Start a run as the form in the UI does, and return its id."""
        body = {"logical_date": None, "conf": conf} | ({"dag_run_id": run_id} if run_id else {})
        answer = self.client.post(f"/dags/{dag}/dagRuns", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["dag_run_id"])

    def runs(self, dag: str) -> dict[str, dict[str, Any]]:
        answer = self.client.get(f"/dags/{dag}/dagRuns", params={"limit": 100})
        return {run["dag_run_id"]: run for run in answer.raise_for_status().json()["dag_runs"]}

    def state(self, dag: str, run_id: str) -> str | None:
        return self.runs(dag).get(run_id, {}).get("state")

    def ended(self, dag: str, run_id: str, seconds: float = PATIENCE) -> str:
        """Wait until a run has ended and return its state."""
        reached = lambda: state if (state := self.state(dag, run_id)) in ENDED else None  # noqa: E731
        return str(wait_until(reached, f"the end of {dag} {run_id}", seconds))

    def tasks(self, dag: str, run_id: str) -> dict[str, str]:
        """Return the state of each task."""
        answer = self.client.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances", params={"limit": 100})
        return {task["task_id"]: task["state"] for task in answer.raise_for_status().json()["task_instances"]}

    def xcom(self, dag: str, run_id: str, task: str, key: str = "return_value") -> Any:
        answer = self.client.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/xcomEntries/{key}")
        return None if answer.status_code == 404 else answer.raise_for_status().json()["value"]

    def links(self, dag: str, run_id: str, task: str) -> dict[str, str]:
        answer = self.client.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/links")
        return dict(answer.raise_for_status().json()["extra_links"])

    def log(self, dag: str, run_id: str, task: str, attempt: int = 1) -> str:
        answer = self.client.get(f"/dags/{dag}/dagRuns/{run_id}/taskInstances/{task}/logs/{attempt}")
        return answer.raise_for_status().text


def doors_of(env: dict[str, str]) -> Session:
    """Open the store and the registry that an environment names, whatever this process's own says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("UNDERSTUDY_")]:
            patch.delenv(name)
        for name, value in env.items():
            if name.startswith("UNDERSTUDY_") or name == "MLFLOW_TRACKING_URI":
                patch.setenv(name, value)
        settings = Settings.from_env()
        doors = Session(settings, Store.open(settings))
        _ = doors.tracking  # connects while the environment names the server
        return doors


@dataclass
class Records:
    """The store of an installation, for one model."""

    doors: Session
    model: str

    def run(self, key: str) -> runs.Run | None:
        with self.doors.store.read() as connection:
            return runs.by_key(connection, key)

    def exposure(self) -> Exposure | None:
        with self.doors.store.read() as connection:
            return exposures.find(connection, self.model)

    def verdicts(self, run_id: str) -> dict[str, records.RecordedVerdict]:
        with self.doors.store.read() as connection:
            return {found.step: found for found in records.newest_of_each_step(connection, run_id)}

    def actions(self) -> list[ledger.Entry]:
        """Return the ledger's entries of this model; the whole chain must verify."""
        with self.doors.store.read() as connection:
            assert ledger.verify(connection) is None
            return ledger.entries(connection, model=self.model)

    def alias(self, name: str = "champion") -> str | None:
        return self.doors.registry.alias(self.model, name)

    def stage(self, version: str) -> str:
        return self.doors.registry.version(self.model, version).stage


@dataclass
class Live:
    """The servers, the traffic and the record."""

    stack: Stack
    airflow: Airflow
    traffic: Traffic
    records: Records
    dag: str
    model: str = field(init=False)

    def __post_init__(self) -> None:
        self.model = self.records.model

    def start(self, conf: dict[str, Any]) -> str:
        return self.airflow.start(self.dag, conf)

    def ended(self, run_id: str) -> str:
        return self.airflow.ended(self.dag, run_id)

    def run(self, dag_run: str) -> runs.Run | None:
        """Return the lifecycle's run of an Airflow run."""
        return self.records.run(f"{self.dag}/{dag_run}")

    def gateway(self) -> dict[str, Any]:
        """Return what the gateway says of itself; nothing while it does not answer."""
        try:
            answer = httpx.get(f"{self.stack.gateway_url}/status", timeout=5, trust_env=False)
            return dict(answer.raise_for_status().json())
        except httpx.HTTPError:
            return {}

    def until(self, reached: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
        return wait_until(reached, what, seconds)

    def until_exposed(self, dag_run: str) -> runs.Run:
        """Wait until units see the challenger of this run; fail at once if it ends before."""

        def exposed() -> bool:
            assert self.airflow.state(self.dag, dag_run) not in ENDED, self.why(dag_run)
            run, served = self.run(dag_run), self.gateway()
            return bool(run and served.get("exposed") and served["run"] == run.run_id)

        self.until(exposed, f"exposure by {dag_run}")
        run = self.run(dag_run)
        assert run is not None
        return run

    def answered_by_challenger(self, run_id: str) -> list[float]:
        """Return when each request was received that a challenger answered in this run, by the gateway's own log."""
        events = logged_events(self.records.doors.settings.events_dir, self.model)
        return sorted(
            event["received_at"]
            for event in events
            if event["run"] == run_id and event["arm"] == "challenger"
        )

    def why(self, dag_run: str) -> str:
        """Say what became of a run, for the message of a test that failed."""
        run = self.run(dag_run)
        verdicts = self.records.verdicts(run.run_id) if run else {}
        told = [
            f"{step}: {found.verdict.outcome} {found.verdict.sentence}" for step, found in verdicts.items()
        ]
        tasks = self.airflow.tasks(self.dag, dag_run)
        return "\n".join([f"{dag_run}: {run and run.state} {run and run.ending}", *told, str(tasks)])

    def triggerers(self) -> list[psutil.Process]:
        """Return the processes of the triggerer that the standalone Airflow started, its own children included."""
        assert self.stack.airflow is not None
        roots = []
        for pid in self.stack.airflow.processes[0].members():
            with suppress(psutil.NoSuchProcess):  # a worker that has just ended
                process = psutil.Process(pid)
                if "triggerer" in " ".join(process.cmdline()):
                    roots.append(process)
        return list(
            {process.pid: process for root in roots for process in (root, *root.children(True))}.values()
        )

    def kill(self, processes: list[psutil.Process]) -> None:
        """End processes as the kernel does when memory is gone: none of them gets to say goodbye."""
        for process in processes:
            process.send_signal(signal.SIGKILL)
        psutil.wait_procs(processes, timeout=10)
