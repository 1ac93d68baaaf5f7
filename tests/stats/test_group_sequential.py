"""Recursive integration against published tables, closed forms and the figures of confidence sequences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from understudy.stats.group_sequential import crossing
from understudy.stats.sequences import Sided, multiplier

Z = float(ndtri(0.975))


@pytest.mark.parametrize(
    ("looks", "percent"), [(1, 5.0), (2, 8.3), (5, 14.2), (10, 19.3), (20, 24.8), (50, 32.0), (100, 37.4)]
)
def test_peeking_at_an_ordinary_test_costs_what_armitage_published(looks: int, percent: float) -> None:
    found = crossing(np.arange(1, looks + 1), Z)
    assert 100 * found.total == pytest.approx(percent, abs=0.05)


@pytest.mark.parametrize(
    ("looks", "pocock", "obrien_fleming"), [(2, 2.178, 1.977), (5, 2.413, 2.040), (10, 2.555, 2.087)]
)
def test_group_sequential_bounds_match_their_tables(looks: int, pocock: float, obrien_fleming: float) -> None:
    k = np.arange(1, looks + 1)
    # Their last digit moves the chance by less than this.
    assert crossing(k, pocock).total == pytest.approx(0.05, abs=1e-4)
    assert crossing(k, obrien_fleming * np.sqrt(looks / k)).total == pytest.approx(0.05, abs=1e-4)


def test_one_look_is_an_ordinary_test() -> None:
    found = crossing([4.0], [1.7], [-2.2], effect=0.3)
    assert float(found.upper[0]) == pytest.approx(float(ndtr(0.6 - 1.7)), rel=1e-9)
    assert float(found.lower[0]) == pytest.approx(float(ndtr(-2.2 - 0.6)), rel=1e-9)


def test_two_looks_agree_with_a_plain_double_integral() -> None:
    bound, effect, t = 1.8, 0.4, np.array([1.0, 2.5])
    x = np.linspace(-bound, bound, 200_001)
    density = np.exp(-0.5 * (x - effect) ** 2) / math.sqrt(2 * math.pi)
    leaves = ndtr((x + effect * 1.5 - bound * math.sqrt(2.5)) / math.sqrt(1.5))
    second = np.trapezoid(density * leaves, x)
    assert float(crossing(t, bound, effect=effect).upper[1]) == pytest.approx(second, rel=1e-8)


def test_many_looks_without_a_lower_bound_follow_the_reflection_principle() -> None:
    # A straight bound on the score itself: P(max B_t > a for t <= 1) = 2 P(B_1 > a); looks only see a little less.
    t = np.arange(1, 801) / 800
    upper = 1.5 / np.sqrt(t)
    corrected = 1.5 + 0.5826 / math.sqrt(800)  # Siegmund's continuity correction
    found = crossing(t, upper, np.full(t.size, -np.inf)).total
    assert found == pytest.approx(2 * float(ndtr(-corrected)), rel=0.002)


def test_the_false_alarms_of_a_confidence_sequence_stay_below_alpha() -> None:
    for sided in ("two", "one"):
        looks = np.geomspace(20, 40_320, 250)
        lower = None if sided == "two" else np.full(looks.size, -np.inf)
        found = crossing(looks, multiplier(looks, 0.05, 5000, sided), lower).total
        assert 0.02 < found < 0.05


@pytest.mark.parametrize(
    ("times", "sided", "power", "median"),
    [
        (1.0, "two", 0.56, 17_920), (1.5, "two", 0.93, 8_335), (2.0, "two", 0.998, 5_050), (4.0, "two", 1.0, 1_720),
        (1.0, "one", 0.67, 14_215), (1.5, "one", 0.96, 6_875), (2.0, "one", 0.999, 4_300), (4.0, "one", 1.0, 1_580),
    ],
)  # fmt: skip
def test_power_and_stopping_time_are_those_simulated(
    times: float, sided: Sided, power: float, median: float
) -> None:
    # Simulated with 2016 looks; 300 looks see up to three points less and stop up to 6 % later.
    total = 40_320
    looks = np.linspace(total / 300, total, 300)
    drift = times * (Z + float(ndtri(0.8))) / math.sqrt(total)
    lower = None if sided == "two" else np.full(looks.size, -np.inf)
    found = crossing(looks, multiplier(looks, 0.05, total / 2, sided), lower, drift)
    assert power - 0.035 < found.total < power + 0.01
    middle = found.information[np.argmax(np.cumsum(found.upper + found.lower) >= 0.5)]
    assert middle / 2 == pytest.approx(median, rel=0.075)


def test_an_enormous_effect_is_found_at_the_first_look_and_none_is_never_lost() -> None:
    assert crossing([1.0, 2.0, 3.0], 2.0, effect=50.0).upper[0] == pytest.approx(1.0)
    assert crossing([1e-9, 1.0, 1e9], 2.0).total <= 3 * 2 * float(ndtr(-2.0))
    assert crossing([1.0, 2.0], np.inf).total == 0


@pytest.mark.parametrize(
    ("information", "upper", "lower", "effect"),
    [
        ([], 2.0, None, 0.0), ([0.0, 1.0], 2.0, None, 0.0), ([1.0, 1.0], 2.0, None, 0.0), ([1.0, math.nan], 2.0, None, 0.0),
        ([1.0, math.inf], 2.0, None, 0.0), ([1.0], math.nan, None, 0.0), ([1.0], 1.0, [2.0], 0.0), ([1.0], 2.0, None, math.nan),
        ([1.0], -2.0, None, 0.0),
    ],
)  # fmt: skip
def test_an_impossible_plan_is_refused(
    information: list[float], upper: float, lower: list[float] | None, effect: float
) -> None:
    with pytest.raises(ValueError, match="must"):
        crossing(information, upper, lower, effect)
