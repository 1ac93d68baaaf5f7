"""Look at running cells again and again, and remember when each kind of alarm first went off."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from bench.calibration.distributions import Array
from understudy.stats.cells import Cells, IntervalTable, interval_table
from understudy.stats.ratio import ArmMoments
from understudy.stats.sequences import multiplier

__all__ = ["Alarms", "judged", "t_test", "welch_error"]

_DF = np.geomspace(0.5, 1e7, 4000)


class Alarms:
    """First time of each kind of alarm, per simulated run."""

    def __init__(self, runs: int) -> None:
        self.runs = runs
        self.first: dict[str, Array] = {}

    def note(self, kind: str, rings: NDArray[np.bool_], now: float | Array) -> None:
        """Remember a look; ``now`` is the time, the same for all runs or one per run."""
        first = self.first.setdefault(kind, np.full(self.runs, np.inf))
        fresh = rings & np.isinf(first)
        first[fresh] = np.broadcast_to(np.asarray(now, dtype=float), self.runs)[fresh]

    def counts(self) -> dict[str, int]:
        """Return the number of runs with an alarm, by kind."""
        return {kind: int(np.isfinite(first).sum()) for kind, first in self.first.items()}

    def stops(self) -> dict[str, tuple[float, ...]]:
        """Return the times."""
        return {kind: tuple(first.tolist()) for kind, first in self.first.items()}


def judged(cells: Cells, alpha: float, n_star: float) -> tuple[IntervalTable, dict[str, NDArray[np.bool_]]]:
    """Return the product's table of one look, and its alarms per cell.

    "harm" and "gain" are the two one-sided bounds, each at alpha; "two" is the two-sided sequence.
    """
    table = interval_table(cells, alpha, n_star, "one")
    with np.errstate(invalid="ignore"):
        wide = table.se * multiplier(table.clock, alpha, n_star, "two", table.df)
        return table, {
            "harm": table.determined & (table.lower > 0),
            "gain": table.determined & (table.upper < 0),
            "two": table.determined & ~table.never_happened & (np.abs(table.estimate) > wide),
        }


def t_test(table: IntervalTable, alpha: float) -> NDArray[np.bool_]:
    """Return what an ordinary two-sided t test says; the contrast, not the product."""
    with np.errstate(invalid="ignore"):
        return np.abs(table.estimate) > table.se * np.interp(
            np.nan_to_num(table.df, nan=0.5), _DF, _quantiles(alpha)
        )


@functools.cache
def _quantiles(alpha: float) -> Array:
    return np.asarray(-stdtrit(_DF, alpha / 2))


def welch_error(cells: Cells) -> Array:
    """Return the standard error that does not care how unequal the arms are; the contrast, not the product."""
    return np.sqrt(_welch(cells.control) + _welch(cells.challenger))


def _welch(arm: ArmMoments) -> Array:
    n = arm.units[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        return n / (n - 1) * arm.rr[..., 0, 0] / arm.sum_d[..., 0] ** 2
