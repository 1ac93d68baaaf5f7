"""Sample sizes against statsmodels, their inverses, the price of looking, the ship rule's figures, ugly inputs."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest

from understudy.stats.planning import (
    MEASURED_FACTOR,
    detectable_effect,
    fixed_power,
    metric_power,
    proportion_sd,
    sample_size,
    sequential_factor,
    ship_probability,
    stage_duration,
)
from understudy.stats.sequences import Sided, multiplier


@pytest.mark.parametrize("sided", ["one", "two"])
@pytest.mark.parametrize(
    ("effect", "power", "alpha"), [(0.1, 0.8, 0.05), (0.02, 0.95, 0.01), (0.5, 0.9, 0.05)]
)
def test_a_mean_agrees_with_statsmodels(effect: float, power: float, alpha: float, sided: Sided) -> None:
    from statsmodels.stats.power import NormalIndPower, TTestIndPower

    direction = "larger" if sided == "one" else "two-sided"
    sd, distance = 3.0, 3.0 * effect
    found = sample_size(sd, distance, alpha, power, sided=sided)
    normal = NormalIndPower().solve_power(effect, None, alpha, power, 1.0, direction)
    student = TTestIndPower().solve_power(effect, None, alpha, power, 1.0, direction)
    assert float(found.control) == float(found.challenger) == pytest.approx(math.ceil(normal), abs=1)
    # Student's t asks for z^2 / 4 units more, which only shows in tiny experiments.
    assert float(student - found.control) < 3
    ours = float(fixed_power(sd, distance, 800, alpha, sided=sided))
    assert ours == pytest.approx(NormalIndPower().power(effect, 400, alpha, 1.0, direction), abs=1e-9)


def test_unequal_exposure_agrees_with_statsmodels() -> None:
    from statsmodels.stats.power import NormalIndPower

    found = sample_size(1.0, 0.1, 0.05, 0.8, shares=(0.9, 0.1), sided="two")
    control = NormalIndPower().solve_power(0.1, None, 0.05, 0.8, 1 / 9, "two-sided")
    assert float(found.control) == pytest.approx(control, abs=1.5)
    assert float(found.total) == pytest.approx(control * 10 / 9, abs=2)
    # Units nobody counts are waited for all the same.
    part = sample_size(1.0, 0.1, 0.05, 0.8, shares=(0.05, 0.05), sided="two")
    assert float(part.total) == pytest.approx(
        10 * float(sample_size(1.0, 0.1, 0.05, 0.8, sided="two").total), rel=1e-3
    )


def test_a_proportion_agrees_with_statsmodels() -> None:
    from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

    theirs = samplesize_proportions_2indep_onetail(0.01, 0.05, 0.8, 1, 0.05, 0.0, "two-sided")
    # Its null variance is pooled, ours is not: a difference of a few per mille.
    found = sample_size(proportion_sd(0.05), 0.01, 0.05, 0.8, sd_challenger=proportion_sd(0.06), sided="two")
    assert float(found.control) == pytest.approx(theirs, rel=0.005)


def test_the_sample_of_the_simulated_plan_is_reproduced() -> None:
    # 20,160 per arm: 2016 looks of 10 users; the effect a final t test finds with 80 %.
    effect = float(detectable_effect(1.0, 40_320, 0.05, 0.8, sided="two"))
    assert effect == pytest.approx(2.8016 * math.sqrt(2 / 20_160), rel=1e-4)
    assert float(sample_size(1.0, effect, 0.05, 0.8, sided="two").control) == pytest.approx(20_160, abs=1)


@pytest.mark.parametrize("sided", ["one", "two"])
def test_size_effect_and_power_are_inverses(sided: Sided) -> None:
    sd, distance = np.array([1.0, 2.0, 7.0])[:, None], np.array([0.01, 0.3])
    found = sample_size(sd, distance, 0.01, 0.9, shares=(0.2, 0.1), sided=sided, factor=1.5)
    assert found.total.shape == (3, 2)
    back = detectable_effect(sd, found.total, 0.01, 0.9, shares=(0.2, 0.1), sided=sided, factor=1.5)
    np.testing.assert_allclose(back, np.broadcast_to(distance, (3, 2)), rtol=5e-3)
    power = fixed_power(sd, distance, found.total / 1.5, 0.01, shares=(0.2, 0.1), sided=sided)
    np.testing.assert_allclose(power, 0.9, atol=5e-3)


def test_the_price_of_looking_is_the_measured_one() -> None:
    for sided, measured in MEASURED_FACTOR.items():
        computed = sequential_factor(0.05, 0.8, sided)
        assert measured * 0.99 < computed < measured * 1.04
    assert sequential_factor(0.001, 0.8) < sequential_factor(0.01, 0.8) < sequential_factor(0.05, 0.8)
    assert sequential_factor(0.05, 0.95) < sequential_factor(0.05, 0.8) < sequential_factor(0.05, 0.1)


def test_the_multiplier_of_the_sequence_has_its_published_values() -> None:
    for times, expected in ((1, 3.04), (8, 3.2), (1000, 3.9)):
        assert float(multiplier(5000 * times, 0.05, 5000)) == pytest.approx(expected, abs=0.06)


def test_the_ship_rule_has_its_published_risks() -> None:
    # Three success metrics, four guardrails, alpha .05, beta .2.
    power = metric_power(0.2, 4)
    assert power == pytest.approx(0.96)
    no_success = ship_probability([0.05 / 3] * 3, [power] * 4)
    one_at_its_margin = ship_probability([power] * 3, [power] * 3 + [0.05])
    as_designed = ship_probability([power] * 3, [power] * 4)
    assert [round(100 * p, 1) for p in (no_success, one_at_its_margin, as_designed)] == [4.2, 4.4, 84.9]


def test_the_ship_rule_agrees_with_a_simulation() -> None:
    rng = np.random.default_rng(1)
    wins, holds = rng.random((200_000, 2)) < [0.3, 0.6], rng.random((200_000, 2)) < [0.9, 0.8]
    shipped = (wins.any(axis=1) & holds.all(axis=1)).mean()
    assert ship_probability([0.3, 0.6], [0.9, 0.8]) == pytest.approx(float(shipped), abs=0.005)
    assert ship_probability([], [1.0]) == 0
    assert ship_probability([1.0], []) == 1


def test_a_ladder_takes_as_long_as_its_smaller_arm() -> None:
    found = stage_duration(
        [100, 500, 500], 2.0, ([0.01, 0.25, 0.05], [0.01, 0.25, 0.95]), soak=[60, 3600, 60]
    )
    assert found.seconds.tolist() == pytest.approx([5000, 3600, 5000])
    assert (found.total, found.determined) == (pytest.approx(13_600), True)


UGLY_SIZES = [
    (0.0, 0.1, (0.5, 0.5)), (math.nan, 0.1, (0.5, 0.5)), (math.inf, 0.1, (0.5, 0.5)), (-1.0, 0.1, (0.5, 0.5)),
    (1.0, 0.0, (0.5, 0.5)), (1.0, math.nan, (0.5, 0.5)), (1.0, 1e-200, (0.5, 0.5)),
    (1.0, 0.1, (0.0, 0.5)), (1.0, 0.1, (0.5, 0.0)), (1.0, 0.1, (math.nan, 0.5)), (1e200, 0.1, (0.5, 0.5)),
]  # fmt: skip


@pytest.mark.parametrize(("sd", "distance", "shares"), UGLY_SIZES)
def test_ugly_plans_have_no_size(sd: float, distance: float, shares: tuple[float, float]) -> None:
    found = sample_size(sd, distance, 0.05, 0.8, shares=shares)
    assert not found.determined
    assert math.isnan(float(found.total))
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("total", [0.0, 1.0, 3.0, -5.0, math.nan, math.inf])
def test_nothing_is_detectable_without_two_units_in_each_arm(total: float) -> None:
    assert math.isnan(float(detectable_effect(1.0, total, 0.05, 0.8)))
    assert math.isnan(float(fixed_power(1.0, 0.1, total, 0.05)))


def test_an_infinite_distance_needs_the_least_there_is() -> None:
    found = sample_size(1.0, 1e6, 0.05, 0.8)
    assert (float(found.total), float(found.control), float(found.challenger)) == (4.0, 2.0, 2.0)


def test_a_scale_of_a_billion_changes_nothing() -> None:
    assert float(sample_size(1e9, 1e7, 0.05, 0.8).total) == float(sample_size(1.0, 0.01, 0.05, 0.8).total)


@pytest.mark.parametrize(
    ("units", "arrivals", "shares"),
    [
        (100, 0.0, (0.5, 0.5)), (100, math.nan, (0.5, 0.5)), (100, math.inf, (0.5, 0.5)), (100, 1.0, (0.0, 0.5)),
        (math.nan, 1.0, (0.5, 0.5)), (math.inf, 1.0, (0.5, 0.5)), ([], 1.0, ([], [])), (0, 0.0, (0.5, 0.5)),
        (100, -1.0, (0.5, 0.5)),
    ],
)  # fmt: skip
def test_a_stage_that_never_ends_has_no_duration(
    units: object, arrivals: float, shares: tuple[object, object]
) -> None:
    found = stage_duration(units, arrivals, shares)  # type: ignore[arg-type]
    assert not found.determined
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_proportions_outside_their_range_have_no_spread() -> None:
    assert np.isnan(proportion_sd([-0.1, 1.1, math.nan])).all()
    assert proportion_sd([0.0, 0.5, 1.0]).tolist() == [0.0, 0.5, 0.0]


def test_a_power_grows_with_size_and_distance() -> None:
    grown = fixed_power(1.0, 0.05, np.geomspace(10, 1e6, 50), 0.01)
    assert all(a <= b for a, b in pairwise(grown))
    assert float(fixed_power(1.0, 0.0, 1000, 0.05, sided="two")) == pytest.approx(0.05)


def test_misuse_is_refused() -> None:
    for alpha, power in ((0.0, 0.8), (1.0, 0.8), (0.05, 0.0), (0.05, 1.0), (math.nan, 0.8)):
        with pytest.raises(ValueError, match="both must lie"):
            sample_size(1.0, 0.1, alpha, power)
    with pytest.raises(ValueError, match="does not exceed"):
        sample_size(1.0, 0.1, 0.05, 0.04)
    for factor in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="factor"):
            sample_size(1.0, 0.1, 0.05, 0.8, factor=factor)
    for shares in ((-0.1, 0.5), (0.6, 0.6)):
        with pytest.raises(ValueError, match="shares"):
            sample_size(1.0, 0.1, 0.05, 0.8, shares=shares)
    with pytest.raises(ValueError, match="looks"):
        sequential_factor(0.05, 0.8, "one", 0)
    with pytest.raises(ValueError, match="beta"):
        metric_power(1.0, 2)
    with pytest.raises(ValueError, match="probabilities"):
        ship_probability([1.2], [])
