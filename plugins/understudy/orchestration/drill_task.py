"""The tasks of the DAG ``rollback_drill``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from airflow.sdk import BaseOperator

from understudy.errors import DrillFailed
from understudy.orchestration.actor import actor_of

__all__ = ["DrillOperator", "DrilledModelsOperator"]


class DrilledModelsOperator(BaseOperator):
    """Returns the models that are drilled: the one that was asked for, else those with an experiment and a champion."""

    def execute(self, context: Any) -> list[str]:
        """Ask the registry where no model was named; safe to repeat."""
        if chosen := context["params"].get("model"):
            return [str(chosen)]
        from understudy.drill.run import drilled_models
        from understudy.session import session

        found = drilled_models(session())
        self.log.info("Models: %s", ", ".join(found) or "none")
        return found


class DrillOperator(BaseOperator):
    """Drills one model and fails where a scenario did.

    Args:
        model: Registered model name.
    """

    template_fields: Sequence[str] = ("model",)

    def __init__(self, *, model: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model = model

    def execute(self, context: Any) -> dict[str, Any]:
        """Play the scenarios that were asked for, else those that the spec demands. A repeat is another drill.

        Raises:
            DrillFailed: A scenario was not caught, or not everything was back in time.
        """
        from understudy.drill.run import drill

        chosen = context["params"].get("scenarios") or ()
        found = drill(self.model, chosen, actor=actor_of(context["dag_run"]))
        for one in found["scenarios"]:
            self.log.info("%s", one["sentence"])
        if not found["passed"]:
            raise DrillFailed(
                f"The drill of {self.model} failed. {found['sentence']} Exposure above the share that the spec names is refused "
                "until it passes; see docs/runbooks/not-drilled.md."
            )
        return found
