"""One linear form for a mean, a ratio, and both with a covariate measured before exposure.

Sources: Deng, Xu, Kohavi, Walker, WSDM 2013 (CUPED); Deng, Knoblich, Lu, KDD 2018 (ratios by the delta
method). A ratio is ``R = mean(N) / mean(D)`` with the gradient ``(1, -R) / mean(D)``; a mean has D = 1. With a
covariate ``Rx = mean(Nx) / mean(Dx)`` the arm's value is ``R - theta (Rx - Rx of both arms)`` and the gradient
gains ``-theta`` times that of Rx; theta is the regression of one linearised value on the other over both arms.
The variance of one unit is then ``g' S g`` with S the arm's covariances, whatever the metric.

The squared standard error of the difference is the larger of the Welch form ``v0/n0 + v1/n1`` and the pooled
form: with unequal arms and a skewed metric the small arm's mean and variance fall together. The pooled form
supposes rows of one size in both arms, so rows are units here. Buckets of units are not: at 1 % exposure the
challenger's are small and the control's large, both arms have equally many, and the rule would protect nobody.
For buckets use `understudy.stats.ratio`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.stats.moments import Moments
from understudy.stats.plain import plain_fields

__all__ = ["LinearDifference", "LinearForm", "linear_difference"]

Array = NDArray[np.float64]

# A variance below this share of the terms it is the sum of is rounding noise, not variance.
_NOISE = 64 * float(np.finfo(float).eps)


@dataclass(frozen=True)
class LinearForm:
    """Which columns of the moments play which part; what is left out is the constant 1.

    Attributes:
        numerator: column of N.
        denominator: column of D; None for a mean.
        covariate: column of Nx, measured before exposure; None for no covariate.
        covariate_denominator: column of Dx; None when the covariate is a mean.
    """

    numerator: str
    denominator: str | None = None
    covariate: str | None = None
    covariate_denominator: str | None = None


@dataclass(frozen=True, eq=False)
class LinearDifference:
    """Challenger minus control; all arrays have the leading shape of the moments, NaN where undetermined.

    Attributes:
        control: value of the control arm (adjusted when there is a covariate).
        challenger: value of the challenger arm.
        control_variance: variance of one control row's linearised value.
        challenger_variance: the same of the challenger.
        n_control: control rows.
        n_challenger: challenger rows.
        estimate: challenger minus control.
        se: standard error by the larger of both rules.
        df: degrees of freedom (Welch, Satterthwaite).
        pooled: whether the pooled rule was the larger.
        theta: coefficient of the covariate; 0 without one, or when it does not vary.
        determined: False means "the data cannot say".
        reason: stable word for why; "" where determined.
    """

    control: Array
    challenger: Array
    control_variance: Array
    challenger_variance: Array
    n_control: Array
    n_challenger: Array
    estimate: Array
    se: Array
    df: Array
    pooled: NDArray[np.bool_]
    theta: Array
    determined: NDArray[np.bool_]
    reason: NDArray[np.str_]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; undetermined numbers are null."""
        return plain_fields(self)


@dataclass(frozen=True, eq=False)
class _Arm:
    """N, D, Nx, Dx of one arm: means with remainders [..., 4], covariances [..., 4, 4]."""

    n: Array
    mean: Array
    remainder: Array
    covariance: Array

    def ratio(self, first: int) -> Array:
        """Return the ratio of the pair starting at ``first``; NaN unless its denominator is positive."""
        top, bottom = self.mean[..., first] + self.remainder[..., first], self.mean[..., first + 1]
        return np.divide(top, bottom, out=np.full_like(top, np.nan), where=bottom > 0)

    def gradient(self, first: int) -> Array:
        """Return the gradient of that ratio, zero where there is no ratio."""
        ratio, bottom = self.ratio(first), self.mean[..., first + 1]
        found = np.zeros_like(self.mean)
        good = np.isfinite(ratio)
        found[..., first] = np.divide(1.0, bottom, out=np.zeros_like(bottom), where=good)
        found[..., first + 1] = np.where(good, -np.nan_to_num(ratio) * found[..., first], 0.0)
        return found

    def covariance_of(self, left: Array, right: Array) -> Array:
        """Return ``left' S right``, with rounding noise as zero."""
        terms = left[..., :, None] * self.covariance * right[..., None, :]
        total = terms.sum(axis=(-2, -1))
        noise = _NOISE * np.abs(terms).sum(axis=(-2, -1))
        return np.where((np.abs(total) <= noise) & np.isfinite(noise), 0.0, total)


