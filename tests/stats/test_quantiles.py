"""Order-statistic intervals: exact binomial coverage, clusters, differences under peeking, ugly inputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom

from understudy.stats.quantiles import Quantiles, cluster_factor, quantile_difference, quantiles, rank_bounds

Array = NDArray[np.float64]


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [600, 1000, 20_000])
def test_the_ranks_have_their_coverage_whatever_the_distribution(n: int, q: float) -> None:
    low, high, reason = rank_bounds(n, q, 0.05)
    assert str(reason) == ""
    # The interval covers when the number of values below the quantile lies in [low, high - 1].
    coverage = binom.cdf(float(high) - 1, n, q) - binom.cdf(float(low) - 1, n, q)
    assert 0.949 < coverage < 0.99


@pytest.mark.parametrize("q", [0.05, 0.5, 0.95, 0.99])
def test_too_few_values_are_undetermined_by_the_published_rule(q: float) -> None:
    least = 1.959963984540054**2 * max(q / (1 - q), (1 - q) / q)
    assert str(rank_bounds(math.floor(least), q, 0.05)[2]) == "too_few_values"
    assert str(rank_bounds(math.ceil(3 * least) + 2, q, 0.05)[2]) == ""


def test_a_quantile_and_its_bounds_are_values_that_were_seen() -> None:
    x = np.random.default_rng(1).permutation(np.arange(1.0, 1001.0))
    found = quantiles(x, 0.9)
    assert (float(found.estimate), float(found.lower), float(found.upper)) == (900.0, 881.0, 920.0)
    assert float(found.se) == pytest.approx((920 - 881) / (2 * 1.959963984540054))


def test_the_standard_error_is_the_spread_of_the_estimate() -> None:
    x = np.random.default_rng(2).lognormal(3, 0.5, (600, 2000))
    found = quantiles(x, 0.95)
    assert found.determined.all()
    assert float(found.se.mean()) == pytest.approx(float(found.estimate.std()), rel=0.1)
    truth = math.exp(3 + 0.5 * 1.6448536269514722)
    assert 0.93 < float(((found.lower <= truth) & (truth <= found.upper)).mean()) < 0.985


def clustered(
    rng: np.random.Generator, runs: int, units: int, each: int, shift: float = 0.0
) -> tuple[Array, Array]:
    """Requests of a unit share a factor; returns values [run, request] and the unit of each request."""
    speed = rng.normal(0, 0.8, (runs, units, 1))
    values = np.exp(3 + speed + 0.4 * rng.normal(size=(runs, units, each)) + shift)
    return values.reshape(runs, -1), np.repeat(np.arange(units), each)


def test_repeated_units_widen_the_interval_to_the_true_spread() -> None:
    values, units = clustered(np.random.default_rng(3), 300, 150, 8)
    factor = np.array([cluster_factor(row, units, 0.9) for row in values])
    assert 2 < float(np.median(factor)) < 6
    naive, right = quantiles(values, 0.9), quantiles(values, 0.9, factor=factor)
    spread = float(right.estimate.std())
    assert float(right.se.mean()) == pytest.approx(spread, rel=0.15)
    assert float(naive.se.mean()) < 0.7 * spread


def test_the_cluster_factor_of_independent_requests_is_one() -> None:
    rng = np.random.default_rng(4)
    assert cluster_factor(rng.normal(size=5000), np.arange(5000), 0.9) == pytest.approx(1, abs=1e-3)
    copies = np.repeat(rng.normal(size=1000), 5)
    assert cluster_factor(copies, np.repeat(np.arange(1000), 5), 0.9) == pytest.approx(5, rel=0.01)


def test_a_difference_finds_a_slowdown_and_not_its_absence() -> None:
    rng = np.random.default_rng(5)
    control, same, slow = (rng.lognormal(3, 0.5, 20_000) * f for f in (1.0, 1.0, 1.1))
    base = quantiles(control, 0.99)
    for n_star in (None, 20_000):
        assert float(quantile_difference(base, quantiles(slow, 0.99), 0.05, "one", n_star).lower) > 0
        quiet = quantile_difference(base, quantiles(same, 0.99), 0.001, "two", n_star)
        assert float(quiet.lower) < 0 < float(quiet.upper)


def test_the_confidence_sequence_survives_peeking_where_the_fixed_interval_does_not() -> None:
    # Measured for p99 over 40 looks: plain interval 26 %, order statistics with the sequence's multiplier 0.9 %.
    rng = np.random.default_rng(6)
    runs, looks, step = 200, 20, 400
    x = rng.lognormal(3, 0.5, (2, runs, looks * step))
    fixed, anytime = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    for k in range(1, looks + 1):
        arms = [quantiles(values[:, : k * step], 0.95) for values in x]
        for alarms, n_star in ((fixed, None), (anytime, looks * step)):
            found = quantile_difference(arms[0], arms[1], 0.05, "two", n_star)
            alarms |= found.determined & ((found.lower > 0) | (found.upper < 0))
    assert fixed.mean() > 0.12
    assert anytime.sum() <= binom.ppf(1 - 1e-4, runs, 0.05)


def test_rows_of_different_length_are_padded_with_nan() -> None:
    rng = np.random.default_rng(7)
    x = np.full((2, 900), math.nan)
    x[0], x[1, :400] = rng.normal(size=900), rng.normal(size=400)
    found = quantiles(x, 0.5)
    for i, n in enumerate((900, 400)):
        alone = quantiles(x[i, :n], 0.5)
        assert float(found.lower[i]) == float(alone.lower)
        assert float(found.n[i]) == n
    assert found.non_finite.tolist() == [0, 500]


UGLY: dict[str, tuple[Array, float, str]] = {
    "empty": (np.empty(0), 1.0, "too_few_values"),
    "one": (np.ones(1), 1.0, "too_few_values"),
    "few": (np.arange(30.0), 1.0, "too_few_values"),
    "zero variance": (np.ones(5000), 1.0, "bounds_coincide"),
    "nan": (np.full(5000, math.nan), 1.0, "too_few_values"),
    "inf": (np.full(5000, math.inf), 1.0, "too_few_values"),
    "no factor": (np.arange(5000.0), math.nan, "no_cluster_factor"),
    "infinite factor": (np.arange(5000.0), math.inf, "no_cluster_factor"),
    "few independent units": (np.arange(5000.0), 5000.0, "too_few_values"),
}


@pytest.mark.parametrize("name", UGLY)
def test_ugly_inputs_are_undetermined(name: str) -> None:
    values, factor, reason = UGLY[name]
    found = quantiles(values, 0.9, factor=factor)
    assert (bool(found.determined), str(found.reason)) == (False, reason)
    fine = quantiles(np.arange(5000.0), 0.9)
    for pair in ((found, fine), (fine, found)):
        for n_star in (None, 1000):
            difference = quantile_difference(*pair, 0.05, n_star=n_star)
            assert (bool(difference.determined), str(difference.reason)) == (False, reason)
            assert json.dumps(difference.to_dict(), allow_nan=False)
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_values_too_large_to_subtract_are_undetermined() -> None:
    low, high = (quantiles(sign * np.linspace(1e308, 1.7e308, 5000), 0.5) for sign in (-1, 1))
    assert str(quantile_difference(low, high, 0.05).reason) == "no_standard_error"


def test_no_rows_give_no_rows() -> None:
    assert quantiles(np.empty((0, 5)), 0.5).estimate.shape == (0,)


def test_a_scale_of_a_billion_only_scales() -> None:
    x = np.random.default_rng(8).normal(size=2000)
    near, far = quantiles(x, 0.9), quantiles(x * 2.0**30, 0.9)
    assert float(far.se) == float(near.se) * 2.0**30


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, math.nan], [2.0, 2.0]])
def test_a_cluster_factor_without_information_is_nan(values: list[float]) -> None:
    assert math.isnan(cluster_factor(values, list(range(len(values))), 0.5))


def test_one_unit_has_no_cluster_factor() -> None:
    assert math.isnan(cluster_factor(np.arange(50.0), np.zeros(50), 0.5))


def test_misuse_is_refused() -> None:
    fine: Quantiles = quantiles(np.arange(100.0), 0.5)
    for q, alpha in ((0.0, 0.05), (1.0, 0.05), (0.5, 0.0), (0.5, 1.0), (math.nan, 0.05)):
        with pytest.raises(ValueError, match="between 0 and 1"):
            quantiles(np.arange(100.0), q, alpha)
    with pytest.raises(ValueError, match="axis"):
        quantiles(1.0, 0.5)
    with pytest.raises(ValueError, match="both arms"):
        quantile_difference(fine, quantiles(np.arange(100.0), 0.6), 0.05)
    with pytest.raises(ValueError, match="alpha"):
        quantile_difference(fine, fine, 0.0)
    with pytest.raises(ValueError, match="one unit per value"):
        cluster_factor([1.0, 2.0], [1], 0.5)
