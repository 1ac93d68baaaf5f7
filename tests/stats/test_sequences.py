"""Confidence sequences: closed forms, published multipliers, ugly inputs, and their promise under repeated looks."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr

from understudy.stats.sequences import Interval, log_e_value, multiplier, one_sided, tuning, two_sided


@pytest.mark.parametrize(("times", "expected"), [(1, 3.04), (8, 3.2), (1000, 3.9), (0.1, 3.8)])
def test_the_multiplier_has_its_published_values(times: float, expected: float) -> None:
    assert float(multiplier(5000 * times, 0.05, 5000)) == pytest.approx(expected, abs=0.06)


@pytest.mark.parametrize("sided", ["one", "two"])
@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.001, 1e-8])
def test_the_sequence_is_tightest_near_the_planned_size(alpha: float, sided: str) -> None:
    n = np.geomspace(10, 1e7, 4000)
    best = n[np.argmin(multiplier(n, alpha, 5000, sided))]
    assert 0.75 * 5000 < best < 1.5 * 5000


def test_rho_agrees_with_the_form_without_lamberts_w() -> None:
    for alpha in (0.1, 0.01, 1e-6):
        plain = math.sqrt((-2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))) / 700)
        assert tuning(alpha, 700) == pytest.approx(plain, rel=0.03)
    assert tuning(1e-160, 700) == pytest.approx(tuning(2e-140, 700), rel=0.2)


def test_both_forms_match_their_formula_computed_by_hand() -> None:
    n, alpha, rho = 1234, 0.03, tuning(0.03, 900)
    q = n * rho**2 + 1
    half = 0.5 * math.sqrt(2 * q / (n * rho**2) * math.log(math.sqrt(q) / alpha))
    found = two_sided(2.0, 0.5, n, alpha, 900)
    assert (found.lower, found.upper) == (pytest.approx(2 - half), pytest.approx(2 + half))
    rho = tuning(alpha, 900, "one")
    q = n * rho**2 + 1
    half = 0.5 * math.sqrt(2 * q / (n * rho**2) * math.log1p(math.sqrt(q) / (2 * alpha)))
    found = one_sided(2.0, 0.5, n, alpha, 900)
    assert (found.lower, found.upper) == (pytest.approx(2 - half), pytest.approx(2 + half))


def test_a_two_sided_interval_excludes_zero_exactly_when_the_e_value_reaches_one_over_alpha() -> None:
    for n in (20, 900, 40_000):
        edge = float(multiplier(n, 0.05, 900))
        at_edge = log_e_value(edge, 1.0, n, 0.05, 900)
        assert at_edge == pytest.approx(math.log(20), rel=1e-9)


def test_a_one_sided_alarm_implies_an_e_value_of_at_least_one_over_alpha() -> None:
    for n in (20, 900, 40_000):
        edge = float(multiplier(n, 0.05, 900, "one"))
        found = log_e_value(edge, 1.0, n, 0.05, 900, "one")
        assert found is not None
        assert math.log(20) <= found < math.log(20) + 0.2


def test_log_e_does_not_overflow() -> None:
    found = log_e_value(1e3, 1.0, 10**6, 0.05, 1000)
    assert found is not None
    assert 4e5 < found < 6e5


def test_fewer_clusters_and_a_smaller_alpha_only_widen() -> None:
    df = np.array([1, 2, 5, 20, 100, 1e6, math.inf])
    widths = multiplier(900, 0.05, 900, "two", df)
    assert (np.diff(widths) < 0).all()
    assert widths[-2] == pytest.approx(widths[-1], rel=1e-4)
    assert float(multiplier(900, 0.01, 900)) > float(multiplier(900, 0.05, 900))


def test_the_student_multiplier_has_the_normal_tail() -> None:
    from scipy.special import stdtr

    for df in (3, 10, 50):
        normal, student = (float(multiplier(900, 0.05, 900, "two", d)) for d in (math.inf, df))
        assert 0.75 * ndtr(-normal) < stdtr(df, -student) < 1.02 * ndtr(-normal)


@pytest.mark.parametrize(
    ("estimate", "se", "n", "reason"),
    [
        (0.1, 0.0, 100, "zero_variance"),
        (0.1, math.nan, 100, "no_standard_error"),
        (0.1, math.inf, 100, "no_standard_error"),
        (0.1, -1.0, 100, "no_standard_error"),
        (math.nan, 1.0, 100, "no_estimate"),
        (math.inf, 1.0, 100, "no_estimate"),
        (0.1, 1.0, 1, "too_few_units"),
        (0.1, 1.0, 0, "too_few_units"),
        (0.1, 1.0, math.nan, "too_few_units"),
    ],
)
def test_unusable_numbers_are_undetermined(estimate: float, se: float, n: float, reason: str) -> None:
    for build in (two_sided, one_sided):
        found = build(estimate, se, n, 0.05, 100)
        assert (found.determined, found.reason, found.lower, found.upper) == (False, reason, None, None)
    assert log_e_value(estimate, se, n, 0.05, 100) is None


def test_an_early_look_gives_a_huge_interval_and_no_error() -> None:
    found = two_sided(0.1, 1.0, 2, 0.05, 1e12)
    assert found.determined
    assert found.upper is not None
    assert found.upper > 1e3


@pytest.mark.parametrize("df", [0.0, -1.0, math.nan, 1e-3])
def test_no_degrees_of_freedom_are_undetermined(df: float) -> None:
    assert not two_sided(0.1, 1.0, 100, 0.05, 100, df).determined


@pytest.mark.parametrize(
    ("alpha", "n_star", "sided"), [(0, 9, "two"), (1, 9, "two"), (0.5, 9, "one"), (0.05, 0, "two")]
)
def test_an_unusable_plan_is_refused(alpha: float, n_star: float, sided: str) -> None:
    with pytest.raises(ValueError, match=r"must be|needs"):
        tuning(alpha, n_star, sided)


def test_an_interval_survives_its_dictionary() -> None:
    found = one_sided(0.1, 0.02, 500, 0.01, 400)
    assert Interval.from_dict(found.to_dict()) == found


def test_a_thousand_looks_at_nothing_alarm_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(7)
    n = np.arange(2, 1502)
    mean = rng.standard_normal((4000, n.size)).cumsum(axis=1) / n
    z = (mean * np.sqrt(n))[:, 20:]
    two = (np.abs(z) > multiplier(n, 0.05, 700)[20:]).any(axis=1).mean()
    one = (z > multiplier(n, 0.05, 700, "one")[20:]).any(axis=1).mean()
    assert 0.005 < two < 0.05
    assert 0.005 < one < 0.05
