"""The DAG `rollback`: takes a model back to an earlier version, now, without anybody's approval."""

from __future__ import annotations

from airflow.sdk import DAG

from understudy.orchestration.describe import rollback_parameters
from understudy.orchestration.retries import task_defaults
from understudy.orchestration.rollback_task import RestoreOperator

with DAG(
    dag_id="rollback",
    description="Exposure to zero, registry back to an earlier version, gateways verified, ledger written.",
    schedule=None,
    max_active_runs=16,
    is_paused_upon_creation=False,
    default_args=task_defaults("understudy"),
    params=rollback_parameters(),
    tags=["understudy", "rollback"],
    doc_md="""
# rollback

Takes one model back: exposure to zero first, then the registry's alias (and stage), then every gateway is asked what it
serves. Each step reads before it writes, so a rollback may be repeated, cleared or run twice at once.

- **Target version** empty: the version that was in production before the present one.
- **Dry run** only says what would be done.
- It takes precedence over a running experiment: that run cannot raise exposure again and ends as failed.
- With Airflow down use `understudy rollback MODEL --reason "…"`, which does the same.
""",
):
    RestoreOperator(task_id="restore")
