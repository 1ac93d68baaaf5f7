"""Runs and the model's lock: one run per model, ended runs never come back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy import telemetry
from understudy.errors import ConcurrentRun, NoSuchRun, StaleGeneration
from understudy.store import ledger, schema, unfinished

__all__ = [
    "Run",
    "RunState",
    "active",
    "by_key",
    "by_trace",
    "create",
    "end",
    "enter_stage",
    "get",
    "in_mlflow",
    "latest",
    "require_next",
    "set_mlflow_run",
    "set_state",
    "since",
]


class RunState(StrEnum):
    """Where a run stands."""

    PREPARING = "preparing"
    EXPOSED = "exposed"
    PROMOTING = "promoting"
    ROLLING_BACK = "rolling_back"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def terminal(self) -> bool:
        """Whether the run has ended and holds no lock."""
        return self in (RunState.PROMOTED, RunState.ROLLED_BACK, RunState.FAILED)

    @property
    def may_expose(self) -> bool:
        """Whether exposure may still rise: never again once the run is on its way back."""
        return self in (RunState.PREPARING, RunState.EXPOSED)


@dataclass(frozen=True)
class Run:
    """One passage of one challenger version through its lifecycle."""

    run_id: str
    key: str
    experiment: str
    model: str
    version: str
    champion: str
    state: RunState
    stage: int
    stage_entered_at: float | None
    spec: Mapping[str, Any]
    spec_digest: str
    actor: str
    reason: str
    airflow: Mapping[str, Any]
    mlflow_run_id: str | None
    ending: str | None
    created_at: float
    updated_at: float
    traceparent: str | None

    @property
    def trace_id(self) -> str | None:
        """Id of the trace that the run belongs to; runs from before there were traces have none."""
        return telemetry.trace_id_of(self.traceparent)

    def facts(self) -> dict[str, Any]:
        """Return who tries what and how far it came, as JSON-safe data."""
        return {
            "run": self.run_id,
            "trace_id": self.trace_id,
            "experiment": self.experiment,
            "model": self.model,
            "version": self.version,
            "champion": self.champion,
            "state": self.state.value,
            "stage": self.stage,
            "actor": self.actor,
            "reason": self.reason,
            "ending": self.ending,
            "started_at": self.created_at,
        }


def create(
    connection: Connection,
    *,
    key: str,
    spec: Mapping[str, Any],
    spec_digest: str,
    version: str,
    champion: str,
    actor: str,
    reason: str,
    airflow: Mapping[str, Any],
    at: float,
) -> Run:
    """Take the model's lock for a new run and freeze its spec; it belongs to the trace under way, or begins one.

    Args:
        connection: A write transaction.
        key: Idempotency key of the start; a repeated key must be looked up with :func:`by_key` first.
        spec: The frozen experiment.
        spec_digest: Its digest.
        version: Challenger version.
        champion: Version in production now.
        actor: Who started it.
        reason: Why.
        airflow: Ids and links of the Airflow run.
        at: Unix seconds.

    Raises:
        ConcurrentRun: Another run of this model has not ended.
        RollbackUnfinished: A rollback of this model has not ended.
    """
    model, experiment = spec["model"], spec["name"]
    holder = active(connection, model)
    if holder:
        raise ConcurrentRun(
            f"Model {model} is held by run {holder.run_id} ({holder.state}, stage {holder.stage}). One run per model at "
            f"a time: wait for it, or end it with the DAG `rollback` or `understudy rollback {model} --reason ...`."
        )
    unfinished.refuse(connection, model)
    same = (schema.runs.c.experiment == experiment, schema.runs.c.version == version)
    count = connection.execute(sa.select(sa.func.count()).select_from(schema.runs).where(*same)).scalar_one()
    run_id = f"{experiment}-v{version}-{count + 1}"
    connection.execute(
        schema.runs.insert().values(
            run_id=run_id,
            key=key,
            experiment=experiment,
            model=model,
            version=version,
            champion=champion,
            state=RunState.PREPARING.value,
            holds=model,
            stage=0,
            spec=dict(spec),
            spec_digest=spec_digest,
            actor=actor,
            reason=reason,
            airflow=dict(airflow),
            traceparent=(telemetry.current() or telemetry.TraceContext.new()).traceparent,
            created_at=at,
            updated_at=at,
        )
    )
    ledger.append(
        connection,
        at=at,
        actor=actor,
        action="run.started",
        model=model,
        run_id=run_id,
        reason=reason,
        body={"version": version, "champion": champion, "spec": spec_digest, "key": key},
    )
    return get(connection, run_id)


def get(connection: Connection, run_id: str) -> Run:
    """Return a run.

    Raises:
        NoSuchRun: The store has none of that id.
    """
    row = connection.execute(sa.select(schema.runs).where(schema.runs.c.run_id == run_id)).first()
    if row is None:
        raise NoSuchRun(f"The store has no run {run_id!r}. `understudy status` lists the runs it knows.")
    return _run(row)


def by_key(connection: Connection, key: str) -> Run | None:
    """Return the run that was started with a key, if there is one."""
    row = connection.execute(sa.select(schema.runs).where(schema.runs.c.key == key)).first()
    return _run(row) if row else None


def by_trace(connection: Connection, trace_id: str) -> list[Run]:
    """Return the runs that belong to a trace, oldest first."""
    own = sa.func.substr(schema.runs.c.traceparent, 4, 32)  # between the version and the span
    of_trace = sa.select(schema.runs).where(own == trace_id).order_by(schema.runs.c.created_at)
    return [_run(row) for row in connection.execute(of_trace)]


def active(connection: Connection, model: str) -> Run | None:
    """Return the run that holds a model's lock."""
    row = connection.execute(sa.select(schema.runs).where(schema.runs.c.holds == model)).first()
    return _run(row) if row else None


