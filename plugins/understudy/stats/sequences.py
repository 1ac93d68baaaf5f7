"""Asymptotic confidence sequences: intervals that stay valid however often one looks.

Source: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas (2024), Annals of Statistics 52:2613, arXiv 2103.06476.
With ``q = n rho^2 + 1`` the half-widths are, in units of the standard error,

* two-sided  ``sqrt(2 q / (n rho^2) * ln(sqrt(q) / alpha))``
* one-sided  ``sqrt(2 q / (n rho^2) * ln(1 + sqrt(q) / (2 alpha)))``

``n`` is a clock. The sequence stays valid as long as the clock grows at least as fast (in ratio) as the
statistical information does; counting observations of units that repeat is therefore safe, counting the units
alone is not.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import lambertw, log_ndtr

__all__ = [
    "Interval",
    "Sided",
    "log_e_value",
    "log_e_values",
    "multiplier",
    "one_sided",
    "sequence",
    "tuning",
    "two_sided",
    "undetermined",
]

Sided = Literal["one", "two"]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds, or the reason why there are none.

    Attributes:
        estimate: point estimate; None if it could not be computed.
        se: standard error of the estimate; None if it could not be computed.
        lower: lower bound; None unless determined.
        upper: upper bound; None unless determined.
        n: value of the clock (observations of both arms).
        alpha: error budget of this interval (of each bound, when the interval is one-sided).
        determined: False means "the data cannot say"; such an interval must never pass anything.
        reason: stable word for why it is undetermined or how it was obtained; None for the ordinary case.
    """

    estimate: float | None
    se: float | None
    lower: float | None
    upper: float | None
    n: int
    alpha: float
    determined: bool
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary (no NaN, no infinity)."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Interval:
        """Rebuild what `to_dict` returned."""
        return cls(**data)


def tuning(alpha: float, n_star: float, sided: Sided = "two") -> float:
    """Return rho that makes the sequence tightest when the clock shows ``n_star``.

    Fix it before the first look; half the planned total is a good ``n_star``.

    Raises:
        ValueError: alpha outside (0, 1) (one-sided: (0, 0.5)), or n_star not a positive number.
    """
    limit = 0.5 if sided == "one" else 1.0
    if not 0 < alpha < limit:
        raise ValueError(f"alpha is {alpha!r}; a {sided}-sided sequence needs 0 < alpha < {limit}")
    if not (math.isfinite(n_star) and n_star > 0):
        raise ValueError(f"n_star is {n_star!r}; it must be a positive finite number")
    budget = 2 * alpha if sided == "one" else alpha
    argument = -(budget**2) / math.e
    if argument > -1e-300:  # beyond the reach of Lambert's W in doubles: the paper's own approximation
        return math.sqrt((-2 * math.log(budget) + math.log1p(-2 * math.log(budget))) / n_star)
    return math.sqrt((-lambertw(argument, -1).real - 1) / n_star)


def multiplier(
    n: ArrayLike, alpha: ArrayLike, n_star: float, sided: Sided = "two", df: ArrayLike = math.inf
) -> NDArray[np.float64]:
    """Half-width in standard errors, vectorised over ``n``, ``alpha`` and ``df``.

    ``df`` widens the bound while few clusters stand behind the standard error: the normal multiplier becomes
    the Student-t one of the same tail (Wallace 1959, Ann. Math. Stat. 30:1124). Infinity leaves the closed
    form as it is.
    """
    budget = np.asarray(alpha, dtype=float)
    information = np.asarray(n, dtype=float) * _tunings(budget, n_star, sided) ** 2
    q = information + 1
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        log_term = np.log(np.sqrt(q) / budget) if sided == "two" else np.log1p(np.sqrt(q) / (2 * budget))
        normal = np.sqrt(2 * q / information * log_term)
        return _student(normal, np.asarray(df, dtype=float))


def _tunings(alpha: NDArray[np.float64], n_star: float, sided: Sided) -> NDArray[np.float64]:
    """Return `tuning` of every budget; there are few different ones, and each is dear."""
    budgets, at = np.unique(alpha, return_inverse=True)
    rhos = np.array([tuning(float(budget), n_star, sided) for budget in budgets])
    return rhos[at].reshape(alpha.shape)


