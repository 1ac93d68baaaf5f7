"""The DAG `event_log`: turns what gateways have logged into Parquet partitions, and removes what is old enough."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from understudy.orchestration.event_log_task import KeepEventsOperator
from understudy.orchestration.retries import task_defaults

with DAG(
    dag_id="event_log",
    description="Compacts the event log of every model and removes what is older than its retention.",
    schedule=timedelta(minutes=30),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=task_defaults("understudy"),
    tags=["understudy", "events"],
    doc_md="""
# event_log

Every half hour, for every model that has events:

- Segments that nobody has written for ten minutes become Parquet partitions, without columns that are private by now.
- Where `UNDERSTUDY_RETENTION_DAYS` is set, files whose newest event is older are removed, but nothing that a run needs
  which is on.

The task's log says in one sentence per model what was done and what was left, and why. A second run beside this one, an import
or `understudy events compact` does no harm: one at a time changes a model's files, and the others leave them as they are.
""",
):
    KeepEventsOperator(task_id="keep", queue="evaluation", execution_timeout=timedelta(hours=2))
