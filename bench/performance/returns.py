"""The part of the report that tells how long rollbacks took, as distributions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from bench.performance.goals import Goal
from bench.performance.series import Return, Rollbacks

__all__ = ["HEAD", "SHOWN", "goals", "quantile", "rows"]

HEAD = """## Rollback

A run exposes a quarter of the units in two gateways of one model and is taken back to the version before. *Zero* is when the last
gateway was seen to expose nobody, asked every 5 ms; *verified* is when registry, gateways and the recorded probe were read back.
The engine is called in a process that is there already, as the guard, the console and the webhook call it. The command begins
with the start of its own process. Figures are nearest ranks. By the DAG a rollback takes what Airflow needs to start its task
besides; the demo prints that, and it is not measured here because it would measure Airflow's scheduler.
"""
SHOWN = (0.5, 0.95, 0.99, 1.0)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least this share of the values does not exceed (nearest rank)."""
    return sorted(values)[max(1, math.ceil(share * len(values))) - 1]


def goals(found: Rollbacks) -> list[Goal]:
    """Return the goals of the project with what was found."""
    zero = quantile([one.zero for one in _by(found, "engine")], 0.99)
    verified = quantile([one.verified for one in _by(found, "command")], 0.95)
    return [
        Goal("from the call to nobody exposed in any gateway, p99", "< 1 s", zero, zero < 1.0, "s"),
        Goal(
            "verified rollback by the command with its process, p95", "< 5 s", verified, verified < 5.0, "s"
        ),
    ]


def rows(found: Rollbacks) -> Iterator[tuple[str, ...]]:
    """Yield the lines of the table: what, how many, and the quantiles `SHOWN` in seconds."""
    for by in ("engine", "command"):
        mine = _by(found, by)
        for what in ("zero", "verified"):
            values = [getattr(one, what) for one in mine]
            yield f"{what}, by the {by}", str(len(values)), *(_seconds(values, share) for share in SHOWN)
    by_step: dict[str, list[float]] = {}
    for one in _by(found, "engine"):
        for step, seconds in one.steps.items():
            by_step.setdefault(step, []).append(seconds)
    by_step.pop("zero_exposure", None)
    for step, values in sorted(by_step.items(), key=lambda item: quantile(item[1], 0.5)):
        told = f"until {step} was done, by the engine"
        yield told, str(len(values)), *(_seconds(values, share) for share in SHOWN)


def _by(found: Rollbacks, by: str) -> list[Return]:
    return [one for one in found.returns if one.by == by]


def _seconds(values: Sequence[float], share: float) -> str:
    return f"{quantile(values, share):.3f}"
