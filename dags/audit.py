"""The DAG `audit`: looks for what nobody has noticed, and fails where somebody must act."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from understudy.orchestration.audit_task import AuditOperator
from understudy.orchestration.retries import task_defaults

with DAG(
    dag_id="audit",
    description="Stale flags, lapsed leases, the ledger, rollback points, runs past their end, overrides, drills.",
    schedule=timedelta(days=1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=task_defaults("understudy"),
    tags=["understudy", "audit"],
    doc_md="""
# audit

Once a day: is the flag document what the store says, has a lease run out under a run that is on, is the ledger whole, does
every live rollback point verify, has a run outlasted its stage, does a rollback wait, are drills fresh, and who overrode what.

The task's log has each finding with the page of `docs/runbooks` that goes with it, and its return value has them as a list.
Findings of severity error fail the task. Nothing is changed. `understudy audit` shows the same as a table.
""",
):
    AuditOperator(task_id="audit", queue="evaluation", execution_timeout=timedelta(hours=1))
