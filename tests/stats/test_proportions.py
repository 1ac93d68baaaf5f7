"""Wilson, Clopper-Pearson and Newcombe: against published examples, statsmodels and ugly counts."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.proportions import (
    clopper_pearson,
    group_gaps,
    newcombe,
    newcombe_bounds,
    wilson,
    wilson_bounds,
)


@pytest.mark.parametrize(
    ("a", "m", "b", "n", "lower", "upper"),
    [  # Newcombe 1998, table II, method 10
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (6, 7, 2, 7, 0.0582, 0.8062),
        (5, 56, 0, 29, -0.0381, 0.1926),
        (0, 10, 0, 20, -0.1611, 0.2775),
        (0, 10, 0, 10, -0.2775, 0.2775),
        (10, 10, 0, 20, 0.6791, 1.0000),
        (10, 10, 0, 10, 0.6075, 1.0000),
    ],
)
def test_newcombes_own_examples(a: int, m: int, b: int, n: int, lower: float, upper: float) -> None:
    found = newcombe(a, m, b, n)
    assert found.estimate == pytest.approx(a / m - b / n)
    assert found.lower == pytest.approx(lower, abs=5e-5)
    assert found.upper == pytest.approx(upper, abs=5e-5)


@pytest.mark.parametrize(
    ("x", "n", "lower", "upper"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_as_published(x: int, n: int, lower: float, upper: float) -> None:
    found = wilson(x, n)
    assert (found.lower, found.upper) == pytest.approx((lower, upper), abs=5e-5)


def test_all_three_agree_with_statsmodels() -> None:
    from statsmodels.stats.proportion import confint_proportions_2indep, proportion_confint

    for x, n, y, m in ((3, 40, 9, 35), (0, 12, 5, 9), (200, 201, 1, 1000)):
        lower, upper = proportion_confint(x, n, 0.1, method="wilson")
        found = wilson(x, n, 0.1)
        assert (found.lower, found.upper) == pytest.approx((max(lower, 0), upper))
        exact = clopper_pearson(x, n, 0.1)
        assert (exact.lower, exact.upper) == pytest.approx(proportion_confint(x, n, 0.1, method="beta"))
        gap = newcombe(x, n, y, m, 0.1)
        expected = confint_proportions_2indep(x, n, y, m, method="newcomb", compare="diff", alpha=0.1)
        assert (gap.lower, gap.upper) == pytest.approx(expected)


def test_cells_are_judged_together_as_one_by_one() -> None:
    x, n = np.arange(12).reshape(3, 4), np.full((3, 4), 11)
    lower, upper = wilson_bounds(x, n, 0.05)
    assert lower.shape == (3, 4)
    assert upper[1, 2] == wilson(6, 11).upper
    low, high = newcombe_bounds(x, n, 5, 30, 0.05)
    assert (low[2, 0], high[2, 0]) == (newcombe(8, 11, 5, 30).lower, newcombe(8, 11, 5, 30).upper)


def test_group_gaps_hold_together() -> None:
    rng = np.random.default_rng(1)
    truth, n = np.array([0.2, 0.3, 0.25, 0.3]), np.array([60, 200, 90, 40])
    missed = 0
    for _ in range(400):
        found = group_gaps(rng.binomial(n, truth), n, ["a", "b", "c", "d"], 0.1)
        assert found.lower is not None
        assert found.upper is not None
        missed += not found.lower <= 0.1 <= found.upper
    assert missed <= 55  # 400 draws at 0.1; the chance of more is below 0.01
    wide = group_gaps([10, 90], [100, 100], ["x", "y"])
    assert wide.gap == pytest.approx(0.8)
    assert wide.pairs[0].alpha == 0.05
    assert wide.lower == pytest.approx(-(wide.pairs[0].upper or 0))


@pytest.mark.parametrize(
    ("x", "n", "reason"),
    [
        (0, 0, "no_trials"),
        (1, 0, "no_trials"),
        (-1, 10, "bad_counts"),
        (11, 10, "bad_counts"),
        (math.nan, 10, "bad_counts"),
        (1, math.inf, "bad_counts"),
        (1, -5, "bad_counts"),
    ],
)
def test_ugly_counts_are_undetermined(x: float, n: float, reason: str) -> None:
    results = (
        wilson(x, n),
        clopper_pearson(x, n),
        newcombe(x, n, 1, 2),
        newcombe(1, 2, x, n),
        group_gaps([x, 1], [n, 2], ["a", "b"]),
    )
    for found in results:
        assert found.reason == reason
        assert (found.lower, found.upper) == (None, None)
        assert json.dumps(found.to_dict(), allow_nan=False)


def test_edges_of_the_scale() -> None:
    assert (wilson(0, 1).lower, wilson(1, 1).upper) == (0, 1)
    huge = wilson(5e11, 1e12)
    assert huge.lower is not None
    assert 0.499998 < huge.lower < 0.5
    assert group_gaps([], [], []).reason == group_gaps([1], [2], ["a"]).reason == "fewer_than_two_groups"
    for call in (lambda: wilson(1, 2, 0), lambda: newcombe(1, 2, 1, 2, 1), lambda: clopper_pearson(1, 2, 2)):
        with pytest.raises(ValueError, match="alpha"):
            call()
    with pytest.raises(ValueError, match="every name once"):
        group_gaps([1, 2], [3, 4], ["a", "a"])