def _student(normal: NDArray[np.float64], df: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a normal multiplier into the Student-t one of about the same tail probability."""
    finite = np.where(np.isfinite(df), df, 1.0)
    stretched = normal * (8 * finite + 3) / (8 * finite + 1)
    student = np.sqrt(finite * np.expm1(stretched**2 / finite))
    return np.where(np.isposinf(df), normal, np.where(df > 0, student, np.inf))


def undetermined(
    reason: str, n: float, alpha: float, estimate: float | None = None, se: float | None = None
) -> Interval:
    """Return an interval that says nothing, with the reason."""
    count = int(n) if math.isfinite(n) else 0
    return Interval(_number(estimate), _number(se), None, None, count, alpha, False, reason)


def sequence(
    estimate: float, se: float, n: float, alpha: float, n_star: float, sided: Sided, df: float = math.inf
) -> Interval:
    """Return the interval at clock ``n``; undetermined rather than an error for unusable numbers.

    One-sided: each bound alone holds at level alpha over all looks (lower > 0 is a deterioration found with
    false-alarm rate at most alpha; upper <= margin is non-inferiority at alpha); both together hold at 2
    alpha.
    """
    if not math.isfinite(n) or n < 2:
        return undetermined("too_few_units", n, alpha, estimate, se)
    if not math.isfinite(estimate):
        return undetermined("no_estimate", n, alpha, estimate, se)
    if not math.isfinite(se) or se < 0:
        return undetermined("no_standard_error", n, alpha, estimate, se)
    if se == 0:
        return undetermined("zero_variance", n, alpha, estimate, se)
    half = se * float(multiplier(n, alpha, n_star, sided, df))
    if not math.isfinite(half):
        return undetermined("too_few_units", n, alpha, estimate, se)
    return Interval(
        float(estimate), float(se), float(estimate - half), float(estimate + half), int(n), alpha, True
    )


def two_sided(
    estimate: float, se: float, n: float, alpha: float, n_star: float, df: float = math.inf
) -> Interval:
    """Return the two-sided confidence sequence at clock ``n``; see `sequence`."""
    return sequence(estimate, se, n, alpha, n_star, "two", df)


def one_sided(
    estimate: float, se: float, n: float, alpha: float, n_star: float, df: float = math.inf
) -> Interval:
    """Return both one-sided bounds at clock ``n``, each at level alpha; see `sequence`."""
    return sequence(estimate, se, n, alpha, n_star, "one", df)


def log_e_values(
    estimate: ArrayLike,
    se: ArrayLike,
    n: ArrayLike,
    alpha: ArrayLike,
    n_star: float,
    sided: Sided = "two",
    df: ArrayLike = math.inf,
) -> NDArray[np.float64]:
    """Return log e-values against "no effect" (one-sided: against "effect <= 0"); NaN where undetermined.

    They are kept as logarithms because e itself overflows beyond 709; ``p = min(1, exp(-log_e))`` is valid at any look.
    """
    estimate, se, n, degrees = (np.asarray(part, dtype=float) for part in (estimate, se, n, df))
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        z = estimate / se
        # The inverse of the widening in `multiplier`.
        finite = np.where(np.isfinite(degrees), degrees, 1.0)
        shrunk = np.sqrt(finite * np.log1p(z * z / finite)) * (8 * finite + 1) / (8 * finite + 3)
        z = np.where(np.isposinf(degrees), z, np.copysign(shrunk, z))
        information = n * _tunings(np.asarray(alpha, dtype=float), n_star, sided) ** 2
        q = information + 1
        log_e = information * z * z / (2 * q) - np.log(q) / 2
        if sided == "one":
            log_e = log_e + math.log(2) + log_ndtr(np.sqrt(information / q) * z)
    usable = np.isfinite(estimate) & np.isfinite(se) & (se > 0) & np.isfinite(n) & (n >= 2) & (degrees > 0)
    return np.where(usable, log_e, np.nan)


def log_e_value(
    estimate: float,
    se: float,
    n: float,
    alpha: float,
    n_star: float,
    sided: Sided = "two",
    df: float = math.inf,
) -> float | None:
    """Return the log e-value of one estimate; None if undetermined. See `log_e_values`."""
    return _number(float(log_e_values(estimate, se, n, alpha, n_star, sided, df)))


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
