"""Less noise from what is known of a unit before exposure: CUPED on sums per cluster.

Source: Deng, Xu, Kohavi, Walker, WSDM 2013, on linearised ratios (Deng, Knoblich, Lu, KDD 2018). A cluster (a
unit, or a bucket of units) has sums N, D of the metric and Nx, Dx of the same metric before anybody was exposed.
Its numerator becomes ``N - theta_s (Nx - Rx_s Dx)``: what its own history says about it is taken away. ``Rx_s``
is the ratio of the history over both arms in stage s, so the correction is zero on average in either arm, and
the adjusted numerators go the same way as every other metric's.

``theta_s = slope k_s`` with ``k_s = sum D / sum Dx`` (a long stage has more events per unit of history than a
short one) and one slope over both arms and all stages, from residuals within arm and stage: an effect of the
challenger, or a drift between stages, cannot leak into it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr

from understudy.stats.plain import plain_fields
from understudy.stats.ratio import ArmMoments, difference_arrays
from understudy.stats.sequences import log_e_values, multiplier

__all__ = ["MIN_CLUSTERS", "Adjustment", "Imbalance", "Sums", "adjust", "imbalance"]

Array = NDArray[np.float64]

# A slope fitted to few clusters also fits their noise, and the variance comes out too small by about 1/clusters.
MIN_CLUSTERS = 20
_NOISE = 64 * float(np.finfo(float).eps)


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums of one arm, arrays of shape [..., cluster, stage]; `without_stages` for arrays that end in the cluster.

    Attributes:
        numerator: N, the metric's numerator.
        denominator: D, its denominator; 0 where the cluster was not seen in the stage.
        history_numerator: Nx, the same before exposure, of the units seen in the stage.
        history_denominator: Dx; 0 where nothing is known, such a cluster is left as it is.
    """

    numerator: Array
    denominator: Array
    history_numerator: Array
    history_denominator: Array

    @classmethod
    def of(
        cls,
        numerator: ArrayLike,
        denominator: ArrayLike,
        history_numerator: ArrayLike,
        history_denominator: ArrayLike,
    ) -> Sums:
        """Build from arrays [..., cluster, stage]; the history may have one stage and is then repeated.

        Raises:
            ValueError: shapes do not fit, or a denominator is negative.
        """
        n, d = np.asarray(numerator, dtype=float), np.asarray(denominator, dtype=float)
        if n.shape != d.shape or n.ndim < 2:
            raise ValueError(f"shapes {n.shape} and {d.shape}: both must be (..., clusters, stages)")
        history = (np.asarray(v, dtype=float) for v in (history_numerator, history_denominator))
        x, dx = (np.broadcast_to(v, n.shape) for v in history)
        if (d < 0).any() or (dx < 0).any():
            raise ValueError("a denominator is negative; denominators count something")
        return cls(n, d, x, dx)

    @classmethod
    def without_stages(
        cls,
        numerator: ArrayLike,
        denominator: ArrayLike,
        history_numerator: ArrayLike,
        history_denominator: ArrayLike,
    ) -> Sums:
        """Build from arrays [..., cluster]; results then have a stage axis of length one."""
        parts = (numerator, denominator, history_numerator, history_denominator)
        return cls.of(*(np.asarray(v, dtype=float)[..., None] for v in parts))


@dataclass(frozen=True, eq=False)
class Adjustment:
    """Adjusted numerators of both arms, and what the adjustment rests on.

    Attributes:
        control: adjusted numerators of the control arm, shape [..., cluster, stage].
        challenger: the same of the challenger.
        theta: coefficient applied, shape [..., stage]; 0 where the history cannot help.
        covariate_ratio: Rx per stage over both arms, shape [..., stage]; 0 without any history.
        slope: the common coefficient behind theta, shape [...].
        variance_reduction: share of the numerators' variance that is gone, 0 to 1, shape [...].
        clusters: clusters with a history, both arms, shape [...].
        without_history: seen clusters without one, both arms, shape [...].
        reason: stable word for why nothing was adjusted; "" where it was, shape [...].
    """

    control: Array
    challenger: Array
    theta: Array
    covariate_ratio: Array
    slope: Array
    variance_reduction: Array
    clusters: Array
    without_history: Array
    reason: NDArray[np.str_]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary, without the numerators themselves."""
        found = plain_fields(self)
        return {field.name: found[field.name] for field in fields(self)[2:]}


@dataclass(frozen=True, eq=False)
class Imbalance:
    """Difference of the history itself, challenger minus control; it must be zero, nobody was exposed yet.

    Attributes:
        estimate: difference of the history's ratio, shape [...]; NaN where undetermined.
        se: its standard error.
        lower: lower bound of the two-sided confidence sequence.
        upper: upper bound.
        p: two-sided p-value of one look at a fixed time (Student t); repeated looks must use ``alarm`` or ``log_e``.
        log_e: log e-value against "no difference", valid at every look; 0 where undetermined.
        alarm: whether the confidence sequence excludes zero: arms differ in who they are, or X was not measured before.
        determined: False means "the data cannot say".
        alpha: budget of the alarm over all looks.
    """

    estimate: Array
    se: Array
    lower: Array
    upper: Array
    p: Array
    log_e: Array
    alarm: NDArray[np.bool_]
    determined: NDArray[np.bool_]
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; undetermined numbers are null."""
        return plain_fields(self)


@dataclass(frozen=True, eq=False)
class _Clean:
    """One arm with zeros where a cluster is absent (all four) or without history (the last two)."""

    n: Array
    d: Array
    x: Array
    dx: Array


