"""The task of the ``rollback`` DAG."""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseOperator

from understudy.orchestration.actor import actor_of, idempotency_key_of, traceparent_of
from understudy.orchestration.operators import refuse_unknown_parameters

__all__ = ["RestoreOperator"]


class RestoreOperator(BaseOperator):
    """Takes a model back to an earlier version and verifies it; returns what was done."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Run the rollback; safe to repeat, the run is its key."""
        from understudy import rollback, telemetry

        dag_run, params = context["dag_run"], context["params"]
        refuse_unknown_parameters(context)
        with telemetry.within(traceparent_of(dag_run)):
            result: dict[str, Any] = rollback.execute(
                model=params["model"],
                reason=params["reason"],
                actor=actor_of(dag_run),
                key=idempotency_key_of(dag_run),
                target_version=params["target_version"],
                dry_run=params["dry_run"],
            )
        self.log.info("%s", result)
        return result
