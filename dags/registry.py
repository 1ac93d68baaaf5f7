"""The registry door: a challenger set in MLflow's registry starts its experiments.

watch (triggerer) → asset understudy-registry → DAG registry_intake
                  → asset understudy-challengers, one partition per model:version → DAG registry_start
                  → one run of each experiment of that model
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Asset, AssetWatcher, PartitionedAssetTimetable, task

from understudy.orchestration.intake import accept, announce, plan_starts
from understudy.orchestration.operators import StartRunOperator
from understudy.orchestration.retries import task_defaults
from understudy.orchestration.triggers import RegistryTrigger

registry = Asset(
    "understudy-registry",
    uri="x-understudy://registry",
    watchers=[AssetWatcher(name="registry_watch", trigger=RegistryTrigger())],
)
challengers = Asset("understudy-challengers", uri="x-understudy://challengers")

with DAG(
    dag_id="registry_intake",
    description="Reads the registry and announces each version that is to be tried.",
    schedule=[registry],
    max_active_runs=1,
    is_paused_upon_creation=False,
    default_args=task_defaults("understudy"),
    tags=["understudy", "registry"],
    doc_md=__doc__,
):

    @task(task_id="announce", outlets=[challengers])
    def announce_task(*, outlet_events: Any = None) -> dict[str, str]:
        return announce(outlet_events[challengers])

    @task(task_id="accept")
    def accept_task(announced: dict[str, str]) -> None:
        accept(announced)

    # Two tasks on purpose: Airflow commits the announcement when the first succeeds, and only then it may be accepted.
    accept_task(announce_task())

with DAG(
    dag_id="registry_start",
    description="Starts the experiments of one announced version.",
    schedule=PartitionedAssetTimetable(assets=challengers),
    is_paused_upon_creation=False,
    default_args=task_defaults("understudy"),
    tags=["understudy", "registry"],
    doc_md=__doc__,
):

    @task(task_id="plan")
    def plan_task(
        *, partition_key: str | None = None, triggering_asset_events: Any = None
    ) -> list[dict[str, Any]]:
        return plan_starts(str(partition_key), list(triggering_asset_events[challengers]))

    # The DAG of a new experiment file may be a minute behind the file, and of a broken one until it is mended.
    StartRunOperator.partial(
        task_id="start",
        map_index_template="{{ task.dag_to_start }}",
        retries=40,
        retry_delay=timedelta(seconds=15),
    ).expand_kwargs(plan_task())
