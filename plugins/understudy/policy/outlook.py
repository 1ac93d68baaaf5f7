"""What would change a verdict: how many more events until a bound clears its limit, and when that would be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from understudy.policy.row_states import States
from understudy.policy.words import about, duration, number
from understudy.spec import Better
from understudy.stats.cells import Cells
from understudy.stats.sequences import multiplier

__all__ = ["Pace", "clear_text", "more_events", "pace"]

_FARTHEST = 1e6
"""An answer that needs so many times the present events is no answer."""


@dataclass(frozen=True)
class Pace:
    """How fast evidence comes in at this stage.

    Attributes:
        per_second: events of both arms a second, per metric; a metric that has none is missing.
        seconds_left: until the stage ends undecided; None if there is no stage.
    """

    per_second: dict[str, float]
    seconds_left: float | None


def pace(cells: Cells, stage: int, seconds: float, timeout: float) -> Pace:
    """Measure how fast each metric's events about everyone come in."""
    here = np.array([label == stage for label in cells.control.stages], dtype=bool)
    rates = {}
    for row, (metric, cohort) in enumerate(zip(cells.metrics, cells.cohorts, strict=True)):
        if cohort != "all" or not seconds > 0:
            continue
        events = sum(float(arm.clock[row, here].sum()) for arm in (cells.control, cells.challenger))
        if math.isfinite(events) and events > 0:
            rates[metric] = events / seconds
    return Pace(rates, timeout - seconds if math.isfinite(seconds) else None)


def more_events(found: States, index: int, limit: float) -> float | None:
    """Return how many more events bring the upper bound of a row to ``limit``, if the estimate stays as it is.

    The standard error falls with the root of the events and the multiplier of the sequence is the one at the later
    clock. None if no realistic number does: the estimate itself is not below the limit, or too close to it.
    """
    table = found.table
    estimate, upper, clock = (float(a[index]) for a in (table.estimate, table.upper, table.clock))
    if not (math.isfinite(upper) and clock > 0) or not estimate < limit:
        return None
    if upper <= limit:
        return 0.0
    if table.never_happened[index]:
        return None if limit >= 1 else clock * (math.log1p(-upper) / math.log1p(-limit) - 1)
    if table.constant[index]:
        return None
    share = 2 if found.rows.metrics[index].better is Better.SAME else 1
    alpha = float(found.rows.alpha[index]) / share
    df = float(table.df[index])
    degrees = df if math.isfinite(df) and df > 0 else math.inf
    now = float(multiplier(clock, alpha, table.n_star, "one", degrees))
    times = np.geomspace(1.0, _FARTHEST, 600)
    later = multiplier(clock * times, alpha, table.n_star, "one", degrees * times)
    reached = np.flatnonzero(estimate + (upper - estimate) * later / now / np.sqrt(times) <= limit)
    return None if not reached.size else clock * (float(times[reached[0]]) - 1)


def clear_text(found: States, index: int, limit: float, speed: Pace | None, beyond: str, near: str) -> str:
    """Say what would bring the upper bound of a row below ``limit``.

    Args:
        found: The rows.
        index: Which one.
        limit: What the bound has to clear.
        speed: How fast evidence comes in, if anybody waits for it.
        beyond: What an estimate is that lies past the limit, like "beyond the tolerated 0.02".
        near: What it is too close to otherwise.
    """
    needed = more_events(found, index, limit)
    if needed is None:
        estimate = float(found.table.estimate[index])
        if not estimate < limit:
            return (
                f"More of the same will not do: the estimate itself ({number(estimate)}) is {beyond}. "
                "Only later events that look better would."
            )
        return f"No realistic number of events: the estimate is too close to {near}."
    text = f"About {about(needed)} more events like these"
    rate = speed.per_second.get(found.rows.metrics[index].name) if speed else None
    if not rate:
        return f"{text}."
    wait = needed / rate
    text += f"; at this rate in about {duration(wait)}"
    if speed and speed.seconds_left is not None and wait > max(speed.seconds_left, 0.0):
        return f"{text}, but the stage ends before that."
    return f"{text}."
