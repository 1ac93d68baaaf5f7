"""From offline to online gains: York's published line, corrected correlation, forecasts and how they are scored."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.transfer import (
    Forecast,
    Line,
    Transfer,
    forecast_next,
    score,
    transfer,
    york,
)

# Pearson 1901 with the weights of York 1966.
X = np.array([0, 0.9, 1.8, 2.6, 3.3, 4.4, 5.2, 6.1, 6.5, 7.4])
Y = np.array([5.9, 5.4, 4.4, 4.6, 3.5, 3.7, 2.8, 2.8, 2.4, 1.5])
SE_X = np.array([1000, 1000, 500, 800, 200, 80, 60, 20, 1.8, 1]) ** -0.5
SE_Y = np.array([1, 1.8, 4, 8, 20, 20, 70, 70, 100, 500]) ** -0.5


def past(seed: int, n: int = 20, spread: float = 0.3) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    x, se_x, se_y = rng.normal(0.5, 1, n), rng.uniform(0.1, 0.4, n), rng.uniform(0.1, 0.4, n)
    y = 0.1 + 0.6 * x + rng.normal(0, spread, n)
    return x + rng.normal(0, se_x), se_x, y + rng.normal(0, se_y), se_y


def line_of(*points: np.ndarray, extra: bool = False) -> Line:
    found = york(*points, extra=extra)
    assert isinstance(found, Line)
    return found


def test_pearsons_data_with_yorks_weights() -> None:
    found = line_of(X, SE_X, Y, SE_Y)
    assert found.slope == pytest.approx(-0.480533407, abs=1e-9)
    assert found.intercept == pytest.approx(5.47991022, abs=1e-8)
    assert found.slope_se == pytest.approx(0.0580, abs=5e-5)
    assert found.intercept_se == pytest.approx(0.2950, abs=5e-5)
    assert found.chi2 == pytest.approx(11.8663532, abs=1e-6)
    assert found.spread == 0


def test_scipys_orthogonal_regression_finds_the_same_line() -> None:
    odr = pytest.importorskip("scipy.odr")
    x, se_x, y, se_y = past(3, 25, 0.0)
    model = odr.Model(lambda b, v: b[0] + b[1] * v)
    fit = odr.ODR(odr.RealData(x, y, sx=se_x, sy=se_y), model, beta0=[0.0, 1.0]).run()
    found = line_of(x, se_x, y, se_y)
    assert (found.intercept, found.slope) == pytest.approx(tuple(fit.beta), rel=1e-4)


def test_without_errors_in_x_it_is_weighted_least_squares() -> None:
    import statsmodels.api as sm

    x, _, y, se_y = past(4)
    found = line_of(x, np.zeros(20), y, se_y)
    fit = sm.WLS(y, sm.add_constant(x), weights=se_y**-2.0).fit(cov_type="fixed scale")
    assert (found.intercept, found.slope) == pytest.approx(tuple(fit.params))
    assert (found.intercept_se, found.slope_se) == pytest.approx(tuple(fit.bse))


def test_x_and_y_can_change_places() -> None:
    there, back = line_of(X, SE_X, Y, SE_Y), line_of(Y, SE_Y, X, SE_X)
    assert there.slope * back.slope == pytest.approx(1)


def test_shifting_and_scaling_changes_only_the_units() -> None:
    plain = line_of(X, SE_X, Y, SE_Y)
    scaled = line_of(X * 1e9 + 5e9, SE_X * 1e9, Y * 1e-7, SE_Y * 1e-7)
    assert scaled.slope == pytest.approx(plain.slope * 1e-16)
    assert scaled.chi2 == pytest.approx(plain.chi2)


def test_extra_scatter_is_found_and_makes_chi2_ordinary() -> None:
    points = past(5, 60, 0.5)
    found = line_of(*points, extra=True)
    assert 0.35 < found.spread < 0.65
    x, se_x, y, se_y = points
    assert line_of(x, se_x, y, np.hypot(se_y, found.spread)).chi2 == pytest.approx(58, rel=1e-6)


def test_noise_does_not_lower_the_corrected_correlation() -> None:
    raw, corrected = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1, 60)
        y = 0.8 * x + rng.normal(0, 0.6, 60)
        se = np.full(60, 0.7)
        seen = transfer(x + rng.normal(0, se), se, y + rng.normal(0, se), se)
        assert seen.correlation is not None
        corrected.append(seen.correlation)
        raw.append(np.corrcoef([p[0] for p in seen.points], [p[2] for p in seen.points])[0, 1])
    assert np.mean(raw) < 0.6
    assert np.median(corrected) == pytest.approx(0.8, abs=0.06)


def test_no_variance_beyond_noise_has_no_correlation_and_no_line() -> None:
    rng = np.random.default_rng(6)
    noise, se = rng.normal(0, 1, 30), np.full(30, 2.0)
    found = transfer(noise, se, rng.normal(0, 5, 30), se)
    assert (found.line, found.reason) == (None, "offline_gains_do_not_differ")
    assert (found.correlation, found.correlation_reason) == (None, "no_variance_beyond_noise")
    found = transfer(rng.normal(0, 5, 30), se, noise, se)
    assert found.line is not None
    assert found.correlation is None


def test_sign_agreement_has_the_exact_interval() -> None:
    from scipy.stats import binomtest

    x = np.array([1.0, 2, -1, 3, 0, -2, 1])
    y = np.array([0.5, 1, -2, -1, 5, -0.1, 0])
    found = transfer(x, np.ones(7), y, np.ones(7)).same_sign
    exact = binomtest(4, 5).proportion_ci(0.95, "exact")
    assert (found.estimate, found.n) == (0.8, 5)
    assert (found.lower, found.upper) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("n", [0, 1, 2, 14])
def test_few_experiments_give_points_and_no_line(n: int) -> None:
    found = transfer(*past(7, n))
    assert len(found.points) == n
    assert (found.line, found.correlation, found.reason) == (None, None, "too_few_experiments")
    assert forecast_next(found, 1.0, 0.1).reason == "too_few_experiments"
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_forecasts_cover_what_is_measured_next() -> None:
    for spread in (0.0, 0.3):
        scores = []
        for seed in range(150):
            x, se_x, y, se_y = past(seed, 21, spread)
            seen = transfer(x[:-1], se_x[:-1], y[:-1], se_y[:-1])
            scores.append(score(forecast_next(seen, x[-1], se_x[-1], se_y[-1]), y[-1]))
        z = np.array([one.z for one in scores], dtype=float)
        assert np.mean([bool(one.covered) for one in scores]) >= 0.91
        assert abs(z.mean()) < 0.3
        assert 0.75 < np.sqrt((z**2).mean()) < 1.25


def test_a_forecast_widens_with_each_of_its_sources() -> None:
    seen = transfer(*past(8, 30))
    assert seen.line is not None
    at_centre, far = (forecast_next(seen, x, 0.0) for x in (seen.line.centre, seen.line.centre + 5))
    noisy, measured = (
        forecast_next(seen, seen.line.centre, 0.5),
        forecast_next(seen, seen.line.centre, 0.0, 0.5),
    )
    assert at_centre.se == pytest.approx(math.hypot(seen.line.height_se, seen.line.spread))
    assert min(far.se or 0, noisy.se or 0, measured.se or 0) > (at_centre.se or 0)
    assert noisy.own_se == pytest.approx(0.5 * abs(seen.line.slope))
    assert measured.own_se == 0.5


def test_the_interval_score_is_the_published_formula() -> None:
    forecast = Forecast(0.1, 1.0, 0.0, 2.0, 0.5)
    inside, below, above = (score(forecast, measured) for measured in (1.5, -0.5, 3.0))
    assert (inside.covered, inside.interval_score, inside.z) == (True, 2.0, 1.0)
    assert (below.covered, below.interval_score) == (False, pytest.approx(2 + 20 * 0.5))
    assert (above.covered, above.interval_score) == (False, pytest.approx(2 + 20 * 1.0))
    assert score(Forecast(0.1, 1.0, 0.0, 2.0), 1.0).z is None


def test_what_cannot_be_scored_says_why() -> None:
    scores = [score(Forecast(0.05), 1.0), score(Forecast(0.05, 1.0, 0.0, 2.0), math.nan)]
    assert [one.reason for one in scores] == ["no_forecast", "nothing_measured"]
    assert [(one.covered, one.interval_score) for one in scores] == [(None, None)] * 2


@pytest.mark.parametrize(
    ("change", "usable"),
    [((0, math.nan), 19), ((1, math.inf), 19), ((1, -1.0), 19), ((2, math.inf), 19), ((3, math.nan), 19)],
)
def test_an_unusable_experiment_is_left_out_and_counted(change: tuple[int, float], usable: int) -> None:
    points = past(9)
    points[change[0]][3] = change[1]
    found = transfer(*points)
    assert (len(found.points), found.left_out) == (usable, 1)
    assert found.line is not None


def test_ugly_points_have_no_line_but_a_reason() -> None:
    one = np.ones(20)
    assert york([1.0], [1], [1], [1]) == "too_few_points"
    assert york([1.0, math.nan, 2], [1, 1, 1], [1, 2, 3], [1, 1, 1]) == "values_not_usable"
    assert york(one, one, np.arange(20.0), one) == "no_spread_in_x"
    assert york(np.arange(20.0), 0 * one, np.arange(20.0), 0 * one) == "values_not_usable"
    assert york([1.7e308, -1e308, 1.7e308], [1, 1, 1], [1, 2, 3], [1, 1, 1]) == "values_too_large"
    assert line_of(np.arange(20.0), one, one, one).slope == pytest.approx(0)
    assert line_of(np.arange(20.0), one, 2 * np.arange(20.0) - 7, one, extra=True).slope == pytest.approx(2)
    huge = transfer(*(part * 1e150 for part in past(10)))
    assert isinstance(huge, Transfer)
    assert huge.line is not None
    assert json.dumps(huge.to_dict(), allow_nan=False)
    assert york([1e-300, 2e-300, 4e-300], [0, 0, 0], [1e300, 2e300, 5e300], [1, 1, 1]) in (
        "no_fit",
        "values_too_large",
    )
    seen = transfer(*past(11))
    for x, se in ((math.nan, 0.1), (1.0, -0.1), (1.0, math.inf)):
        assert forecast_next(seen, x, se).reason == "offline_gain_not_usable"
    with pytest.raises(ValueError, match="one value per point"):
        transfer([1.0], [1.0], [1.0, 2.0], [1.0])
    with pytest.raises(ValueError, match="alpha"):
        transfer([1.0], [1.0], [1.0], [1.0], alpha=0)
