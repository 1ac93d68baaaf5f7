"""Gaps between groups. Point values by hand, as fairlearn's MetricFrame(...).difference() defines them: max - min."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.fairness import GroupMeans, arm_gap, widening
from understudy.stats.ratio import ArmMoments
from understudy.stats.sequences import multiplier

INF = math.inf


def means(mean: list[float], se: float = 0.01, units: float = 500.0, df: float = INF) -> GroupMeans:
    size = len(mean)
    names = tuple("abcdefgh"[:size])
    return GroupMeans.of(names, mean, [se] * size, [units] * size, [df] * size, [units] * size)


def running(rng: np.random.Generator, truth: np.ndarray, looks: np.ndarray) -> list[GroupMeans]:
    """Groups of unit-variance values, seen at every look."""
    names = tuple(f"g{i}" for i in range(truth.size))
    values = truth[:, None] + rng.normal(0, 1, (truth.size, looks[-1]))
    found = []
    for n in looks:
        seen = values[:, :n]
        size = np.full(truth.size, float(n))
        found.append(
            GroupMeans.of(names, seen.mean(1), seen.std(1, ddof=1) / math.sqrt(n), size, size - 1, size)
        )
    return found


def test_the_gap_is_the_largest_minus_the_smallest_mean() -> None:
    found = arm_gap(means([0.2, 0.5, 0.3]), 0.05, 500)
    assert found.interval.estimate == pytest.approx(0.3)
    assert (found.highest, found.lowest) == ("b", "a")
    wider = widening(means([0.2, 0.5, 0.3]), means([0.1, 0.6, 0.3]), 0.05, 500)
    assert wider.interval.estimate == pytest.approx(0.2)
    assert wider.interval.n == 3000
    assert json.dumps(wider.to_dict(), allow_nan=False)


def test_the_bounds_are_put_together_from_one_sided_sequences() -> None:
    found = arm_gap(means([0.2, 0.5, 0.3]), 0.06, 500).interval
    all_six, two = (0.01 * float(multiplier(500, a, 500, "one")) for a in (0.01, 0.03))
    assert found.lower == pytest.approx(0.3 - 2 * all_six)
    assert found.upper == pytest.approx(0.3 + 2 * two)
    wider = widening(means([0.2, 0.5]), means([0.2, 0.9]), 0.06, 500).interval
    half = 0.01 * float(multiplier(500, 0.01, 500, "one"))
    apart = math.hypot(0.01, 0.01) * float(multiplier(1000, 0.03, 1000, "one"))
    assert wider.lower == pytest.approx(0.4 - 4 * half)
    assert wider.upper == pytest.approx(0.4 + 2 * apart)


def test_equal_groups_have_a_gap_of_at_least_zero() -> None:
    found = arm_gap(means([0.3, 0.3]), 0.05, 500).interval
    assert (found.estimate, found.lower) == (0, 0)
    assert (found.upper or 0) > 0


def test_under_continuous_peeking_each_bound_fails_in_at_most_alpha() -> None:
    rng, looks, alpha = np.random.default_rng(1), np.arange(20, 401, 20), 0.1
    before, after = np.array([0.0, 0.2, 0.0]), np.array([0.3, 0.0, 0.0])  # the extremes change places
    false_wide = false_narrow = above = below = 0
    for _ in range(120):
        pairs = list(zip(running(rng, before, looks), running(rng, after, looks), strict=True))
        wider = [widening(c, t, alpha, 200).interval for c, t in pairs]
        gaps = [arm_gap(t, alpha, 200).interval for _, t in pairs]
        false_wide += any((i.lower or 0) > 0.1 for i in wider)
        false_narrow += any((i.upper or 9) < 0.1 for i in wider)
        above += any((i.lower or 0) > 0.3 for i in gaps)
        below += any((i.upper or 9) < 0.3 for i in gaps)
    assert max(false_wide, false_narrow, above, below) <= 12


def test_a_group_that_the_challenger_leaves_behind_is_found() -> None:
    rng, found = np.random.default_rng(2), 0
    looks = np.array([300, 1000, 3000])
    for _ in range(20):
        pairs = zip(
            running(rng, np.zeros(4), looks), running(rng, np.array([0, 0, 0, 0.6]), looks), strict=True
        )
        found += any((widening(c, t, 0.05, 1000).interval.lower or 0) > 0 for c, t in pairs)
    assert found == 20


def test_the_moments_of_an_arm_become_means_per_group() -> None:
    rng = np.random.default_rng(3)
    value, events = rng.normal(1, 1, (50, 1)), rng.integers(1, 9, (50, 1)).astype(float)
    arm = ArmMoments.from_units(value * events, events)
    found = GroupMeans.from_moments({"x": arm, "y": arm})
    ratio = (value * events).sum() / events.sum()
    residual = (value * events - ratio * events)[:, 0]
    assert found.mean[0] == pytest.approx(ratio)
    assert found.se[0] == pytest.approx(math.sqrt(50 / 49 * (residual**2).sum()) / events.sum())
    assert (found.clock[0], found.units[0]) == (events.sum(), 50)
    assert found.df[0] == pytest.approx(events.sum() ** 2 / (events**2).sum() - 1)
    empty = ArmMoments.from_units(np.empty((0, 1)), np.empty((0, 1)))
    gone = arm_gap(GroupMeans.from_moments({"x": arm, "empty": empty}), 0.05, 100)
    assert (gone.interval.reason, gone.blamed) == ("too_few_units", ("empty",))
    assert arm_gap(GroupMeans.from_moments({}), 0.05, 100).interval.reason == "fewer_than_two_groups"


def bad(**change: float) -> GroupMeans:
    fields = {"mean": 0.2, "se": 0.01, "clock": 500.0, "df": INF, "units": 500.0}
    return GroupMeans.of(("a", "b"), *([value, change.get(name, value)] for name, value in fields.items()))


@pytest.mark.parametrize(
    ("ugly", "reason"),
    [
        (bad(units=1), "too_few_units"),
        (bad(units=0, clock=0, mean=math.nan, se=math.nan), "too_few_units"),
        (bad(units=math.nan), "too_few_units"),
        (bad(clock=1), "too_few_units"),
        (bad(clock=INF), "too_few_units"),
        (bad(df=0), "too_few_units"),
        (bad(df=math.nan), "too_few_units"),
        (bad(mean=math.nan), "no_estimate"),
        (bad(mean=-INF), "no_estimate"),
        (bad(se=math.nan), "no_standard_error"),
        (bad(se=INF), "no_standard_error"),
        (bad(se=-1), "no_standard_error"),
        (bad(se=0), "zero_variance"),
    ],
)
def test_an_unusable_group_makes_the_gap_undetermined_and_is_named(ugly: GroupMeans, reason: str) -> None:
    found = arm_gap(ugly, 0.05, 500)
    assert (found.interval.determined, found.interval.reason, found.blamed) == (False, reason, ("b",))
    for pair in ((ugly, bad()), (bad(), ugly)):
        wider = widening(*pair, 0.05, 500)
        assert (wider.interval.determined, wider.interval.reason) == (False, reason)
        assert (wider.interval.lower, wider.interval.upper) == (None, None)
        assert json.dumps(wider.to_dict(), allow_nan=False)
    assert json.dumps(ugly.to_dict(), allow_nan=False)


def test_too_few_units_is_what_the_caller_says_it_is() -> None:
    assert arm_gap(means([0.1, 0.2], units=40), 0.05, 500, min_units=50).interval.reason == "too_few_units"
    assert arm_gap(means([0.1, 0.2], units=50), 0.05, 500, min_units=50).interval.determined
    assert arm_gap(means([0.1]), 0.05, 500).interval.reason == "fewer_than_two_groups"
    few, many = (arm_gap(means([0.1, 0.2], df=df), 0.05, 500).interval for df in (3, 300))
    assert (few.upper or 0) > (many.upper or 0)


def test_scale_and_sign_do_not_matter() -> None:
    plain = widening(means([0.2, 0.5]), means([0.2, 0.9]), 0.05, 500).interval
    large = widening(means([2e8, 5e8], 1e7), means([2e8, 9e8], 1e7), 0.05, 500).interval
    turned = widening(means([-0.2, -0.5]), means([-0.2, -0.9]), 0.05, 500).interval
    assert large.upper == pytest.approx((plain.upper or 0) * 1e9)
    assert turned.lower == pytest.approx(plain.lower)
    huge = arm_gap(means([1e308, -1e308]), 0.05, 500).interval
    assert not huge.determined
    with pytest.raises(ValueError, match="same groups"):
        widening(means([0.1, 0.2]), means([0.1, 0.2, 0.3]), 0.05, 500)
    with pytest.raises(ValueError, match="every group once"):
        GroupMeans.of(("a", "a"), *([[1, 2]] * 5))
    with pytest.raises(ValueError, match="alpha"):
        arm_gap(means([0.1, 0.2]), 1.5, 500)
