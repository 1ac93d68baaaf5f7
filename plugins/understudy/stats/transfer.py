"""Did the offline gain hold online, and what will the next one do? Lessons of past experiments.

Each past experiment is a point (x, se_x, y, se_y): the gain forecast offline and the gain measured online.

* The line is York's best straight line with errors in both (York, Evensen, Lopez Martinez, De Basabe Delgado 2004, Am. J.
  Phys. 72:367), uncorrelated errors. Gains that scatter more than their errors explain get a common extra
  variance in y, just large enough for the weighted residuals to be what their degrees of freedom expect (Paule
  and Mandel 1982).
* The correlation is corrected for noise: ``cov(x, y) / sqrt((var x - mean se_x^2) (var y - mean se_y^2))``
  (Bibaut et al. 2024, arXiv 2402.17637); undetermined if a corrected variance is not positive.
* Sign agreement has the exact binomial interval (Clopper and Pearson 1934).

Only models that were good enough offline to be tested online are seen. This narrows x and weakens the
correlation; the line suffers less, because it is conditional on x.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, stdtrit

from understudy.stats.proportions import Proportion, clopper_pearson

__all__ = [
    "MIN_EXPERIMENTS",
    "Forecast",
    "ForecastScore",
    "Line",
    "Transfer",
    "forecast_next",
    "score",
    "transfer",
    "york",
]

Array = NDArray[np.float64]

# With fewer experiments the points are shown without a line.
MIN_EXPERIMENTS = 15
_ROUNDS = 500


@dataclass(frozen=True)
class _Result:
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class Line(_Result):
    """``y = intercept + slope x`` with what a prediction needs.

    Attributes:
        slope: online gain per offline gain.
        slope_se: its standard error.
        intercept: online gain of a model without offline gain.
        intercept_se: its standard error.
        centre: mean of the adjusted x; slope and the line's height there are uncorrelated.
        height_se: standard error of the line's height at the centre.
        chi2: weighted sum of squared residuals without any extra spread.
        p: p-value of "the errors explain the scatter".
        spread: standard deviation of the extra scatter in y; 0 if the errors explain it.
        n: points.
    """

    slope: float
    slope_se: float
    intercept: float
    intercept_se: float
    centre: float
    height_se: float
    chi2: float
    p: float
    spread: float
    n: int


@dataclass(frozen=True)
class _Fit:
    slope: float
    slope_se: float
    centre: float
    height: float
    height_se: float
    chi2: float


@dataclass(frozen=True)
class Transfer(_Result):
    """What the past says about going from offline to online.

    Attributes:
        points: usable experiments (x, se_x, y, se_y).
        left_out: experiments without four usable numbers.
        same_sign: how often offline and online gain had the same sign; exact zeros are not counted.
        line: None with `reason`, which says why.
        correlation: corrected for noise, kept within -1 and 1; None with `correlation_reason`.
        note: what to keep in mind when reading it.
    """

    points: tuple[tuple[float, float, float, float], ...]
    left_out: int
    same_sign: Proportion
    line: Line | None
    correlation: float | None
    reason: str | None
    correlation_reason: str | None
    note: str = "Only models that looked good enough offline were tested; that narrows the offline gains."


@dataclass(frozen=True)
class Forecast(_Result):
    """Online gain of the next experiment; numbers are None with a reason.

    Attributes:
        alpha: error budget of the interval.
        estimate: height of the line at the offline gain, between `lower` and `upper`.
        se: all of the following together.
        line_se: uncertainty of the line there.
        spread: extra scatter of past gains around the line.
        own_se: from the offline gain's standard error, times the slope, and the online measurement's.
        df: degrees of freedom of the interval.
        reason: why there is no forecast; None otherwise.
    """

    alpha: float
    estimate: float | None = None
    lower: float | None = None
    upper: float | None = None
    se: float | None = None
    line_se: float | None = None
    spread: float | None = None
    own_se: float | None = None
    df: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class ForecastScore(_Result):
    """How one forecast did; numbers are None with a reason.

    Attributes:
        alpha: error budget of the interval.
        covered: whether the interval held what was measured.
        z: measured minus forecast, in standard errors of the forecast.
        interval_score: ``(u - l) + 2 / alpha (l - y)+ + 2 / alpha (y - u)+``, smaller is better (Gneiting and
            Raftery 2007, JASA 102:359).
        error: measured minus forecast.
        reason: why there is no score; None otherwise.
    """

    alpha: float
    covered: bool | None = None
    z: float | None = None
    interval_score: float | None = None
    error: float | None = None
    reason: str | None = None


def york(x: ArrayLike, se_x: ArrayLike, y: ArrayLike, se_y: ArrayLike, extra: bool = False) -> Line | str:
    """Return York's line, or a word for why there is none.

    Args:
        x: one per point.
        se_x: standard error of each, 0 for an exact one.
        y: one per point.
        se_y: standard error of each; se_x and se_y must not both be 0.
        extra: add a common variance in y if the points scatter more than their errors explain.

    Raises:
        ValueError: shapes differ.
    """
    a, sa, b, sb = _four(x, se_x, y, se_y)
    if a.size < 3:
        return "too_few_points"
    if not _usable(a, sa, b, sb).all():
        return "values_not_usable"
    with np.errstate(over="ignore", invalid="ignore"):
        shift = float(a.mean()), float(b.mean())
        unit = (
            float(np.abs(a - shift[0]).max()),
            max(float(np.abs(b - shift[1]).max()), float(sb.max())) or 1.0,
        )
    if not all(map(math.isfinite, (*shift, *unit))):
        return "values_too_large"
    if np.ptp(a) == 0:
        return "no_spread_in_x"
    scaled = (a - shift[0]) / unit[0], (sa / unit[0]) ** 2, (b - shift[1]) / unit[1], (sb / unit[1]) ** 2
    fit, chi2, variance = _fit(*scaled), math.nan, 0.0
    if fit is not None:
        chi2 = fit.chi2
        if extra and chi2 > a.size - 2:
            variance = _extra_variance(*scaled)
            fit = _fit(*scaled[:3], scaled[3] + variance)
    if fit is None:
        return "no_fit"
    factor, height = unit[1] / unit[0], shift[1] + fit.height * unit[1]
    slope, slope_se, height_se = fit.slope * factor, fit.slope_se * factor, fit.height_se * unit[1]
    centre = shift[0] + fit.centre * unit[0]
    found = Line(
        slope, slope_se, height - slope * centre, math.hypot(height_se, centre * slope_se), centre, height_se,
        chi2, float(chdtrc(a.size - 2, chi2)), math.sqrt(variance) * unit[1], a.size,
    )  # fmt: skip
    return found if all(map(math.isfinite, asdict(found).values())) else "values_too_large"


def transfer(x: ArrayLike, se_x: ArrayLike, y: ArrayLike, se_y: ArrayLike, alpha: float = 0.05) -> Transfer:
    """Compare offline with online gains over finished experiments.

    With fewer than `MIN_EXPERIMENTS` usable ones there are points and sign agreement, but no line and no
    correlation. Offline gains that differ by no more than their own noise give no line either.

    Args:
        x: offline gain per experiment.
        se_x: its standard error.
        y: online gain, in the same direction (both on the harm scale, or both not).
        se_y: its standard error.
        alpha: error budget of the agreement's interval.

    Raises:
        ValueError: shapes differ, or alpha is outside (0, 1).
    """
    _check(alpha)
    parts = _four(x, se_x, y, se_y)
    good = _usable(*parts)
    a, sa, b, sb = (part[good] for part in parts)
    points = tuple((float(i), float(j), float(k), float(m)) for i, j, k, m in zip(a, sa, b, sb, strict=True))
    signs = np.sign(a) * np.sign(b)
    same = clopper_pearson(int((signs > 0).sum()), int((signs != 0).sum()), alpha)
    left_out = int((~good).sum())
    if a.size < MIN_EXPERIMENTS:
        return Transfer(points, left_out, same, None, None, "too_few_experiments", "too_few_experiments")
    with np.errstate(over="ignore", invalid="ignore"):
        true_x = float(np.var(a, ddof=1) - np.mean(sa**2))
        true_y = float(np.var(b, ddof=1) - np.mean(sb**2))
        covariance = float(np.cov(a, b)[0, 1])
    line = york(a, sa, b, sb, extra=True) if true_x > 0 else "offline_gains_do_not_differ"
    found = line if isinstance(line, Line) else None
    reason = line if isinstance(line, str) else None
    if not (true_x > 0 and true_y > 0 and np.isfinite([true_x, true_y, covariance]).all()):
        return Transfer(points, left_out, same, found, None, reason, "no_variance_beyond_noise")
    correlation = covariance / (math.sqrt(true_x) * math.sqrt(true_y))
    return Transfer(points, left_out, same, found, max(-1.0, min(1.0, correlation)), reason, None)


def forecast_next(past: Transfer, x: float, se_x: float, se_y: float = 0.0, alpha: float = 0.05) -> Forecast:
    """Forecast the online gain of a model with offline gain x.

    Args:
        past: from `transfer`.
        x: offline gain.
        se_x: its standard error.
        se_y: standard error that the online measurement will have; 0 forecasts the gain itself, which what is
            measured will miss by its own error.
        alpha: error budget of the interval.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    _check(alpha)
    line = past.line
    if line is None:
        return Forecast(alpha, reason=past.reason or "no_line")
    if not (math.isfinite(x) and all(math.isfinite(s) and s >= 0 for s in (se_x, se_y))):
        return Forecast(alpha, reason="offline_gain_not_usable")
    estimate = line.intercept + line.slope * x
    line_se = math.hypot(line.height_se, (x - line.centre) * line.slope_se)
    own_se = math.hypot(line.slope * se_x, se_y)
    se, df = math.hypot(line_se, line.spread, own_se), line.n - 2.0
    half = -float(stdtrit(df, alpha / 2)) * se
    if not (math.isfinite(estimate) and math.isfinite(half)):
        return Forecast(alpha, reason="values_too_large")
    return Forecast(alpha, estimate, estimate - half, estimate + half, se, line_se, line.spread, own_se, df)


