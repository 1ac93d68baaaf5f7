"""Where every model stands, for the CLI, the console and whoever is on call."""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection

from understudy.exposure import Exposure
from understudy.lifecycle import drilled
from understudy.points import readiness
from understudy.session import Session
from understudy.spec import Drill
from understudy.store import exposures, ledger, records, runs, unfinished
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
        One JSON-safe dict a model: what is served, the newest run, its lease, verdicts and links, and the last ledger
        entries. Times are Unix seconds.
    """
    now = doors.store.clock()
    with doors.store.read() as connection:
        return [
            _model(connection, exposure, now)
            for exposure in exposures.every(connection)
            if model in (None, exposure.model)
        ]


def _model(connection: Connection, exposure: Exposure, now: float) -> dict[str, Any]:
    newest = runs.latest(connection, exposure.model, limit=1)
    run = newest[0] if newest else None
    return {
        "model": exposure.model,
        **_served(exposure, now),
        **(_run(run) if run else _no_run()),
        "verdicts": _verdicts(connection, run) if run else [],
        "rollback": on.reason if (on := unfinished.asked(connection, exposure.model)) else None,
        "way_back": readiness.told(connection, exposure.model),
        "drill": drilled.readiness(connection, exposure.model, _demanded(run), now),
        "ledger": [
            {
                "at": entry.at,
                "actor": entry.actor,
                "action": entry.action,
                "step": str(entry.body.get("step", "")),
                "reason": entry.reason,
            }
            for entry in ledger.entries(connection, model=exposure.model, newest=_LAST_ENTRIES)
        ],
    }


def _demanded(run: Run | None) -> Drill:
    """Return what the newest run's spec demands; runs from before there were drills demand what is usual."""
    return Drill.model_validate(run.spec.get("drill", {})) if run else Drill()


def _served(exposure: Exposure, now: float) -> dict[str, Any]:
    """Return who answers: ``percent`` and ``rings`` are what the lease still covers, so nothing once it has lapsed."""
    live = exposure.live(now)
    return {
        "champion": exposure.champion,
        "challenger": exposure.challenger,
        "generation": exposure.generation,
        "percent": exposure.percent if live else 0.0,
        "rings": dict(exposure.rings) if live else {},
        "mirror": exposure.mirror,
        "contained": list(exposure.contained) if live else [],
        "lease_expires_at": exposure.lease_expires_at,
        "lease_seconds_left": round((exposure.lease_expires_at or 0) - now, 1) if live else 0.0,
        "lease_lapsed": exposure.exposed and not live,
    }


def _run(run: Run) -> dict[str, Any]:
    """Return the newest run, ended or not; ``stage_rules`` are those of the stage it is at."""
    stages = run.spec["stages"]
    rules = stages[run.stage - 1] if run.stage else None
    return {
        "run": run.run_id,
        "experiment": run.experiment,
        "state": run.state.value,
        "stage": run.stage,
        "stages": [stage["percent"] for stage in stages],
        "stage_rings": [stage.get("ring", []) for stage in stages],
        "stage_entered_at": run.stage_entered_at,
        "stage_rules": {key: rules[key] for key in ("soak", "timeout", "min_units")} if rules else None,
        "version": run.version,
        "started_at": run.created_at,
        "updated_at": run.updated_at,
        "actor": run.actor,
        "reason": run.reason,
        "ending": run.ending,
        "trace_id": run.trace_id,
        "links": _links(run),
        "airflow": {key: run.airflow[key] for key in ("dag_id", "run_id") if run.airflow.get(key)},
    }


def _no_run() -> dict[str, Any]:
    unknown = ("run", "experiment", "stage_entered_at", "stage_rules", "version")
    nobody = ("started_at", "updated_at", "actor", "reason", "ending", "trace_id")
    nothing = {"state": "idle", "stage": 0, "stages": [], "stage_rings": [], "links": {}, "airflow": {}}
    return dict.fromkeys((*unknown, *nobody)) | nothing


def _verdicts(connection: Connection, run: Run) -> list[dict[str, Any]]:
    """Return the newest verdict of each step, in the order the steps were taken."""
    return [
        {
            "step": recorded.step,
            "stage": recorded.stage,
            "outcome": recorded.verdict.outcome.value,
            "decision": recorded.decision,
            "sentence": recorded.verdict.sentence,
            "change": recorded.verdict.change,
            "at": recorded.at,
        }
        for recorded in records.newest_of_each_step(connection, run.run_id)[-_LAST_VERDICTS:]
    ]


def _links(run: Run) -> dict[str, str]:
    links = {"airflow": str(run.airflow.get("url") or ""), "mlflow_run": run.mlflow_run_id or ""}
    return {name: link for name, link in links.items() if link}