def adjust(control: Sums, challenger: Sums, min_clusters: int = MIN_CLUSTERS) -> Adjustment:
    """Return numerators with the part explained by the history taken away.

    Values that are not finite numbers pass through unadjusted, so that whoever counts them still does.
    Nothing is adjusted (theta 0, with a reason) when fewer than ``min_clusters`` clusters have a history, or the
    history does not vary.

    Raises:
        ValueError: the arms' shapes differ in more than the number of clusters.
    """
    shapes = {(*arm.numerator.shape[:-2], arm.numerator.shape[-1]) for arm in (control, challenger)}
    if len(shapes) != 1:
        raise ValueError(f"arms of shape {control.numerator.shape} and {challenger.numerator.shape}")
    arms = [_clean(arm) for arm in (control, challenger)]
    with np.errstate(over="ignore", invalid="ignore"):
        ratio = _ratio(sum(a.x.sum(axis=-2) for a in arms), sum(a.dx.sum(axis=-2) for a in arms))
        scale = _ratio(sum(a.d.sum(axis=-2) for a in arms), sum(a.dx.sum(axis=-2) for a in arms))
        signals = [(a.x - ratio[..., None, :] * a.dx) * scale[..., None, :] for a in arms]
        slope, reduction, spread = _fit(arms, signals)
    with_history = sum((a.dx > 0).any(axis=-1).sum(axis=-1) for a in arms)
    seen = sum((a.d > 0).any(axis=-1).sum(axis=-1) for a in arms)
    checks = [with_history == 0, with_history < min_clusters, ~(spread > 0), ~np.isfinite(slope + spread)]
    words = ["no_history", "too_few_clusters", "history_does_not_vary", "no_slope"]
    reason = np.asarray(np.select(checks, words, default=""))
    slope = np.where(reason == "", slope, 0.0)
    adjusted = [
        np.where(s == 0, arm.numerator, arm.numerator - slope[..., None, None] * s)
        for arm, s in zip((control, challenger), signals, strict=True)
    ]
    return Adjustment(
        control=adjusted[0],
        challenger=adjusted[1],
        theta=slope[..., None] * scale,
        covariate_ratio=ratio,
        slope=slope,
        variance_reduction=np.where(reason == "", reduction, 0.0),
        clusters=np.asarray(with_history, dtype=float),
        without_history=np.asarray(seen - with_history, dtype=float),
        reason=reason,
    )


def imbalance(control: Sums, challenger: Sums, alpha: float, n_star: float) -> Imbalance:
    """Ask whether the history itself differs between the arms, valid at every look.

    Args:
        control: sums of the control arm.
        challenger: sums of the challenger arm.
        alpha: budget of the alarm over all looks.
        n_star: sum of history denominators at which the interval should be tightest; fix it beforehand.

    Raises:
        ValueError: alpha or n_star unusable, or the arms have different stages.
    """
    arms = [_clean(arm) for arm in (control, challenger)]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        moments = [ArmMoments.from_units(a.x, a.dx) for a in arms]
        estimate, se, df, clock, _, _ = difference_arrays(*moments)
        half = se * multiplier(clock, alpha, n_star, "two", df)
        good = np.isfinite(estimate) & np.isfinite(half) & (se > 0)
        log_e = log_e_values(estimate, se, clock, alpha, n_star, "two", df)
        p = np.where(good, 2 * stdtr(np.where(good, df, 1.0), -np.abs(estimate / se)), np.nan)
    return Imbalance(
        estimate=np.where(np.isfinite(estimate), estimate, np.nan),
        se=np.where(np.isfinite(se), se, np.nan),
        lower=np.where(good, estimate - half, np.nan),
        upper=np.where(good, estimate + half, np.nan),
        p=p,
        log_e=np.where(good & np.isfinite(log_e), log_e, 0.0),
        alarm=good & (np.abs(estimate) > half),
        determined=good,
        alpha=alpha,
    )


def _clean(arm: Sums) -> _Clean:
    seen = np.isfinite(arm.numerator) & np.isfinite(arm.denominator) & (arm.denominator > 0)
    finite = np.isfinite(arm.history_numerator) & np.isfinite(arm.history_denominator)
    known = seen & finite & (arm.history_denominator > 0)
    return _Clean(
        n=np.where(seen, arm.numerator, 0.0),
        d=np.where(seen, arm.denominator, 0.0),
        x=np.where(known, arm.history_numerator, 0.0),
        dx=np.where(known, arm.history_denominator, 0.0),
    )


def _fit(arms: list[_Clean], signals: list[Array]) -> tuple[Array, Array, Array]:
    """Return (slope, squared correlation, sum of squares of the history) of residuals within arm and stage."""
    pairs = [(_residual(a.n, a.d), _residual(s, a.d)) for a, s in zip(arms, signals, strict=True)]
    axes = (-2, -1)
    outcome = np.asarray(sum((y * y).sum(axis=axes) for y, _ in pairs))
    history = np.asarray(sum((x * x).sum(axis=axes) for _, x in pairs))
    shared = np.asarray(sum((y * x).sum(axis=axes) for y, x in pairs))
    slope = _ratio(shared, history)
    return slope, np.clip(_ratio(slope * shared, outcome), 0.0, 1.0), history


def _residual(top: Array, bottom: Array) -> Array:
    """Return what is left of the sums after the arm's own ratio in each stage; rounding noise is zero."""
    expected = _ratio(top.sum(axis=-2), bottom.sum(axis=-2))[..., None, :] * bottom
    r = top - expected
    return np.where(np.abs(r) <= _NOISE * (np.abs(top) + np.abs(expected)), 0.0, r)


def _ratio(top: Any, bottom: Any) -> Array:
    above, below = np.asarray(top, dtype=float), np.asarray(bottom, dtype=float)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=below > 0))