def score(forecast: Forecast, measured: float) -> ForecastScore:
    """Score a forecast against what was measured; undetermined if either is missing.

    Any interval can be scored: ``Forecast(alpha, estimate, lower, upper, se)``. Without a standard error above 0
    there is no z.
    """
    low, high = forecast.lower, forecast.upper
    if forecast.estimate is None or low is None or high is None:
        return ForecastScore(forecast.alpha, reason="no_forecast")
    if not math.isfinite(measured):
        return ForecastScore(forecast.alpha, reason="nothing_measured")
    error = measured - forecast.estimate
    missed = max(low - measured, 0.0) + max(measured - high, 0.0)
    z = error / forecast.se if forecast.se else None
    return ForecastScore(forecast.alpha, missed == 0, z, high - low + 2 / forecast.alpha * missed, error)


def _fit(x: Array, vx: Array, y: Array, vy: Array) -> _Fit | None:
    """York's iteration, written in variances so that an exact coordinate is allowed; None if it does not settle."""
    slope = float(np.cov(x, y)[0, 1] / np.var(x, ddof=1))
    for _ in range(_ROUNDS):
        scatter = vy + slope * slope * vx
        if not (scatter > 0).all():
            return None
        w = 1 / scatter
        middle = (w * x).sum() / w.sum(), (w * y).sum() / w.sum()
        u, v = x - middle[0], y - middle[1]
        beta = w * (u * vy + slope * v * vx)
        below = float((w * beta * u).sum())
        before, slope = slope, float((w * beta * v).sum()) / below if below else math.nan
        if not math.isfinite(slope):
            return None
        if abs(slope - before) <= 1e-12 * (1 + abs(slope)):
            break
    else:
        return None
    centre = float((w * beta).sum() / w.sum())
    inside = float((w * (beta - centre) ** 2).sum())
    if inside <= 0:
        return None
    height = float(middle[1] + slope * centre)
    chi2 = float((w * (v - slope * u) ** 2).sum())
    return _Fit(slope, inside**-0.5, float(middle[0]) + centre, height, float(w.sum()) ** -0.5, chi2)


