"""The stage-stratified ratio difference against independent implementations, a bootstrap and ugly inputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.stats.ratio import ArmMoments, compare

Units = tuple[NDArray[np.float64], NDArray[np.float64]]


def arm(
    rng: np.random.Generator, units: int, stages: int = 1, shift: float = 0.0, offset: float = 0.0
) -> Units:
    effect = rng.normal(0, 0.5, (units, 1))
    d = rng.poisson(3, (units, stages)).astype(float)
    n = d * (effect + shift + offset) + np.sqrt(d) * rng.standard_normal((units, stages))
    return n, d


def moments(data: Units) -> ArmMoments:
    return ArmMoments.from_units(*data)


def test_one_stage_agrees_with_tea_tasting() -> None:
    import pandas as pd
    import tea_tasting as tt

    rng = np.random.default_rng(1)
    control, challenger = arm(rng, 400, offset=1), arm(rng, 300, shift=0.1, offset=1)
    frame = pd.concat(
        pd.DataFrame({"variant": v, "n": n[:, 0], "d": d[:, 0]})[d[:, 0] > 0]
        for v, (n, d) in enumerate((control, challenger))
    )
    theirs = tt.Experiment(r=tt.RatioOfMeans("n", "d", use_t=False)).analyze(frame)["r"]
    ours = compare(moments(control), moments(challenger))
    assert ours.estimate == pytest.approx(theirs.effect_size, rel=1e-9)
    assert ours.rule in ("welch", "pooled")
    welch_se = (theirs.effect_size_ci_upper - theirs.effect_size) / 1.959963984540054
    if ours.rule == "welch":
        assert ours.se == pytest.approx(welch_se, rel=1e-6)
    else:
        assert ours.se is not None
        assert ours.se >= welch_se * (1 - 1e-9)


def test_equal_arms_make_both_variance_rules_the_same() -> None:
    rng = np.random.default_rng(2)
    n, d = rng.normal(5, 1, (2, 200, 1)), np.ones((200, 1))
    found = compare(ArmMoments.from_units(n[0], d), ArmMoments.from_units(n[1], d))
    expected = math.sqrt(n[0].var(ddof=1) / 200 + n[1].var(ddof=1) / 200)
    assert found.se == pytest.approx(expected, rel=1e-12)


def test_unequal_arms_take_the_larger_of_welch_and_pooled() -> None:
    small, large = np.array([1.0, 2.0, 3.0]), np.linspace(-9, 9, 60)
    one = [ArmMoments.from_units(v[:, None], np.ones((len(v), 1))) for v in (large, small)]
    found = compare(*one)
    v0, v1 = large.var(ddof=1), small.var(ddof=1)
    pooled = (59 * v0 + 2 * v1) / 61 * (1 / 60 + 1 / 3)
    assert found.rule == "pooled"
    assert found.se == pytest.approx(math.sqrt(max(v0 / 60 + v1 / 3, pooled)), rel=1e-12)


def test_stages_agree_with_a_cluster_robust_regression() -> None:
    import statsmodels.api as sm

    rng = np.random.default_rng(3)
    control, challenger = arm(rng, 300, 3, offset=2), arm(rng, 300, 3, 0.2, offset=2)
    found = compare(moments(control), moments(challenger))
    weights = np.array([stage.weight for stage in found.by_stage])
    # Saturated weighted least squares on unit-by-stage means; coefficient of each stage's arm gap, clusters = units.
    y, w, x, cluster = [], [], [], []
    for index, (n, d) in enumerate((control, challenger)):
        for u, s in zip(*np.nonzero(d), strict=True):
            row = np.zeros(6)
            row[s], row[3 + s] = 1, index
            y.append(n[u, s] / d[u, s])
            w.append(d[u, s])
            x.append(row)
            cluster.append(index * 1000 + u)
    fit = sm.WLS(np.array(y), np.array(x), weights=np.array(w)).fit(
        cov_type="cluster", cov_kwds={"groups": np.array(cluster)}
    )
    gap = np.concatenate([np.zeros(3), weights])
    assert found.estimate == pytest.approx(float(gap @ fit.params), rel=1e-9)
    assert found.se == pytest.approx(float(np.sqrt(gap @ fit.cov_params() @ gap)), rel=0.02)


def test_stages_agree_with_a_bootstrap_over_units() -> None:
    rng = np.random.default_rng(4)
    data = [arm(rng, 250, 3, offset=1), arm(rng, 250, 3, offset=1)]
    found = compare(*(moments(a) for a in data))
    drawn = []
    for _ in range(800):
        picks = [rng.integers(0, 250, 250) for _ in data]
        resampled = (ArmMoments.from_units(n[i], d[i]) for (n, d), i in zip(data, picks, strict=True))
        drawn.append(compare(*resampled).estimate)
    assert found.se == pytest.approx(np.std(drawn), rel=0.1)


def test_a_unit_in_several_stages_is_one_cluster() -> None:
    rng = np.random.default_rng(5)
    effect = rng.normal(0, 1, (2, 100, 1))
    once = [ArmMoments.from_units(e, np.ones_like(e)) for e in effect]
    repeated = [ArmMoments.from_units(np.repeat(e, 4, axis=1), np.ones((100, 4))) for e in effect]
    assert compare(*repeated).se == pytest.approx(compare(*once).se, rel=1e-12)
    assert compare(*repeated).n_control == 100


def test_stages_are_never_pooled() -> None:
    # Both arms are equal within each stage; the mix differs and the stages differ: a pooled mean would see an effect.
    rng = np.random.default_rng(6)
    sizes = {"control": (400, 100), "challenger": (100, 400)}
    built = []
    for first, second in sizes.values():
        d = np.zeros((500, 2))
        d[:first, 0] = 1
        d[first:, 1] = 1
        built.append(ArmMoments.from_units(rng.normal([0, 5], 0.1, (500, 2)) * d, d))
        assert second == (d[:, 1] > 0).sum()
    found = compare(*built)
    assert found.estimate == pytest.approx(0, abs=5 * (found.se or 0))
    assert found.se is not None
    assert found.se < 0.05


def test_a_difference_can_be_recomputed_from_stored_moments() -> None:
    rng = np.random.default_rng(7)
    arms = [moments(arm(rng, 50, 3)) for _ in range(2)]
    stored = [json.loads(json.dumps(a.to_dict(), allow_nan=False)) for a in arms]
    again = compare(*(ArmMoments.from_dict(s) for s in stored))
    assert again == compare(*arms)
    assert json.dumps(again.to_dict(), allow_nan=False)


def test_a_large_offset_does_not_eat_the_variance() -> None:
    rng = np.random.default_rng(8)
    d = np.ones((500, 2))
    noise = rng.uniform(0, 1, (2, 500, 2))
    near, far = (compare(*(ArmMoments.from_units(x + offset, d) for x in noise)) for offset in (0.0, 1e9))
    assert far.se == pytest.approx(near.se, rel=1e-5)
    assert far.estimate == pytest.approx(near.estimate, abs=1e-6)


def test_rounding_noise_is_not_variance() -> None:
    d = np.arange(1, 51, dtype=float)[:, None]
    found = compare(ArmMoments.from_units(0.1 * d, d), ArmMoments.from_units(0.1 * d, d))
    assert found.se == 0


def test_non_finite_cells_are_counted_and_left_out() -> None:
    n, d = np.ones((6, 1)), np.ones((6, 1))
    n[0], n[1], d[2] = math.nan, math.inf, math.nan
    found = ArmMoments.from_units(n, d)
    assert (found.non_finite, int(found.units[0]), float(found.sum_n[0])) == (3, 3, 3.0)


@pytest.mark.parametrize("sizes", [(0, 0), (0, 5), (5, 0), (1, 5), (5, 1), (1, 1)])
def test_fewer_than_two_units_in_an_arm_give_no_estimate(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(9)
    arms = [ArmMoments.from_units(rng.normal(size=(n, 1)), np.ones((n, 1))) for n in sizes]
    found = compare(*arms)
    assert (found.estimate, found.se, found.df) == (None, None, None)
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_no_stages_at_all_give_no_estimate() -> None:
    empty = ArmMoments.from_units(np.zeros((0, 0)), np.zeros((0, 0)))
    assert compare(empty, ArmMoments.from_dict(json.loads(json.dumps(empty.to_dict())))).estimate is None


def test_a_stage_with_one_unit_is_left_out_and_says_so() -> None:
    rng = np.random.default_rng(10)
    d = np.ones((20, 2))
    d[1:, 1] = 0
    arms = [ArmMoments.from_units(rng.normal(size=(20, 2)) * d, d) for _ in range(2)]
    found = compare(*arms)
    assert [stage.weight for stage in found.by_stage] == [1.0, 0.0]
    assert found.clock == 40


def test_one_dominant_unit_counts_as_few_effective_units() -> None:
    rng = np.random.default_rng(11)
    d = np.ones((200, 1))
    d[0] = 5000
    arms = [ArmMoments.from_units(rng.normal(size=(200, 1)) * d, d) for _ in range(2)]
    assert (compare(*arms).df or 0) < 1


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes"):
        ArmMoments.from_units(np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="negative"):
        ArmMoments.from_units(np.ones((3, 1)), -np.ones((3, 1)))
    with pytest.raises(ValueError, match="labels"):
        ArmMoments.from_units(np.ones((3, 1)), np.ones((3, 1)), stages=(1, 2))
    one, two = (ArmMoments.from_units(np.ones((3, 1)), np.ones((3, 1)), stages=(s,)) for s in (1, 2))
    with pytest.raises(ValueError, match="stages"):
        compare(one, two)


@pytest.mark.parametrize("units", [20, 300, 5_000, 100_000])
def test_buckets_know_how_many_units_weigh_as_much_as_theirs(units: int) -> None:
    rng = np.random.default_rng(units)
    busy = rng.integers(1, 20, units).astype(float)
    alone = ArmMoments.from_units(np.zeros((units, 1)), busy[:, None])
    found = []
    for _ in range(40):
        bucket = rng.integers(0, 256, units)
        sums = np.bincount(bucket, busy, 256)[:, None]
        found.append(float(ArmMoments.from_units(np.zeros((256, 1)), sums, buckets=256).equal_units))
    # On the careful side by what a sum of squares over 256 buckets can be off, and no more.
    assert 0.7 * alone.equal_units < np.median(found) < alone.equal_units
    assert max(found) < 1.15 * alone.equal_units


def test_buckets_of_single_events_never_count_more_units_than_events() -> None:
    even = ArmMoments.from_units(np.zeros((256, 1)), np.full((256, 1), 40.0), buckets=256)
    assert float(even.equal_units) == 256 * 40


@pytest.mark.parametrize("unit_of_over", [1e-6, 1.0, 1e6])
def test_the_clock_counts_events_whatever_the_denominator_counts(unit_of_over: float) -> None:
    rng = np.random.default_rng(3)
    over = rng.uniform(1, 3, (300, 1))
    top = 0.2 * over + rng.normal(0, 0.1, over.shape)
    arms = [
        ArmMoments.from_units(top * unit_of_over, over * unit_of_over, events=[300.0]),
        ArmMoments.from_units((top + 0.1) * unit_of_over, over * unit_of_over, events=[300.0]),
    ]
    found = compare(*arms)
    assert found.clock == 600
    assert ArmMoments.from_dict(json.loads(json.dumps(arms[0].to_dict()))).clock.tolist() == [300.0]