def latest(connection: Connection, model: str, limit: int = 20) -> list[Run]:
    """Return the newest runs of a model, newest first."""
    query = sa.select(schema.runs).where(schema.runs.c.model == model)
    newest = query.order_by(schema.runs.c.created_at.desc(), schema.runs.c.run_id.desc()).limit(limit)
    return [_run(row) for row in connection.execute(newest)]


def since(connection: Connection, model: str, at: float) -> list[Run]:
    """Return the runs of a model that were started at or after a time, newest first."""
    query = sa.select(schema.runs).where(schema.runs.c.model == model, schema.runs.c.created_at >= at)
    return [_run(row) for row in connection.execute(query.order_by(schema.runs.c.created_at.desc()))]


def set_mlflow_run(connection: Connection, run_id: str, mlflow_run_id: str) -> None:
    """Note which MLflow run records this run."""
    connection.execute(
        schema.runs.update().where(schema.runs.c.run_id == run_id).values(mlflow_run_id=mlflow_run_id)
    )


def set_state(connection: Connection, run_id: str, state: RunState, at: float) -> None:
    """Move a run to a state that is not terminal; an ended run stays as it is."""
    connection.execute(
        schema.runs.update()
        .where(schema.runs.c.run_id == run_id, schema.runs.c.holds.is_not(None))
        .values(state=state.value, updated_at=at)
    )


def in_mlflow(connection: Connection) -> set[str]:
    """Return the ids of the MLflow runs that record runs of this store."""
    found = connection.execute(sa.select(schema.runs.c.mlflow_run_id)).scalars()
    return {mlflow_run_id for mlflow_run_id in found if mlflow_run_id}


def require_next(run: Run, stage: int) -> None:
    """Refuse a run that may not raise exposure at all, or not to this stage.

    Raises:
        StaleGeneration: It is on its way back or has ended, or it would skip a stage.
    """
    if not run.state.may_expose:
        raise StaleGeneration(
            f"Run {run.run_id} is {run.state} and may not raise exposure of {run.model}. A run on its way back stays down; "
            "start a new run."
        )
    if stage not in (run.stage, run.stage + 1) or stage < 1:
        raise StaleGeneration(
            f"Run {run.run_id} is at stage {run.stage} and cannot go to stage {stage}. Stages are taken one by one."
        )


def enter_stage(connection: Connection, run_id: str, stage: int, at: float) -> None:
    """Note that a run entered a stage of its ladder."""
    connection.execute(
        schema.runs.update()
        .where(schema.runs.c.run_id == run_id)
        .values(state=RunState.EXPOSED.value, stage=stage, stage_entered_at=at, updated_at=at)
    )


def end(connection: Connection, run: Run, state: RunState, *, ending: str, actor: str, at: float) -> None:
    """End a run and give its lock back; an ended run stays as it is."""
    done = connection.execute(
        schema.runs.update()
        .where(schema.runs.c.run_id == run.run_id, schema.runs.c.holds.is_not(None))
        .values(state=state.value, holds=None, ending=ending, updated_at=at)
    )
    if done.rowcount:
        ledger.append(
            connection,
            at=at,
            actor=actor,
            action=f"run.{state.value}",
            model=run.model,
            run_id=run.run_id,
            reason=ending,
            body={"version": run.version, "stage": run.stage},
        )


def _run(row: sa.Row[Any]) -> Run:
    fields = dict(row._mapping)
    del fields["holds"]
    return Run(**fields | {"state": RunState(fields["state"])})
