"""What each stage of an experiment takes, by formula, from the champion's past."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from understudy.lifecycle.history import history_of
from understudy.lifecycle.rehearse import champion_of, spec_of
from understudy.settings import Settings
from understudy.spec import Experiment

__all__ = ["plan"]


def plan(experiment: Experiment | Path | str) -> dict[str, Any]:
    """Return sample size and duration of every stage.

    Args:
        experiment: The spec, its file, or its name in the experiments folder.

    Returns:
        ``stages`` (`understudy.rehearsal.StagePlan`), ``history`` (where the numbers come from) and ``seconds`` in all.

    Raises:
        NoHistory: Nothing is known of the champion.
    """
    from understudy.rehearsal import plan_of

    settings = Settings.from_env()
    spec = spec_of(experiment, settings)
    history = history_of(spec, settings, champion=champion_of(settings, spec.model))
    stages = plan_of(spec, history)
    known = [stage.seconds for stage in stages if stage.seconds is not None]
    return {
        "experiment": spec.name,
        "history": dict(history.sources),
        "events_per_second": history.events_per_second,
        "stages": [stage.to_dict() for stage in stages],
        "seconds": sum(known) if len(known) == len(stages) else None,
    }