def linear_difference(control: Moments, challenger: Moments, form: LinearForm) -> LinearDifference:
    """Return challenger minus control for every entry of the leading axes.

    Undetermined, never an error: fewer than two rows in an arm, a mean denominator that is not positive, no
    variance, or anything that is not a finite number.

    Raises:
        ValueError: the moments have no such column, or the arms' columns differ.
    """
    both = control.merge(challenger)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        arms = [_picked(m, form) for m in (control, challenger)]
        pooled = _picked(both, form)
        theta = _theta(pooled, form)
        variances = [_variance(arm, theta) for arm in arms]
        values = [arm.ratio(0) - _shift(arm, pooled, theta) for arm in arms]
        estimate = _gap(arms[0], arms[1], 0) - np.where(theta == 0, 0.0, theta * _gap(arms[0], arms[1], 2))
        se, df, use_pooled = _error([arm.n for arm in arms], variances)
    reason = _reason([arm.n for arm in arms], estimate, se)
    good = reason == ""
    return LinearDifference(
        control=values[0],
        challenger=values[1],
        control_variance=variances[0],
        challenger_variance=variances[1],
        n_control=arms[0].n,
        n_challenger=arms[1].n,
        estimate=np.where(np.isfinite(estimate), estimate, np.nan),
        se=np.where(np.isfinite(se), se, np.nan),
        df=np.where(good, df, np.nan),
        pooled=use_pooled,
        theta=theta,
        determined=good,
        reason=reason,
    )


def _picked(moments: Moments, form: LinearForm) -> _Arm:
    names = (form.numerator, form.denominator, form.covariate, form.covariate_denominator)
    missing = [name for name in names if name is not None and name not in moments.columns]
    if missing:
        raise ValueError(f"no column {missing[0]!r}; the moments have {', '.join(moments.columns)}")
    shape = moments.n.shape
    mean, remainder = np.zeros((*shape, 4)), np.zeros((*shape, 4))
    covariance, known = np.zeros((*shape, 4, 4)), moments.covariance
    at = [None if name is None else moments.columns.index(name) for name in names]
    for i, left in enumerate(at):
        mean[..., i] = 1.0 if left is None else moments.mean[..., left]
        remainder[..., i] = 0.0 if left is None else moments.remainder[..., left]
        for j, right in enumerate(at):
            if left is not None and right is not None:
                covariance[..., i, j] = known[..., left, right]
    return _Arm(moments.n, mean, remainder, covariance)


def _theta(both: _Arm, form: LinearForm) -> Array:
    """Return the covariate's coefficient over both arms; 0 where it cannot help."""
    if form.covariate is None:
        return np.zeros_like(both.n)
    outcome, covariate = both.gradient(0), both.gradient(2)
    spread = both.covariance_of(covariate, covariate)
    shared = both.covariance_of(outcome, covariate)
    usable = np.isfinite(shared) & np.isfinite(spread) & (spread > 0)
    return np.divide(shared, spread, out=np.zeros_like(shared), where=usable)


def _variance(arm: _Arm, theta: Array) -> Array:
    gradient = arm.gradient(0) - theta[..., None] * arm.gradient(2)
    return arm.covariance_of(gradient, gradient)


def _shift(arm: _Arm, both: _Arm, theta: Array) -> Array:
    return np.where(theta == 0, 0.0, theta * (arm.ratio(2) - both.ratio(2)))


def _gap(control: _Arm, challenger: _Arm, first: int) -> Array:
    """Return the difference of ratios as ``((N1 - N0) - R0 (D1 - D0)) / D1``: nothing large is rounded."""
    step = (challenger.mean - control.mean) + (challenger.remainder - control.remainder)
    base = control.ratio(first)
    top = step[..., first] - np.where(step[..., first + 1] == 0, 0.0, base * step[..., first + 1])
    return np.where(np.isfinite(base) & np.isfinite(challenger.ratio(first)), top, np.nan) / np.where(
        challenger.mean[..., first + 1] > 0, challenger.mean[..., first + 1], np.nan
    )


def _error(n: list[Array], variance: list[Array]) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Return (standard error, degrees of freedom, whether the pooled rule was the larger)."""
    parts = [v / size for v, size in zip(variance, n, strict=True)]
    welch = parts[0] + parts[1]
    weights = [size - 1 for size in n]
    common = (weights[0] * variance[0] + weights[1] * variance[1]) / (weights[0] + weights[1])
    pooled = common * (1 / n[0] + 1 / n[1])
    df = welch**2 / (parts[0] ** 2 / weights[0] + parts[1] ** 2 / weights[1])
    larger = pooled > welch * (1 + _NOISE)
    return np.sqrt(np.maximum(welch, pooled)), df, larger


def _reason(n: list[Array], estimate: Array, se: Array) -> NDArray[np.str_]:
    few = (n[0] < 2) | (n[1] < 2)
    checks = [few, ~np.isfinite(estimate), ~np.isfinite(se), se <= 0]
    words = ["too_few_units", "no_estimate", "no_standard_error", "zero_variance"]
    return np.asarray(np.select(checks, words, default=""))
