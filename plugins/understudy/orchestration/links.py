"""Buttons on the task page that lead to what a task wrote elsewhere."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperatorLink

__all__ = ["MlflowRunLink", "RollbackRunLink"]


class MlflowRunLink(BaseOperatorLink):
    """The MLflow run of the step.

    Airflow asks for the link once, in the process that ran the task, and keeps the answer as an XCom. The operator
    therefore remembers the address itself, and neither the API server nor the browser has to ask MLflow.
    """

    name = "MLflow run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the MLflow run, or an empty text if the step wrote none."""
        return operator.mlflow_url or ""


class RollbackRunLink(BaseOperatorLink):
    """The run of the ``rollback`` DAG that a failed experiment started."""

    name = "Rollback run"

    def get_link(self, operator: Any, *, ti_key: Any) -> str:
        """Return the address of the rollback's page, or an empty text if none was needed."""
        from airflow.utils.helpers import build_airflow_dagrun_url

        if not operator.rollback_run_id:
            return ""
        return build_airflow_dagrun_url(dag_id=operator.rollback_dag_id, run_id=operator.rollback_run_id)
