"""Which experiment files become DAGs, and which are broken."""

from __future__ import annotations

from airflow.sdk import get_parsing_context

from understudy.errors import SpecInvalid
from understudy.settings import Settings
from understudy.spec import Experiment, find, validate_folder

__all__ = ["DAG_PREFIX", "broken_experiments", "dag_id_of", "experiments_to_build", "known_models"]

DAG_PREFIX = "experiment__"


def dag_id_of(experiment: str) -> str:
    """Return the id of the DAG that runs an experiment."""
    return f"{DAG_PREFIX}{experiment}"


def experiments_to_build() -> list[Experiment]:
    """Return the experiments whose DAGs this process needs.

    The DAG processor needs all valid ones. A process that runs one task gets exactly its own, so that a folder with a
    thousand experiments costs a task no more than a folder with one.

    Raises:
        NoSuchExperiment: The experiment of the task being run has been removed.
        SpecInvalid: The file of the task being run has been broken; its log then says where.
    """
    folder = Settings.from_env().experiments
    wanted = get_parsing_context().dag_id
    if wanted is None:
        experiments, _ = validate_folder(folder)
        return experiments
    if not wanted.startswith(DAG_PREFIX):
        return []
    return [find(folder, wanted.removeprefix(DAG_PREFIX))]


def broken_experiments() -> list[SpecInvalid]:
    """Return what is wrong with each experiment file that cannot become a DAG; empty in a process that runs a task."""
    if get_parsing_context().dag_id is not None:
        return []
    _, problems = validate_folder(Settings.from_env().experiments)
    return list(problems.values())


def known_models() -> list[str]:
    """Return the models of all valid experiments; empty in a process that runs a task, which has no form to fill."""
    if get_parsing_context().dag_id is not None:
        return []
    experiments, _ = validate_folder(Settings.from_env().experiments)
    return sorted({experiment.model for experiment in experiments})
