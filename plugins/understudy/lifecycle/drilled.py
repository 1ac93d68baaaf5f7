"""Whether the way back of a model has been practised well enough to expose many of its units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import NotDrilled
from understudy.spec import Drill, Experiment
from understudy.store import drills
from understudy.store.drills import Drilled

__all__ = ["judge", "readiness", "require"]

_EVERYBODY = 100.0


def readiness(connection: Connection, model: str, asked: Drill, now: float) -> dict[str, Any]:
    """Return how far the demanded drills of a model have passed.

    Args:
        connection: Any transaction.
        model: Registered model name.
        asked: What its spec demands.
        now: Unix seconds.

    Returns:
        What `judge` returns.
    """
    return judge(drills.newest(connection, model), asked, now)


def judge(found: Mapping[str, Drilled], asked: Drill, now: float) -> dict[str, Any]:
    """Say which of the demanded scenarios count. Pure.

    Args:
        found: The newest result of each scenario, by its name.
        asked: What is demanded.
        now: Unix seconds.

    Returns:
        ``ready``, ``above``, ``max_age``, ``last`` (when the oldest result that counts was found; None without any),
        ``sentence``, and the names in ``passed``, ``failed``, ``stale`` and ``missing``.
    """
    names = [scenario.value for scenario in asked.demanded]
    missing = [name for name in names if name not in found]
    failed = [name for name in names if name in found and not found[name].passed]
    sound = [name for name in names if name in found and found[name].passed]
    stale = [name for name in sound if now - found[name].at > asked.max_age]
    passed = [name for name in sound if name not in stale]
    return {
        "ready": len(passed) == len(names) or asked.above >= _EVERYBODY,
        "above": asked.above,
        "max_age": asked.max_age,
        "last": min((found[name].at for name in passed), default=None),
        "sentence": (
            "The spec demands none."
            if asked.above >= _EVERYBODY
            else _sentence(len(names), passed, failed, stale, missing)
        ),
        "passed": passed,
        "failed": failed,
        "stale": stale,
        "missing": missing,
    }


def _sentence(count: int, passed: list[str], failed: list[str], stale: list[str], missing: list[str]) -> str:
    if len(passed) == count:
        return f"All {count} scenarios have passed."
    if len(missing) == count:
        return f"None of {count} scenarios was ever played."
    told = {"failed": failed, "too old": stale, "never played": missing}
    parts = [f"{what}: {', '.join(names)}" for what, names in told.items() if names]
    return f"{len(passed)} of {count} scenarios have passed lately; {'; '.join(parts)}."


def require(connection: Connection, experiment: Experiment, now: float, stage: int | None = None) -> None:
    """Refuse to expose many units of a model whose way back was not practised.

    Args:
        connection: Any transaction.
        experiment: The frozen spec.
        now: Unix seconds.
        stage: The stage to be entered, from 1; None means the whole ladder.

    Raises:
        NotDrilled: The demanded drills have not all passed lately; the message has the command to run.
    """
    asked = experiment.drill
    stages = experiment.stages if stage is None else experiment.stages[stage - 1 : stage]
    percent = max(one.percent for one in stages)
    if percent <= asked.above:
        return
    found = readiness(connection, experiment.model, asked, now)
    if not found["ready"]:
        raise NotDrilled(
            f"{experiment.name} exposes {percent:g} % of units, and above {asked.above:g} % the way back of {experiment.model} "
            f"must have been practised within {_days(asked.max_age)}. {found['sentence']} Run "
            f"`understudy drill {experiment.model}`, then start again."
        )


def _days(seconds: float) -> str:
    return f"{seconds / 86400:g} days" if seconds >= 86400 else f"{seconds / 3600:g} hours"