def _extra_variance(x: Array, vx: Array, y: Array, vy: Array) -> float:
    """Variance to add to y so that chi2 becomes its degrees of freedom (Paule-Mandel), by bisection."""

    def excess(variance: float) -> float:
        fit = _fit(x, vx, y, vy + variance)
        return math.inf if fit is None else fit.chi2 - (x.size - 2)

    low, high = 0.0, 1.0
    while excess(high) > 0 and high < 1e6:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high


def _usable(x: Array, se_x: Array, y: Array, se_y: Array) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):
        finite = np.isfinite(x) & np.isfinite(se_x) & np.isfinite(y) & np.isfinite(se_y)
        return np.asarray(finite & (se_x >= 0) & (se_y >= 0) & (se_x + se_y > 0))


def _four(x: ArrayLike, se_x: ArrayLike, y: ArrayLike, se_y: ArrayLike) -> tuple[Array, Array, Array, Array]:
    a, sa, b, sb = (np.asarray(part, dtype=float) for part in (x, se_x, y, se_y))
    if a.ndim != 1 or not a.shape == sa.shape == b.shape == sb.shape:
        raise ValueError(f"shapes {a.shape}, {sa.shape}, {b.shape}, {sb.shape}: one value per point each")
    return a, sa, b, sb


def _check(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
