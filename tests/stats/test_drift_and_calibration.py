"""Drift with its null distribution; calibration with slope and intercept."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.calibration import calibration
from understudy.stats.drift import psi, psi_of_counts


@pytest.mark.parametrize(("size", "critical"), [(500, 0.068), (10_000, 0.0034)])
def test_the_critical_value_depends_on_the_sample_size(size: int, critical: float) -> None:
    rng = np.random.default_rng(1)
    found = psi(rng.normal(size=size), rng.normal(size=size))
    assert found.critical == pytest.approx(critical, rel=0.02)


def test_without_drift_one_in_twenty_is_significant_and_a_shift_always_is() -> None:
    rng = np.random.default_rng(2)
    quiet = sum(psi(rng.normal(size=800), rng.normal(size=800)).significant for _ in range(400))
    assert 4 <= quiet <= 40
    assert psi(rng.normal(size=800), rng.normal(0.4, 1, 800)).significant


def test_blanks_that_start_to_appear_are_drift() -> None:
    rng = np.random.default_rng(3)
    current = rng.normal(size=1000)
    current[:100] = math.nan
    assert psi(rng.normal(size=1000), current).significant


@pytest.mark.parametrize(
    ("reference", "current", "reason"),
    [
        ([], [1.0], "no_rows"),
        ([1.0], [], "no_rows"),
        ([1.0, 1.0], [1.0], "one_bin"),
        ([math.nan], [math.nan], "one_bin"),
    ],
)
def test_nothing_to_compare_is_undetermined(
    reference: list[float], current: list[float], reason: str
) -> None:
    found = psi(reference, current)
    assert (found.psi, found.significant, found.reason) == (None, False, reason)


def test_counts_of_categories_work_and_must_match() -> None:
    assert psi_of_counts([50, 50, 0], [50, 50, 0]).psi == 0
    assert psi_of_counts([500, 500], [900, 100]).significant
    with pytest.raises(ValueError, match="same bins"):
        psi_of_counts([1, 2], [1])


def test_a_calibrated_model_has_slope_one_and_an_overconfident_one_less() -> None:
    rng = np.random.default_rng(5)
    p = rng.uniform(0.02, 0.98, 20_000)
    y = (rng.random(20_000) < p).astype(float)
    good = calibration(p, y)
    assert good.slope == pytest.approx(1, abs=4 * (good.slope_se or 0))
    assert good.intercept == pytest.approx(0, abs=4 * (good.intercept_se or 0))
    assert (good.ece or 1) < 0.02
    overconfident = 1 / (1 + np.exp(-2 * np.log(p / (1 - p))))
    bad = calibration(overconfident, y)
    assert bad.slope == pytest.approx(0.5, abs=0.03)
    assert (bad.ece or 0) > 0.05
    assert json.dumps(bad.to_dict(), allow_nan=False)


def test_slope_and_intercept_agree_with_statsmodels() -> None:
    import statsmodels.api as sm

    rng = np.random.default_rng(6)
    p = rng.beta(2, 5, 800)
    y = (rng.random(800) < p**1.3).astype(float)
    fit = sm.Logit(y, sm.add_constant(np.log(p / (1 - p)))).fit(disp=0)
    found = calibration(p, y)
    assert [found.intercept, found.slope] == pytest.approx(list(fit.params), rel=1e-5)
    assert [found.intercept_se, found.slope_se] == pytest.approx(list(fit.bse), rel=1e-4)


@pytest.mark.parametrize(
    ("p", "y", "reason"),
    [
        ([], [], "no_rows"),
        ([math.nan, 1.5], [0, 1], "no_rows"),
        ([0.2, 0.3], [1, 1], "one_class"),
        ([0.2, 0.2], [0, 1], "constant_prediction"),
        ([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1], "separated"),
    ],
)
def test_what_cannot_be_fitted_says_why(p: list[float], y: list[float], reason: str) -> None:
    found = calibration(p, y)
    assert found.slope is None
    assert found.reason in (reason, "no_fit")


def test_bins_are_open_on_the_left_and_zero_is_in_the_first() -> None:
    found = calibration([0.0, 0.1, 0.1000001, 1.0], [0, 0, 1, 1])
    assert [(b[0], b[2]) for b in found.bins] == [(0.0, 2), (pytest.approx(0.1), 1), (pytest.approx(0.9), 1)]
