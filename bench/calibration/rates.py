"""Rates with their exact intervals, and what may be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, betaincinv

__all__ = ["Rate", "median_interval", "most_alarms", "summary"]

_TAIL = 0.025


@dataclass(frozen=True)
class Rate:
    """A share of simulated runs.

    Attributes:
        count: runs in which it happened.
        runs: all runs.
    """

    count: int
    runs: int

    @property
    def point(self) -> float:
        """The share itself."""
        return self.count / self.runs

    @property
    def low(self) -> float:
        """Lower end of the exact 95 % interval (Clopper and Pearson 1934, Biometrika 26:404)."""
        return float(betaincinv(self.count, self.runs - self.count + 1, _TAIL)) if self.count else 0.0

    @property
    def high(self) -> float:
        """Upper end of the exact 95 % interval."""
        failed = self.runs - self.count
        return float(betaincinv(self.count + 1, failed, 1 - _TAIL)) if failed else 1.0

    def verdict(self, alpha: float) -> str:
        """Say whether false alarms stay at or below ``alpha``.

        "holds": the whole interval does. "open": the share does and the interval does not, so that more runs are
        needed to tell. "FAILS": the share does not, whatever the interval.
        """
        if self.point > alpha:
            return "FAILS"
        return "holds" if self.high <= alpha else "open"


def most_alarms(runs: int, alpha: float, surprise: float) -> int:
    """Return the number of alarms that a true rate of ``alpha`` exceeds with probability at most ``surprise``."""
    counts = np.arange(runs + 1)
    return int(counts[bdtr(counts, runs, alpha) >= 1 - surprise][0])


def median_interval(stops: Sequence[float]) -> tuple[float, float, float]:
    """Return median, and its lower and upper 95 % bound by order statistics; infinity where it was never found."""
    ordered = np.sort(np.asarray(stops, dtype=float))
    n = ordered.size
    low = max(int(np.flatnonzero(bdtr(np.arange(n), n, 0.5) > _TAIL)[0]) - 1, 0)
    middle = ordered[(n - 1) // 2], ordered[n // 2]
    median = middle[0] if middle[0] == middle[1] else (middle[0] + middle[1]) / 2
    return float(median), float(ordered[low]), float(ordered[n - 1 - low])


def summary(stops: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float | None]]:
    """Return median with interval and mean of each kind of stop; None for infinity, the mean over what was found."""
    found = {}
    for kind, values in stops.items():
        median, low, high = (value if np.isfinite(value) else None for value in median_interval(values))
        known = [value for value in values if np.isfinite(value)]
        mean = float(np.mean(known)) if known else None
        found[kind] = {"median": median, "low": low, "high": high, "mean": mean}
    return found
