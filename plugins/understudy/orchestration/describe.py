"""What people read and fill in: the arguments, parameters and page of an experiment's DAG."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Param

from understudy.orchestration.catalog import dag_id_of, known_models
from understudy.orchestration.retries import task_defaults
from understudy.spec import Experiment, Metric, Scenario, Stage, Trial

__all__ = [
    "drill_parameters",
    "experiment_dag_arguments",
    "experiment_page",
    "rollback_parameters",
    "stage_label",
]

VERSION_PATTERN = "^[1-9][0-9]*$"

_GOOD_TO_KNOW = """## Good to know
- Marking or clearing a waiting `guard` ends the exposure: nobody would be watching.
- A run that is rolled back ends as failed. `roll_back` is skipped when there was nothing to restore.
- A second run for a busy model is refused by `preregister`."""


def experiment_dag_arguments(experiment: Experiment) -> dict[str, Any]:
    """Return the arguments of the DAG of one experiment.

    Runs may overlap as far as Airflow is concerned: a second run for a model that is busy must be refused by the
    model's lock, with a message, instead of waiting in a queue until nobody remembers it.
    """
    return {
        "dag_id": dag_id_of(experiment.name),
        "dag_display_name": f"experiment: {experiment.name}",
        "description": experiment.description.strip().splitlines()[0],
        "schedule": experiment.schedule,
        "catchup": False,
        "max_active_runs": 4,
        "is_paused_upon_creation": False,
        "default_args": task_defaults(experiment.owner),
        "params": _start_parameters(experiment),
        "doc_md": experiment_page(experiment),
        "tags": ["understudy", "experiment", f"model:{experiment.model}", *experiment.tags],
    }


def _start_parameters(experiment: Experiment) -> dict[str, Param]:
    return {
        "version": Param(
            None,
            type=["null", "string"],
            pattern=VERSION_PATTERN,
            title="Challenger version",
            description_md=f"Version of `{experiment.model}` to try, such as `2`. "
            "Empty: the version that carries the alias `challenger`.",
        ),
        "reason": Param(
            None,
            type=["null", "string"],
            maxLength=500,
            title="Reason",
            description_md="Why now? It is kept in the ledger beside your name.",
        ),
    }


def rollback_parameters() -> dict[str, Param]:
    """Return the form of the ``rollback`` DAG.

    Known models are offered, not enforced: when an experiment file is broken its model must still be recoverable.
    """
    return {
        "model": Param(
            type="string",
            minLength=1,
            examples=known_models(),
            title="Model",
            description_md="Registered model to roll back.",
        ),
        "reason": Param(
            type="string",
            minLength=5,
            maxLength=500,
            title="Reason",
            description_md="What went wrong? It is kept in the ledger beside your name.",
        ),
        "target_version": Param(
            None,
            type=["null", "string"],
            pattern=VERSION_PATTERN,
            title="Target version",
            description_md="Version to return to. Empty: the one that was in production before.",
        ),
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description_md="Only say what would be done.",
        ),
    }


def drill_parameters() -> dict[str, Param]:
    """Return the form of the ``rollback_drill`` DAG."""
    return {
        "model": Param(
            None,
            type=["null", "string"],
            examples=known_models(),
            title="Model",
            description_md="Registered model to drill. Empty: every model that has an experiment and a champion.",
        ),
        "scenarios": Param(
            None,
            type=["null", "array"],
            items={"type": "string", "enum": [scenario.value for scenario in Scenario]},
            examples=[scenario.value for scenario in Scenario],
            title="Scenarios",
            description_md="Empty: those that the model's experiment demands.",
        ),
    }


def experiment_page(experiment: Experiment) -> str:
    """Return the documentation page of an experiment as Markdown."""
    parts = [
        f"# {experiment.name}",
        experiment.description.strip(),
        _facts(experiment),
        f"## Hypothesis\n{experiment.hypothesis.strip()}",
        "## Metrics",
        _table(("metric", "kind", "role", "largest tolerated harm"), map(_metric_row, experiment.metrics)),
        "## Exposure",
        _table(("stage", "share", "soak", "units per arm", "ends after"), _stage_rows(experiment)),
        _watch(experiment),
        "## Data checks\n"
        + "\n".join(f"- `{check.suite}` on {check.dataset}" for check in experiment.checks),
        _trial(experiment.trial),
        _GOOD_TO_KNOW,
    ]
    return "\n\n".join(filter(None, parts))


def _facts(experiment: Experiment) -> str:
    facts = {
        "Model": f"`{experiment.model}`",
        "owner": experiment.owner,
        "schedule": f"`{experiment.schedule}`" if experiment.schedule else "none",
        "starts on": f"{' or '.join(experiment.registry.start_on) or 'nothing'} in the registry",
    }
    return " · ".join(f"**{name}** {value}" for name, value in facts.items())


def _watch(experiment: Experiment) -> str:
    return (
        f"Units are values of `{experiment.traffic.unit}`; the control is as large as the challenger's share. "
        f"The evidence is looked at every {_duration(experiment.look_every)}; exposure lapses "
        f"{_duration(experiment.lease)} after the last look that found it sound."
    )


def _trial(trial: Trial) -> str:
    """Return what the challenger must show on a gateway of its own; empty where nothing is asked for."""
    lines = []
    if trial.critical_path is not None:
        path = trial.critical_path
        lines.append(
            f"- `critical_path`: every case of `{path.file}` goes as it says"
            if path.file
            else f"- `critical_path`: each of the newest {path.requests} requests of the log gets a finite number"
        )
    if trial.spike is not None:
        lines.append(
            f"- `spike`: {trial.spike.times:g} times the busiest minute for {_duration(trial.spike.seconds)}, "
            f"at most {trial.spike.max_error_rate:g} of it unanswered, 99 % within {_duration(trial.spike.max_p99)}"
        )
    return "\n".join(["## Trial of the challenger", *lines]) if lines else ""


def stage_label(stage: Stage) -> str:
    """Return what a stage means in a few words, for the tooltip of its group."""
    return f"{stage.shown} for at least {_duration(stage.soak)}"


def _metric_row(metric: Metric) -> tuple[str, ...]:
    limit = f", over {metric.limit_ms:g} ms" if metric.limit_ms else ""
    return (
        metric.name,
        f"{metric.kind.value}{limit}",
        metric.role.value,
        f"{metric.margin:g}" if metric.margin else "",
    )


def _stage_rows(experiment: Experiment) -> list[tuple[str, ...]]:
    return [
        (
            str(number),
            stage.shown,
            _duration(stage.soak),
            str(stage.min_units),
            _duration(stage.timeout),
        )
        for number, stage in enumerate(experiment.stages, 1)
    ]


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length and seconds % length == 0:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:g} s"
