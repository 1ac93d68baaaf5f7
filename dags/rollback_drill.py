"""The DAG `rollback_drill`: practises the way back of every model, on sandboxes."""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from understudy.orchestration.describe import drill_parameters
from understudy.orchestration.drill_task import DrilledModelsOperator, DrillOperator
from understudy.orchestration.retries import task_defaults

with DAG(
    dag_id="rollback_drill",
    description="Plants faults in sandbox copies of every model and measures what catches them and how fast all is back.",
    schedule=timedelta(weeks=1),
    catchup=False,
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=task_defaults("understudy"),
    params=drill_parameters(),
    tags=["understudy", "rollback", "drill"],
    doc_md="""
# rollback_drill

Once a week, for every model that has an experiment and a champion: a sandbox with its own MLflow, store and gateway gets a copy
of the champion, faults are planted in it, and the real steps of a run and the real rollback are timed. Nothing of production is
touched but the record of what was found.

A scenario that nothing catches fails the task, and a model whose drills are too old or have failed is not exposed above the share
that its spec names under `drill`. Started by hand it plays what the form asks for. `understudy drill MODEL` does the same from a
shell.
""",
):
    models = DrilledModelsOperator(task_id="models")
    DrillOperator.partial(
        task_id="drill",
        queue="evaluation",
        retries=0,
        max_active_tis_per_dagrun=1,
        execution_timeout=timedelta(hours=2),
    ).expand(model=models.output)
