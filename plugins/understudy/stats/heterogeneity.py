"""Is the effect the same in every cohort? Spread of effects, and whether some cohorts are hurt while others gain.

* Cochran 1954: ``Q = sum w (d - pooled)^2`` with ``w = 1 / se^2``, chi-square with k - 1 degrees of freedom.
* Higgins and Thompson 2002: ``I^2 = max(0, (Q - (k - 1)) / Q)``.
* DerSimonian and Laird 1986: ``tau^2 = max(0, (Q - (k - 1)) / (sum w - sum w^2 / sum w))``.
* Gail and Simon 1985, Biometrics 41:361: ``Q+`` sums ``(d / se)^2`` over positive effects, ``Q-`` over negative ones; the
  statistic is the smaller, and ``p = sum_{h=1}^{k-1} Bin(h; k - 1, 1/2) P(chi2_h > min(Q+, Q-))``.
* Simpson's reversal: the pooled effect has one sign, every cohort the other.

The strata must be independent (each unit in one of them), and this is looked at once.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, gammaln

__all__ = [
    "Heterogeneity",
    "QualitativeInteraction",
    "SignReversal",
    "gail_simon",
    "heterogeneity",
    "sign_reversal",
]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Heterogeneity:
    """Spread of the effects over strata; every number is None with a reason.

    Attributes:
        strata: strata used.
        left_out: strata without a usable effect or standard error.
        q: Cochran's Q.
        p: p-value of "one effect for all".
        i2: share of the spread that is not noise, 0 to 1.
        tau2: variance of the true effects (DerSimonian-Laird).
        fixed: pooled effect if all were one.
        fixed_se: its standard error.
        random: pooled effect allowing for tau2.
        random_se: its standard error.
        reason: why it is undetermined; None otherwise.
    """

    strata: int
    left_out: int
    q: float | None = None
    p: float | None = None
    i2: float | None = None
    tau2: float | None = None
    fixed: float | None = None
    fixed_se: float | None = None
    random: float | None = None
    random_se: float | None = None
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class QualitativeInteraction:
    """Gail and Simon's test of "no stratum's effect has another sign than the rest".

    Attributes:
        q_plus: evidence for positive effects.
        q_minus: evidence for negative effects.
        p: p-value; None if undetermined.
        crossing: whether p is at most alpha: some strata gain and others lose.
        alpha: error budget.
        strata: strata used.
        left_out: strata without a usable effect or standard error.
        reason: why it is undetermined; None otherwise.
    """

    q_plus: float | None
    q_minus: float | None
    p: float | None
    crossing: bool
    alpha: float
    strata: int
    left_out: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class SignReversal:
    """Whether the pooled sign contradicts the strata; a flag on point estimates, not a test.

    Attributes:
        every: the pooled sign differs from every stratum's (Simpson); None if undetermined.
        opposed: indices of strata whose sign differs from the pooled one.
        reason: why it is undetermined; None otherwise.
    """

    every: bool | None
    opposed: tuple[int, ...]
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def heterogeneity(effects: ArrayLike, se: ArrayLike) -> Heterogeneity:
    """Return Q, I^2, tau^2 and both pooled effects over the strata; undetermined with fewer than two.

    Args:
        effects: one per stratum.
        se: standard error of each; a stratum whose numbers are not finite or whose se is not positive is left out.

    Raises:
        ValueError: shapes differ.
    """
    d, s, left_out = _strata(effects, se)
    k = d.size
    if k < 2:
        return Heterogeneity(k, left_out, reason="fewer_than_two_strata")
    unit = float(s.min())  # in units of the best standard error neither end of the scale overflows
    with np.errstate(over="ignore", invalid="ignore"):
        scaled, w = d / unit, (unit / s) ** 2
        fixed = float((w * scaled).sum() / w.sum())
        q = float((w * (scaled - fixed) ** 2).sum())
        excess = max(0.0, q - (k - 1))
        tau2 = excess / float(w.sum() - (w**2).sum() / w.sum())
        v = 1 / (1 / w + tau2)
        random = float((v * scaled).sum() / v.sum())
        found = Heterogeneity(
            k, left_out, q, float(chdtrc(k - 1, q)), excess / q if q > 0 else 0.0, tau2 * unit * unit,
            fixed * unit, unit / math.sqrt(w.sum()), random * unit, unit * float(v.sum() ** -0.5),
        )  # fmt: skip
    numbers = (value for value in asdict(found).values() if isinstance(value, float))
    return (
        found if all(map(math.isfinite, numbers)) else Heterogeneity(k, left_out, reason="values_too_large")
    )


def gail_simon(effects: ArrayLike, se: ArrayLike, alpha: float = 0.05) -> QualitativeInteraction:
    """Test whether the effect changes its sign between strata; undetermined with fewer than two.

    Args:
        effects: one per stratum.
        se: standard error of each; unusable strata are left out, see `heterogeneity`.
        alpha: level of `crossing`.

    Raises:
        ValueError: shapes differ, or alpha is outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    d, s, left_out = _strata(effects, se)
    k = d.size
    if k < 2:
        return QualitativeInteraction(None, None, None, False, alpha, k, left_out, "fewer_than_two_strata")
    with np.errstate(over="ignore"):
        z2 = (d / s) ** 2
        plus, minus = float(z2[d > 0].sum()), float(z2[d < 0].sum())
    if not (math.isfinite(plus) and math.isfinite(minus)):
        return QualitativeInteraction(None, None, None, False, alpha, k, left_out, "values_too_large")
    h = np.arange(1, k)
    log_binomial = gammaln(k) - gammaln(h + 1) - gammaln(k - h) - (k - 1) * math.log(2)
    p = float((np.exp(log_binomial) * chdtrc(h, min(plus, minus))).sum())
    return QualitativeInteraction(plus, minus, p, p <= alpha, alpha, k, left_out)


def sign_reversal(pooled: float, effects: ArrayLike) -> SignReversal:
    """Compare the sign of the pooled effect (over all rows, ignoring strata) with every stratum's.

    A zero has no sign: it never opposes. Undetermined if the pooled effect or any stratum's is not finite, or
    there are fewer than two strata.
    """
    d = np.ravel(np.asarray(effects, dtype=float))
    if not math.isfinite(pooled) or not np.isfinite(d).all():
        return SignReversal(None, (), "effect_missing")
    if d.size < 2:
        return SignReversal(None, (), "fewer_than_two_strata")
    opposed = np.sign(d) * np.sign(pooled) < 0
    return SignReversal(bool(opposed.all()), tuple(int(i) for i in np.flatnonzero(opposed)))


def _strata(effects: ArrayLike, se: ArrayLike) -> tuple[Array, Array, int]:
    d, s = np.ravel(np.asarray(effects, dtype=float)), np.ravel(np.asarray(se, dtype=float))
    if d.shape != s.shape:
        raise ValueError(f"{d.size} effects and {s.size} standard errors; both need one per stratum")
    with np.errstate(invalid="ignore"):
        good = np.isfinite(d) & np.isfinite(s) & (s > 0)
    return d[good], s[good], int((~good).sum())
