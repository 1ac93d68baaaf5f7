"""Sample sizes against statsmodels, their inverses, the price of looking, the ship rule's figures, ugly inputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.planning import (
    detectable_effect,
    metric_power,
    sample_size,
    sequential_factor,
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


def test_the_sample_of_the_simulated_plan_is_reproduced() -> None:
    # 20,160 per arm: 2016 looks of 10 users; the effect a final t test finds with 80 %.
    effect = float(detectable_effect(1.0, 40_320, 0.05, 0.8, sided="two"))
    assert effect == pytest.approx(2.8016 * math.sqrt(2 / 20_160), rel=1e-4)
    assert float(sample_size(1.0, effect, 0.05, 0.8, sided="two").control) == pytest.approx(20_160, abs=1)


@pytest.mark.parametrize("sided", ["one", "two"])
def test_size_and_effect_are_inverses(sided: Sided) -> None:
    sd, distance = np.array([1.0, 2.0, 7.0])[:, None], np.array([0.01, 0.3])
    found = sample_size(sd, distance, 0.01, 0.9, shares=(0.2, 0.1), sided=sided, factor=1.5)
    assert found.total.shape == (3, 2)
    back = detectable_effect(sd, found.total, 0.01, 0.9, shares=(0.2, 0.1), sided=sided, factor=1.5)
    np.testing.assert_allclose(back, np.broadcast_to(distance, (3, 2)), rtol=5e-3)


def test_the_price_of_looking_is_the_measured_one() -> None:
    # Simulated with 2016 looks of normal data, equal arms, and a sequence tuned for half of the planned total.
    simulated: dict[Sided, float] = {"two": 1.65, "one": 1.78}
    for sided, measured in simulated.items():
        computed = sequential_factor(0.05, 0.8, sided)
        assert measured * 0.99 < computed < measured * 1.04
    assert sequential_factor(0.001, 0.8) < sequential_factor(0.01, 0.8) < sequential_factor(0.05, 0.8)
    assert sequential_factor(0.05, 0.95) < sequential_factor(0.05, 0.8) < sequential_factor(0.05, 0.1)


def test_the_multiplier_of_the_sequence_has_its_published_values() -> None:
    for times, expected in ((1, 3.04), (8, 3.2), (1000, 3.9)):
        assert float(multiplier(5000 * times, 0.05, 5000)) == pytest.approx(expected, abs=0.06)


def test_the_ship_rule_splits_beta_as_published() -> None:
    # Three success metrics, four guardrails, beta .2: no single test has less power than this.
    assert metric_power(0.2, 4) == pytest.approx(0.96)


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


def test_an_infinite_distance_needs_the_least_there_is() -> None:
    found = sample_size(1.0, 1e6, 0.05, 0.8)
    assert (float(found.total), float(found.control), float(found.challenger)) == (4.0, 2.0, 2.0)


def test_a_scale_of_a_billion_changes_nothing() -> None:
    assert float(sample_size(1e9, 1e7, 0.05, 0.8).total) == float(sample_size(1.0, 0.01, 0.05, 0.8).total)


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
