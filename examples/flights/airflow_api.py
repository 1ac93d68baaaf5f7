"""The few calls of Airflow's REST API that the demo makes, as the UI and any other client would make them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import httpx


class AirflowApi:
    """A signed-in client.

    Args:
        url: Base address of the API server.
        user: Login name.
        password: Its password.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        answer = httpx.post(f"{url}/auth/token", json={"username": user, "password": password}, timeout=30)
        answer.raise_for_status()
        headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
        self._client = httpx.Client(base_url=f"{url}/api/v2", headers=headers, timeout=30)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def knows(self, dag_id: str) -> bool:
        """Tell whether the DAG has been parsed and may be started."""
        answer = self._client.get(f"/dags/{dag_id}")
        return answer.status_code == 200 and not answer.json()["is_paused"]

    def start(self, dag_id: str, conf: Mapping[str, Any]) -> str:
        """Start a DAG run, as the form in the UI does, and return its id."""
        answer = self._client.post(f"/dags/{dag_id}/dagRuns", json={"logical_date": None, "conf": dict(conf)})
        if answer.status_code >= 400:
            raise RuntimeError(f"Airflow refused to start {dag_id}: {answer.status_code} {answer.text[:500]}")
        return str(answer.json()["dag_run_id"])

    def state(self, dag_id: str, run_id: str) -> str | None:
        """Return the state of a DAG run; None when there is no such run (yet)."""
        answer = self._client.get(f"/dags/{dag_id}/dagRuns/{run_id}")
        return None if answer.status_code == 404 else str(answer.raise_for_status().json()["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run in the order in which they started."""
        answer = self._client.get(f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances", params={"limit": 100})
        found = [task for task in answer.raise_for_status().json()["task_instances"] if task["start_date"]]
        return sorted(found, key=lambda task: str(task["start_date"]))

    def result(self, dag_id: str, run_id: str, task_id: str) -> Any:
        """Return what a task returned; None when it returned nothing."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/return_value"
        answer = self._client.get(path)
        return None if answer.status_code == 404 else answer.raise_for_status().json()["value"]

    def overheads(self, dag_id: str, run_id: str) -> list[float]:
        """Return, task by task, the seconds between the end of the task before and its own end, less its own work.

        Tasks that waited for the evidence (the guards) are left out: waiting is what they are for.
        """
        seconds, before = [], None
        for task in self.tasks(dag_id, run_id):
            if not task["end_date"]:
                break
            ended = datetime.fromisoformat(task["end_date"])
            value = self.result(dag_id, run_id, task["task_id"]) if before else None
            work = value.get("work_seconds") if isinstance(value, dict) else None
            if before is not None and work is not None and not task["task_id"].endswith("guard"):
                seconds.append((ended - before).total_seconds() - float(work))
            before = ended
        return seconds
