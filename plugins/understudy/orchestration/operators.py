"""Operators that call one step of the lifecycle each and hand on what it says."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from importlib import import_module
from typing import Any, NoReturn

from airflow.sdk import BaseOperator

from understudy.errors import BadParameter, StepNotPassed
from understudy.orchestration.actor import (
    TRACEPARENT,
    actor_of,
    airflow_run_of,
    idempotency_key_of,
    reason_of,
    traceparent_of,
)
from understudy.orchestration.links import MlflowRunLink, RollbackRunLink
from understudy.orchestration.triggers import GUARD_LOST, GuardTrigger

__all__ = [
    "START_KEY",
    "GuardOperator",
    "LifecycleOperator",
    "PreregisterOperator",
    "RollBackOperator",
    "StartRunOperator",
]

RUN_ID = "{{ (ti.xcom_pull(task_ids='preregister') or {}).get('run_id', '') }}"
"""The lifecycle's run id as a template: pulling it leaves the graph free of an edge from preregister to every task."""

START_KEY = "{{ dag_run.dag_id }}/{{ dag_run.run_id }}"
"""The key of the start as a template, for steps that also serve a run which failed before it told its id."""


class _StepOperator(BaseOperator):
    """Base of operators whose return value is a verdict, passed or not."""

    operator_extra_links = (MlflowRunLink(),)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mlflow_url: str | None = None

    def _call(self, context: Any, step: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        # Looked up by name at run time: the lifecycle is heavy and must not be imported when a DAG file is parsed.
        lifecycle = import_module("understudy.lifecycle")
        began = time.monotonic()
        try:
            result: dict[str, Any] = getattr(lifecycle, step)(*args, **kwargs)
        except StepNotPassed as stop:
            return self._stop(context, stop)
        self._note(result)
        # What the task took beyond this is Airflow's share; the demo prints it.
        return result | {"work_seconds": round(time.monotonic() - began, 3)}

    def _stop(self, context: Any, stop: StepNotPassed) -> NoReturn:
        self._note(stop.verdict)
        # Airflow keeps no return value of a failed task, and the reason of a failure is what people look for.
        context["ti"].xcom_push(key="return_value", value=stop.verdict)
        raise stop

    def _note(self, result: dict[str, Any]) -> None:
        self.mlflow_url = result.get("mlflow_url")
        self.log.info("%s: %s", result.get("outcome", "done"), result.get("sentence", ""))
        if result.get("trace_id"):
            self.log.info("Run %s, trace %s", result["run_id"], result["trace_id"])


class PreregisterOperator(_StepOperator):
    """Checks the start parameters and registers the run; returns its ``run_id`` for all later tasks.

    Args:
        experiment: Name of the experiment.
    """

    def __init__(self, *, experiment: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experiment = experiment

    def execute(self, context: Any) -> dict[str, Any]:
        """Register the run once, however often the task is tried."""
        dag_run = context["dag_run"]
        refuse_unknown_parameters(context)
        return self._call(
            context,
            "begin",
            experiment=self.experiment,
            version=context["params"].get("version"),
            key=idempotency_key_of(dag_run),
            actor=actor_of(dag_run),
            reason=reason_of(context),
            airflow_run=airflow_run_of(dag_run),
            traceparent=traceparent_of(dag_run),
        )


class LifecycleOperator(_StepOperator):
    """Runs one step of the lifecycle for the run that ``preregister`` registered.

    Args:
        step: Name of a function of ``understudy.lifecycle`` that takes the run id.
        arguments: Further arguments of the step, by name.
        run_id: The lifecycle's run; a template.
    """

    template_fields: Sequence[str] = ("run_id",)

    def __init__(
        self, *, step: str, arguments: dict[str, Any] | None = None, run_id: str = RUN_ID, **kwargs: Any
    ) -> None:
        super().__init__(**{"task_id": step} | kwargs)
        self.step = step
        self.arguments = arguments or {}
        self.run_id = run_id

    def execute(self, context: Any) -> dict[str, Any]:
        """Call the step; a verdict other than PASS fails the task. Without a run there is nothing to do."""
        from airflow.sdk.exceptions import AirflowSkipException

        if not self.run_id:
            raise AirflowSkipException("The run was never registered.")
        return self._call(context, self.step, self.run_id, **self.arguments)


class GuardOperator(_StepOperator):
    """Soaks one stage under watch: waits in the triggerer until the evidence has decided.

    The first look happens before the task defers, so that the lease is renewed once more before it is handed over, and
    a task that is tried again after the decision ends without waiting.

    Args:
        stage: Number of the stage, from 1.
        look_every: Seconds between two looks.
        give_up_after: Seconds after which Airflow ends the wait. The looks end a stage in time themselves; this is for
            a triggerer that has stopped looking.
    """

    template_fields: Sequence[str] = ("run_id",)

    def __init__(
        self, *, stage: int, look_every: float, give_up_after: float, run_id: str = RUN_ID, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.stage = stage
        self.look_every = look_every
        self.give_up_after = give_up_after
        self.run_id = run_id

    def execute(self, context: Any) -> dict[str, Any]:
        """Look once, then wait for the decision."""
        look = import_module("understudy.lifecycle").look(self.run_id, self.stage)
        if look["decision"] == "HOLD":
            self.log.info("HOLD: %s", look["sentence"])
            self.defer(
                trigger=GuardTrigger(run_id=self.run_id, stage=self.stage, look_every=self.look_every),
                method_name="execute_complete",
                timeout=timedelta(seconds=self.give_up_after),
            )
        return self.execute_complete(context, look)

    def execute_complete(self, context: Any, event: dict[str, Any]) -> dict[str, Any]:
        """Conclude the stage by what the store holds; the event is only the reason to look there.

        Raises:
            StepNotPassed: The stage did not pass, or the guard was lost.
        """
        self.log.info("%s: %s", event["decision"], event["sentence"])
        if event["verdict"]["reason"] == GUARD_LOST:
            # The store's last look says HOLD at best, which would hide why the stage ended.
            return self._stop(context, StepNotPassed(f"stage {self.stage}", event["verdict"]))
        return self._call(context, "conclude_stage", self.run_id, self.stage)


class StartRunOperator(BaseOperator):
    """Starts a run of another DAG, once: a run id that exists already skips the task.

    Does what Airflow's ``TriggerDagRunOperator`` does, by the same signal to the task runner. That class imports
    Airflow's database models, 0.4 s in every process that parses the DAG file.

    Args:
        dag_to_start: The DAG.
        run_id_to_start: The run's id; the same id never starts twice.
        conf: Parameters of the run.
    """

    template_fields: Sequence[str] = ("dag_to_start", "run_id_to_start", "conf")

    def __init__(
        self, *, dag_to_start: str, run_id_to_start: str, conf: dict[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.dag_to_start = dag_to_start
        self.run_id_to_start = run_id_to_start
        self.conf = conf

    def execute(self, context: Any) -> None:
        """Ask the task runner to start the run."""
        raise _start_signal(self.dag_to_start, self.run_id_to_start, self.conf, wait=False)


class RollBackOperator(BaseOperator):
    """Ends the exposure of a failed run, then has everything else restored by the ``rollback`` DAG and waits for it.

    Skipped when there is nothing to restore: the run came through, or nobody was exposed and the registry was not
    touched.

    Args:
        unless_succeeded: The task that only succeeds when the whole run does.
        rollback_dag_id: The DAG that restores.
    """

    operator_extra_links = (RollbackRunLink(),)

    def __init__(self, *, unless_succeeded: str, rollback_dag_id: str = "rollback", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unless_succeeded = unless_succeeded
        self.rollback_dag_id = rollback_dag_id
        self.rollback_run_id: str | None = None

    def execute(self, context: Any) -> None:
        """Set exposure to zero at once; start the rollback if there is something to restore."""
        from airflow.sdk.exceptions import AirflowSkipException

        ti = context["ti"]
        states = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id])[ti.run_id]
        if states.get(self.unless_succeeded) == "success":
            raise AirflowSkipException("The run came through: nothing to restore.")
        failed = sorted(task for task, state in states.items() if state == "failed")
        reason = f"Failed in Airflow: {', '.join(failed)}." if failed else "The run was stopped in Airflow."
        # By the key of the start, not by the run id that `preregister` returned: it may have failed after registering.
        key = idempotency_key_of(context["dag_run"])
        aborted = import_module("understudy.lifecycle").abort(key, reason)
        if not aborted["rollback_needed"]:
            raise AirflowSkipException(
                "Nobody was exposed and the registry was not touched: nothing to restore."
            )
        conf = {"model": aborted["model"], "reason": aborted["reason"]}
        self.rollback_run_id = f"{self.rollback_dag_id}__{aborted['run_id']}"
        raise _start_signal(self.rollback_dag_id, self.rollback_run_id, conf, wait=True)

    def execute_complete(self, context: Any, event: tuple[str, dict[str, Any]]) -> None:
        """End as the rollback ended.

        Raises:
            RuntimeError: The rollback did not succeed. Exposure is zero nevertheless.
        """
        _, states = event
        self.rollback_run_id = states["run_ids"][0]
        state = states[self.rollback_run_id]
        if state != "success":
            raise RuntimeError(
                f"Rollback {self.rollback_run_id} ended as {state}. Nobody is exposed, but the registry may not be as "
                "before: open the rollback's own run, remove the cause and clear it there."
            )


def refuse_unknown_parameters(context: Any) -> None:
    """Refuse start parameters that the form does not have; Airflow itself would pass over a misspelt one in silence.

    Raises:
        BadParameter: With the unknown names and the known ones.
    """
    # Not `context["params"]`: Airflow has merged the unknown ones into it.
    known = sorted(context["dag"].params)
    unknown = sorted(set(context["dag_run"].conf or {}) - {*known, TRACEPARENT})
    if unknown:
        raise BadParameter(
            f"Unknown start parameter {', '.join(map(repr, unknown))}; this DAG takes {', '.join(known)}. "
            "Start it again with the right name."
        )


def _start_signal(dag_id: str, run_id: str, conf: dict[str, Any], *, wait: bool) -> Exception:
    """Return the exception by which an operator asks Airflow to start a run of another DAG.

    A started run has no logical date: two runs of a DAG must not share one, and a clash would look like a repeat.
    """
    from airflow.sdk.exceptions import DagRunTriggerException

    return DagRunTriggerException(
        trigger_dag_id=dag_id,
        dag_run_id=run_id,
        conf=conf,
        logical_date=None,
        reset_dag_run=wait,
        skip_when_already_exists=not wait,
        wait_for_completion=wait,
        allowed_states=["success"],
        failed_states=["failed"],
        poke_interval=1,
        deferrable=wait,
    )
