"""CUPED on sums per cluster: unbiased, as good as the correlation, honest under peeking, harmless on ugly inputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import binom, ttest_ind

from understudy.stats.cuped import MIN_CLUSTERS, Sums, adjust, imbalance
from understudy.stats.ratio import ArmMoments, compare, difference_arrays
from understudy.stats.sequences import multiplier

Array = NDArray[np.float64]


def arm(
    rng: np.random.Generator, clusters: int, effect: float = 0.0, correlation: float = 0.8, stages: int = 1
) -> Sums:
    """One event per cluster and stage before and during; outcome and history correlate as asked."""
    shape = (clusters, stages)
    x = np.repeat(rng.normal(size=(clusters, 1)), stages, axis=1)
    y = correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=shape) + effect
    return Sums.of(y, np.ones(shape), x, np.ones(shape))


def moments(adjusted: Array, arm_sums: Sums) -> ArmMoments:
    return ArmMoments.from_units(adjusted, arm_sums.denominator)


def test_the_variance_falls_by_the_squared_correlation() -> None:
    rng = np.random.default_rng(1)
    for correlation in (0.0, 0.5, 0.9):
        arms = [arm(rng, 20_000, effect=e, correlation=correlation) for e in (0.0, 0.3)]
        found = adjust(*arms)
        before, after = (
            compare(*(moments(n, a) for n, a in zip(numerators, arms, strict=True)))
            for numerators in ([a.numerator for a in arms], [found.control, found.challenger])
        )
        assert float(found.variance_reduction) == pytest.approx(correlation**2, abs=0.01)
        assert before.se is not None
        assert after.se is not None
        assert 1 - (after.se / before.se) ** 2 == pytest.approx(float(found.variance_reduction), abs=1e-3)
        assert float(found.slope) == pytest.approx(correlation, abs=0.02)


def test_the_estimate_stays_unbiased() -> None:
    rng = np.random.default_rng(2)
    n, clusters = 2000, 40
    x = rng.normal(2, 1, (n, 2, clusters, 1))
    y = x + 0.5 * rng.normal(size=x.shape)
    y[:, 1] += 0.3
    one = np.ones((n, clusters, 1))
    arms = [Sums.of(y[:, i], one, x[:, i], one) for i in range(2)]
    found = adjust(*arms)
    numerators = found.control, found.challenger
    estimate, se, *_ = difference_arrays(*(moments(v, a) for v, a in zip(numerators, arms, strict=True)))
    assert float(estimate.mean()) == pytest.approx(0.3, abs=4 * float(estimate.std()) / math.sqrt(n))
    # The standard error is that of the adjusted estimate, not of the raw one.
    assert float(se.mean()) == pytest.approx(float(estimate.std()), rel=0.06)
    assert float(estimate.std()) < 0.6 * math.sqrt(2 * 1.25 / clusters)


def test_an_effect_does_not_leak_into_the_coefficient() -> None:
    rng = np.random.default_rng(3)
    control, challenger = arm(rng, 200), arm(rng, 200)
    shifted = Sums.of(
        challenger.numerator + 1000.0, challenger.denominator,
        challenger.history_numerator, challenger.history_denominator,
    )  # fmt: skip
    assert adjust(control, shifted).slope == pytest.approx(adjust(control, challenger).slope, rel=1e-9)


def test_stages_of_other_length_get_their_own_theta_but_one_slope() -> None:
    rng = np.random.default_rng(4)
    taste = rng.normal(1, 0.3, (2, 500, 1))
    d = np.broadcast_to([1.0, 10.0], (500, 2))
    arms = [Sums.of(taste[i] * d, d, taste[i] * 5.0, np.full((500, 1), 5.0)) for i in range(2)]
    found = adjust(*arms)
    assert float(found.slope) == pytest.approx(1.0, rel=1e-9)
    assert found.theta.tolist() == pytest.approx([0.2, 2.0])
    assert float(found.variance_reduction) == pytest.approx(1.0)
    # The formula as documented gives the same numerators.
    again = arms[0].numerator - found.theta * (
        arms[0].history_numerator - found.covariate_ratio * arms[0].history_denominator
    )
    np.testing.assert_allclose(found.control, again, rtol=1e-12)


def test_a_cluster_without_history_is_left_as_it_is() -> None:
    rng = np.random.default_rng(5)
    control, challenger = arm(rng, 100), arm(rng, 100)
    dx = challenger.history_denominator.copy()
    dx[:30] = 0.0
    part = Sums.of(challenger.numerator, challenger.denominator, challenger.history_numerator, dx)
    found = adjust(control, part)
    assert np.array_equal(found.challenger[:30], part.numerator[:30])
    assert not np.array_equal(found.challenger[30:], part.numerator[30:])
    assert (float(found.without_history), float(found.clusters)) == (30.0, 170.0)


def test_leading_axes_are_judged_one_by_one() -> None:
    rng = np.random.default_rng(6)
    pairs = [(arm(rng, 50, stages=2), arm(rng, 40, stages=2)) for _ in range(3)]
    names = ("numerator", "denominator", "history_numerator", "history_denominator")
    both = [
        Sums.of(*(np.stack([getattr(pair[i], name) for pair in pairs]) for name in names)) for i in range(2)
    ]
    together = adjust(*both)
    for i, pair in enumerate(pairs):
        alone = adjust(*pair)
        np.testing.assert_allclose(together.control[i], alone.control, rtol=1e-12)
        np.testing.assert_allclose(together.theta[i], alone.theta, rtol=1e-12)
    assert json.dumps(together.to_dict(), allow_nan=False)


def test_arrays_without_a_stage_axis_are_taken_too() -> None:
    rng = np.random.default_rng(7)
    one = arm(rng, 60)
    names = ("numerator", "denominator", "history_numerator", "history_denominator")
    flat = Sums.without_stages(*(getattr(one, name)[:, 0] for name in names))
    assert np.array_equal(adjust(flat, flat).control, adjust(one, one).control)


def test_peeking_at_adjusted_numbers_alarms_no_more_often_than_promised() -> None:
    # 500 replicates of 60 buckets per arm that fill up over 40 looks; theta is fitted anew at every look.
    rng = np.random.default_rng(8)
    runs, buckets, looks = 500, 60, 40
    sums = [[np.zeros((runs, buckets, 1)) for _ in range(4)] for _ in range(2)]
    found, gain = np.zeros(runs, dtype=bool), 0.0
    for _ in range(looks):
        for n, d, x, dx in sums:
            units = rng.poisson(3, n.shape).astype(float)
            history = units * 0.5 + np.sqrt(units) * rng.normal(size=n.shape)
            n += history * 0.8 + np.sqrt(units) * 0.6 * rng.normal(size=n.shape)
            x += history
            d += units
            dx += units
        arms = [Sums.of(*part) for part in sums]
        adjusted = adjust(*arms)
        gain = float(adjusted.variance_reduction.mean())
        numerators = adjusted.control, adjusted.challenger
        estimate, se, df, clock, _, _ = difference_arrays(
            *(moments(v, a) for v, a in zip(numerators, arms, strict=True))
        )
        found |= np.abs(estimate / se) > multiplier(clock, 0.05, 7000, "two", df)
    assert gain == pytest.approx(0.64, abs=0.03)
    assert found.sum() <= binom.ppf(1 - 1e-4, runs, 0.05)


def test_an_imbalance_of_the_past_is_found() -> None:
    rng = np.random.default_rng(9)
    even = imbalance(arm(rng, 400), arm(rng, 400), 0.001, 800)
    assert (bool(even.alarm), bool(even.determined)) == (False, True)
    control, other = arm(rng, 400), arm(rng, 400)
    odd = Sums.of(
        other.numerator, other.denominator, other.history_numerator + 1.0, other.history_denominator
    )
    found = imbalance(control, odd, 0.001, 800)
    assert bool(found.alarm)
    assert float(found.lower) > 0
    assert float(found.log_e) > math.log(1000)
    assert float(found.p) < 1e-6


def test_the_fixed_p_value_of_the_imbalance_is_a_t_test() -> None:
    rng = np.random.default_rng(10)
    control, challenger = arm(rng, 300), arm(rng, 300)
    theirs = ttest_ind(challenger.history_numerator[:, 0], control.history_numerator[:, 0], equal_var=False)
    assert float(imbalance(control, challenger, 0.05, 600).p) == pytest.approx(theirs.pvalue, rel=1e-6)


ONES = np.ones((30, 1))
SPREAD = np.arange(30.0)[:, None]
UGLY: dict[str, tuple[Sums, str]] = {
    "no clusters": (Sums.of(*[np.zeros((0, 1))] * 4), "no_history"),
    "no stages": (Sums.of(*[np.zeros((30, 0))] * 4), "no_history"),
    "one unit": (Sums.of(*[np.ones((1, 1))] * 4), "too_few_clusters"),
    "few clusters": (Sums.of(*[np.arange(1.0, 9.0)[:, None]] * 4), "too_few_clusters"),
    "no history": (Sums.of(SPREAD, ONES, SPREAD, ONES * 0), "no_history"),
    "constant history": (Sums.of(SPREAD, ONES, ONES * 0.1, ONES), "history_does_not_vary"),
    "nan history": (Sums.of(SPREAD, ONES, ONES * math.nan, ONES), "no_history"),
    "infinite history": (Sums.of(SPREAD, ONES, ONES * math.inf, ONES), "no_history"),
    "nobody seen": (Sums.of(SPREAD, ONES * 0, SPREAD, ONES), "no_history"),
    "nan": (Sums.of(ONES * math.nan, ONES, SPREAD, ONES), "no_history"),
    "huge history": (Sums.of(SPREAD, ONES, SPREAD * 1e300, ONES), "no_slope"),
}


@pytest.mark.parametrize("name", UGLY)
def test_ugly_inputs_change_nothing_and_say_why(name: str) -> None:
    sums, reason = UGLY[name]
    found = adjust(sums, sums)
    assert str(found.reason) == reason
    assert np.array_equal(found.control, sums.numerator, equal_nan=True)
    assert float(found.slope) == 0
    assert float(found.variance_reduction) == 0
    assert json.dumps(found.to_dict(), allow_nan=False)
    past = imbalance(sums, sums, 0.01, 100)
    assert not bool(past.alarm)
    assert not bool(past.determined)
    assert json.dumps(past.to_dict(), allow_nan=False)


def test_values_that_are_no_numbers_pass_through_to_be_counted() -> None:
    rng = np.random.default_rng(11)
    control, challenger = arm(rng, 100), arm(rng, 100)
    n = control.numerator.copy()
    n[0], n[1] = math.nan, math.inf
    found = adjust(
        Sums.of(n, control.denominator, control.history_numerator, control.history_denominator), challenger
    )
    assert float(ArmMoments.from_units(found.control, control.denominator).non_finite) == 2
    assert np.isfinite(found.control[2:]).all()
    assert str(found.reason) == ""


def test_a_scale_of_a_billion_changes_nothing_but_the_scale() -> None:
    rng = np.random.default_rng(12)
    arms = [arm(rng, 100) for _ in range(2)]
    big = [
        Sums.of(a.numerator * 1e9, a.denominator, a.history_numerator * 1e-9, a.history_denominator)
        for a in arms
    ]
    np.testing.assert_allclose(adjust(*big).control, adjust(*arms).control * 1e9, rtol=1e-9)


def test_the_least_number_of_clusters_is_a_boundary() -> None:
    rng = np.random.default_rng(13)
    half = MIN_CLUSTERS // 2
    assert str(adjust(arm(rng, half), arm(rng, half)).reason) == ""
    assert str(adjust(arm(rng, half), arm(rng, half - 1)).reason) == "too_few_clusters"


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        Sums.of(np.ones((3, 1)), np.ones((2, 1)), np.ones((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="negative"):
        Sums.of(ONES, -ONES, ONES, ONES)
    with pytest.raises(ValueError, match="negative"):
        Sums.of(ONES, ONES, ONES, -ONES)
    with pytest.raises(ValueError, match="arms of shape"):
        adjust(Sums.of(*[np.ones((5, 1))] * 4), Sums.of(*[np.ones((5, 2))] * 4))
