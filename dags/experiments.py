"""One Airflow DAG per experiment file: the passage of one challenger version through its lifecycle.

A file that breaks a rule is left out here and reported by ``broken_experiments.py``.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, TaskGroup, chain

from understudy.orchestration.catalog import experiments_to_build
from understudy.orchestration.describe import experiment_dag_arguments, stage_label
from understudy.orchestration.operators import (
    START_KEY,
    GuardOperator,
    LifecycleOperator,
    PreregisterOperator,
    RollBackOperator,
)
from understudy.spec import Experiment, Stage


def lifecycle(experiment: Experiment) -> None:
    """From the frozen plan to promotion; whatever fails on the way, nobody stays exposed."""
    with DAG(**experiment_dag_arguments(experiment)):
        preregister = PreregisterOperator(
            task_id="preregister", experiment=experiment.name, queue="evaluation"
        )
        check_data = LifecycleOperator(step="check_data")
        evaluate = LifecycleOperator(
            step="evaluate", queue="evaluation", execution_timeout=timedelta(hours=2)
        )
        shadow = LifecycleOperator(step="shadow", queue="evaluation", execution_timeout=timedelta(hours=2))
        trials = [
            LifecycleOperator(step=step, queue="evaluation", execution_timeout=timedelta(hours=2))
            for step in experiment.trial.steps
        ]
        stages = [exposure(number, stage, experiment) for number, stage in enumerate(experiment.stages, 1)]
        compare = LifecycleOperator(step="compare", queue="evaluation")
        promote = LifecycleOperator(step="promote")

        # Teardowns run whatever happened, even after a person marked the whole run as failed, and do not count towards
        # its state: a run whose `promote` did not succeed ends as failed. They have no setup on purpose, because the
        # failure of a setup would keep its teardowns from running.
        roll_back = RollBackOperator(task_id="roll_back", unless_succeeded="promote").as_teardown()
        report = LifecycleOperator(step="report", run_id=START_KEY).as_teardown()
        chain(
            preregister, check_data, evaluate, shadow, *trials, *stages, compare, promote, roll_back, report
        )


def exposure(number: int, stage: Stage, experiment: Experiment) -> TaskGroup:
    """One step of the ladder: expose the units, then watch them until the evidence has decided."""
    with TaskGroup(f"stage_{number}", tooltip=stage_label(stage)) as group:
        raise_exposure = LifecycleOperator(step="raise_exposure", arguments={"stage": number})
        guard = GuardOperator(
            task_id="guard",
            stage=number,
            look_every=experiment.look_every,
            give_up_after=stage.timeout + 10 * experiment.look_every + 60,
        )
        raise_exposure >> guard
    return group


for declared in experiments_to_build():
    lifecycle(declared)
