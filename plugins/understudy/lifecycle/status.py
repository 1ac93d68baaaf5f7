"""Where every model stands, for the CLI, the console and whoever is on call."""

from __future__ import annotations

from typing import Any

from understudy.lifecycle.session import Session
from understudy.store import exposures, ledger, records, runs
from understudy.store.runs import Run

__all__ = ["status"]

_LAST_VERDICTS = 8
_LAST_ENTRIES = 12


def status(doors: Session, model: str | None = None) -> list[dict[str, Any]]:
    """Return the state of every model that the store knows, or of one.

    Args:
        doors: The session.
        model: Only this model.

    Returns:
        One JSON-safe dict a model: run, state, stage, percent, lease, versions, last verdicts, links.
    """
    now = doors.store.clock()
    answer = []
    with doors.store.read() as connection:
        for exposure in exposures.every(connection):
            if model not in (None, exposure.model):
                continue
            newest = runs.latest(connection, exposure.model, limit=1)
            run = newest[0] if newest else None
            live = exposure.live(now)
            answer.append(
                {
                    "model": exposure.model,
                    "champion": exposure.champion,
                    "challenger": exposure.challenger,
                    "generation": exposure.generation,
                    "percent": exposure.percent if live else 0.0,
                    "lease_expires_at": exposure.lease_expires_at,
                    "lease_seconds_left": round(max(0.0, (exposure.lease_expires_at or 0) - now), 1)
                    if live
                    else 0.0,
                    "run": run.run_id if run else None,
                    "experiment": run.experiment if run else None,
                    "state": run.state.value if run else "idle",
                    "stage": run.stage if run else 0,
                    "stages": [stage["percent"] for stage in run.spec["stages"]] if run else [],
                    "version": run.version if run else None,
                    "ending": run.ending if run else None,
                    "links": _links(run) if run else {},
                    "verdicts": _verdicts(connection, run) if run else [],
                    "ledger": [
                        {"at": entry.at, "actor": entry.actor, "action": entry.action, "reason": entry.reason}
                        for entry in ledger.entries(connection, model=exposure.model)[-_LAST_ENTRIES:]
                    ],
                }
            )
    return answer


def _verdicts(connection: Any, run: Run) -> list[dict[str, Any]]:
    """Return the newest verdict of each step, in the order the steps were taken."""
    newest: dict[str, records.RecordedVerdict] = {}
    for recorded in records.verdicts_of(connection, run.run_id):
        newest.pop(recorded.step, None)
        newest[recorded.step] = recorded
    return [
        {
            "step": recorded.step,
            "outcome": recorded.verdict.outcome.value,
            "sentence": recorded.verdict.sentence,
            "at": recorded.at,
        }
        for recorded in list(newest.values())[-_LAST_VERDICTS:]
    ]


def _links(run: Run) -> dict[str, str]:
    links = {"airflow": str(run.airflow.get("url") or "")}
    if run.mlflow_run_id:
        links["mlflow_run"] = run.mlflow_run_id
    return {name: link for name, link in links.items() if link}
