"""How many units, and what can be seen: planning before anybody is exposed.

For a mean, a proportion or a ratio alike: ``sd`` is the standard deviation of one unit's (linearised) value and the
variance of the difference among N arriving units is ``sd^2 (1 / s0 + 1 / s1) / N`` with the exposure shares s0, s1.
A test at alpha finds a distance with the wanted power when ``N = factor (z_alpha + z_power)^2 (...) / distance^2``.

The distance is the effect hoped for (superiority), or margin minus the harm that is really there (non-inferiority).

A confidence sequence may be looked at all the time and pays for it with more units. `sequential_factor` computes how
many times more by recursive integration. The median run stops at 0.95 of the fixed size all the same.

Spotify's split of beta: Schultzberg, Ankargren, Franberg (2024), arXiv 2402.11609.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from understudy.stats.group_sequential import crossing
from understudy.stats.plain import plain_fields
from understudy.stats.sequences import Sided, multiplier

__all__ = [
    "SampleSize",
    "detectable_effect",
    "metric_power",
    "sample_size",
    "sequential_factor",
]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class SampleSize:
    """Units needed; arrays of the common shape of what was asked, NaN where no number of units would do.

    Attributes:
        total: arriving units, exposed or not, rounded up.
        control: control units among them, rounded up.
        challenger: challenger units among them, rounded up.
        factor: what sequential looks cost, 1 for one look at the end.
        determined: False where an input makes a plan impossible (no spread, no distance, no exposure).
    """

    total: Array
    control: Array
    challenger: Array
    factor: float
    determined: NDArray[np.bool_]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; undetermined numbers are null."""
        return plain_fields(self)


def sample_size(
    sd: ArrayLike,
    distance: ArrayLike,
    alpha: float,
    power: float,
    *,
    shares: tuple[ArrayLike, ArrayLike] = (0.5, 0.5),
    sided: Sided = "one",
    factor: float = 1.0,
) -> SampleSize:
    """Return the units that a test needs to find a distance.

    Args:
        sd: standard deviation of a unit's linearised value.
        distance: effect, or margin minus true harm; only its size counts.
        alpha: error budget of the test.
        power: probability of finding the distance, see `metric_power` for several metrics.
        shares: exposure shares of (control, challenger) among arriving units; together at most 1.
        sided: "one" or "two".
        factor: price of sequential looks, from `sequential_factor`.

    Raises:
        ValueError: alpha or power outside (0, 1), power not above alpha, factor below 1, or shares that add up to more
            than 1.
    """
    need = _need(alpha, power, sided, factor)
    control, challenger = _shares(shares)
    spread = _spread(sd, control, challenger)
    gap = np.abs(np.asarray(distance, dtype=float))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        exact = need**2 * spread / gap**2
    good = np.isfinite(exact) & (gap > 0) & (spread > 0)
    total = np.where(good, _rounded_up(exact), np.nan)
    # Below two units in an arm there is no variance to test with.
    zero, one = (
        np.maximum(np.where(good, _rounded_up(np.where(good, exact, 1.0) * s), np.nan), 2.0)
        for s in (control, challenger)
    )
    return SampleSize(np.maximum(total, zero + one), zero, one, factor, good)


def detectable_effect(
    sd: ArrayLike,
    total: ArrayLike,
    alpha: float,
    power: float,
    *,
    shares: tuple[ArrayLike, ArrayLike] = (0.5, 0.5),
    sided: Sided = "one",
    factor: float = 1.0,
) -> Array:
    """Return the smallest distance found with the wanted power among ``total`` arriving units; NaN if undetermined.

    The inverse of `sample_size`, with the same arguments and errors.
    """
    need = _need(alpha, power, sided, factor)
    control, challenger = _shares(shares)
    spread, n = _spread(sd, control, challenger), np.asarray(total, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = need * np.sqrt(spread / n)
    enough = (n * np.minimum(control, challenger) >= 2) & np.isfinite(n)
    return np.where(enough & np.isfinite(found) & (spread > 0), found, np.nan)


@lru_cache(maxsize=256)
def sequential_factor(alpha: float, power: float, sided: Sided = "one", looks: int = 100) -> float:
    """Return how many times the fixed sample a confidence sequence needs for the same power.

    Computed for a normal metric, a sequence tuned for half of the planned total, and equally spaced looks. More looks
    need a little less (there are more chances), so that 100 looks err on the safe side by 2 to 3 percent.

    Raises:
        ValueError: alpha or power outside (0, 1) (alpha one-sided (0, 0.5)), power not above alpha, or no look at all.
    """
    need = _need(alpha, power, sided, 1.0)
    if looks < 1:
        raise ValueError(f"looks is {looks!r}; there must be at least one")
    share = np.arange(1, looks + 1) / looks
    upper = multiplier(share, alpha, 0.5, sided)
    lower = None if sided == "two" else np.full(looks, -np.inf)
    low = high = 1.0
    while crossing(share, upper, lower, need * math.sqrt(high)).total < power:
        low, high = high, 2 * high
    for _ in range(12):
        middle = (low + high) / 2
        found = crossing(share, upper, lower, need * math.sqrt(middle)).total
        low, high = (middle, high) if found < power else (low, middle)
    return high


def metric_power(beta: float, guardrails: int) -> float:
    """Return the power each test needs so that all of them together keep ``1 - beta``: ``1 - beta / (G + 1)``.

    Raises:
        ValueError: beta outside (0, 1), or a negative number of guardrails.
    """
    if not 0 < beta < 1 or guardrails < 0:
        raise ValueError(f"beta is {beta!r}, guardrails {guardrails!r}; beta in (0, 1) and no negative count")
    return 1 - beta / (guardrails + 1)


def _need(alpha: float, power: float, sided: Sided, factor: float) -> float:
    if not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError(f"alpha is {alpha!r} and power {power!r}; both must lie between 0 and 1")
    if not (math.isfinite(factor) and factor >= 1):
        raise ValueError(f"factor is {factor!r}; looking more often never needs fewer units, so at least 1")
    need = float(ndtri(power) - ndtri(alpha if sided == "one" else alpha / 2))
    if need <= 0:
        raise ValueError(
            f"power {power!r} does not exceed alpha {alpha!r}; such a test needs no units at all"
        )
    return need * math.sqrt(factor)


def _shares(shares: tuple[ArrayLike, ArrayLike]) -> tuple[Array, Array]:
    control, challenger = (np.asarray(s, dtype=float) for s in shares)
    if (control < 0).any() or (challenger < 0).any() or (control + challenger > 1 + 1e-9).any():
        raise ValueError(f"shares {shares} must not be negative, nor add up to more than 1")
    return control, challenger


def _spread(sd: ArrayLike, control: Array, challenger: Array) -> Array:
    """Return the variance of the difference times the number of arriving units; NaN where it makes no sense."""
    spread = np.asarray(sd, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = spread**2 / control + spread**2 / challenger
    return np.where((spread >= 0) & np.isfinite(found), found, np.nan)


def _rounded_up(units: Array) -> Array:
    return np.ceil(units * (1 - 1e-12))
