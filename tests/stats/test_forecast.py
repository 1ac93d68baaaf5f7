"""The offline forecast for live traffic, and the gap to the online result taken apart."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from understudy.stats.forecast import Bias, Labels, Reweighted, explain_gap, reweight
from understudy.stats.paired import paired_difference
from understudy.stats.sequences import Interval, undetermined

EFFECT = {"a": -0.1, "b": 0.1, "c": 0.3}


def holdout(seed: int, units: int = 300, rows: int = 3000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    unit = rng.integers(0, units, rows)
    cell = np.array(["a", "b", "c"])[rng.choice(3, rows, p=[0.6, 0.3, 0.1])]
    effect = np.array([EFFECT[name] for name in cell])
    return effect + rng.normal(0, 0.5, units)[unit] + rng.normal(0, 1, rows), unit, cell


def interval(estimate: float, se: float = 0.02) -> Interval:
    return Interval(estimate, se, estimate - 2 * se, estimate + 2 * se, 1000, 0.05, True)


def test_the_forecast_is_the_share_weighted_sum_of_cell_means() -> None:
    d, unit, cell = holdout(1)
    found = reweight(d, unit, cell, {"a": 100, "b": 300, "c": 600})
    means = {name: d[cell == name].mean() for name in "abc"}
    assert found.interval.estimate == pytest.approx(0.1 * means["a"] + 0.3 * means["b"] + 0.6 * means["c"])
    assert found.mix == pytest.approx((found.interval.estimate or 0) - d.mean())
    assert found.offline == paired_difference(np.zeros(d.size), d, unit, 0.05).interval
    assert [c.online_share for c in found.cells] == pytest.approx([0.1, 0.3, 0.6])
    assert found.unmatched_share == 0


def test_its_standard_error_is_that_of_a_cluster_robust_weighted_regression() -> None:
    import statsmodels.api as sm

    d, unit, cell = holdout(2)
    shares = np.array([0.1, 0.3, 0.6])
    design = np.stack([cell == name for name in "abc"], axis=1).astype(float)
    fit = sm.OLS(d, design).fit(cov_type="cluster", cov_kwds={"groups": unit})
    expected = math.sqrt(shares @ fit.cov_params() @ shares)
    found = reweight(d, unit, cell, {"a": 1, "b": 3, "c": 6})
    assert found.interval.se == pytest.approx(expected, rel=0.01)
    change = shares - design.mean(axis=0)
    assert found.mix_se == pytest.approx(math.sqrt(change @ fit.cov_params() @ change), rel=0.01)
    assert found.cells[1].se == pytest.approx(fit.bse[1], rel=0.01)


def test_unchanged_traffic_changes_nothing() -> None:
    d, unit, cell = holdout(3)
    counts = dict(zip(*np.unique(cell, return_counts=True), strict=True))
    found = reweight(d, unit, cell, {str(name): float(n) for name, n in counts.items()})
    assert found.interval.estimate == pytest.approx(d.mean())
    assert found.mix == pytest.approx(0, abs=1e-12)
    assert found.effective_units == pytest.approx(300, rel=0.15)


def test_intervals_cover_the_live_difference() -> None:
    truth = 0.1 * -0.1 + 0.3 * 0.1 + 0.6 * 0.3
    found = [reweight(*holdout(seed, 60, 600), {"a": 1, "b": 3, "c": 6}, 0.1).interval for seed in range(300)]
    hits = sum((i.lower or 9) <= truth <= (i.upper or -9) for i in found)
    assert 0.85 * 300 <= hits <= 0.95 * 300


def test_traffic_without_a_counterpart_is_flagged_or_refused() -> None:
    d, unit, cell = holdout(4)
    online = {"a": 50.0, "b": 30.0, "c": 17.0}
    little, much = reweight(d, unit, cell, online | {"new": 3}), reweight(d, unit, cell, online | {"new": 30})
    assert (little.interval.determined, little.interval.reason) == (True, "partial_support")
    assert little.unmatched_share == pytest.approx(0.03)
    assert little.interval.estimate == pytest.approx(reweight(d, unit, cell, online).interval.estimate)
    assert (much.interval.determined, much.interval.reason, much.mix) == (False, "support_missing", None)
    # One unit alone says nothing about a cell.
    alone = np.where(unit == 0, "alone", cell)
    assert reweight(d, unit, alone, {"alone": 1}).interval.reason == "support_missing"


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    ("d", "unit", "cell", "online", "reason"),
    [
        ([], [], [], {"a": 1}, "support_missing"),
        ([], [], [], {}, "no_online_traffic"),
        ([1.0], [1], ["a"], {"a": 1}, "support_missing"),
        ([1.0, 2.0], [1, 2], ["a", "a"], {"a": 0}, "no_online_traffic"),
        ([1.0, 1.0], [1, 2], ["a", "a"], {"a": 5}, "zero_variance"),
        ([math.nan, math.inf, 1.0], [1, 2, 3], ["a", "a", "a"], {"a": 1}, "support_missing"),
        ([1e308, -1e308, 1e308], [1, 2, 3], ["a", "a", "a"], {"a": 1}, "values_too_large"),
    ],
)
def test_ugly_rows_are_undetermined(
    d: list[float], unit: list[int], cell: list[str], online: dict[str, float], reason: str
) -> None:
    found = reweight(d, unit, cell, online)
    assert (found.interval.determined, found.interval.reason) == (False, reason)
    assert json.dumps(found.to_dict(), allow_nan=False)
    explained = explain_gap(interval(0.1), found)
    assert explained.gap is None or not explained.parts[0].determined
    assert reason != "zero_variance" or explained.reason == "no_result"
    assert json.dumps(explained.to_dict(), allow_nan=False)


def test_rows_that_are_no_numbers_are_counted_and_the_scale_does_not_matter() -> None:
    d, unit, cell = holdout(5)
    online = {"a": 1, "b": 1, "c": 1}
    plain, scaled = reweight(d, unit, cell, online), reweight(d * 1e9, unit, cell, online)
    assert scaled.interval.lower == pytest.approx((plain.interval.lower or 0) * 1e9)
    dirty = reweight(
        np.append(d, [math.nan, -math.inf]), np.append(unit, [0, 1]), np.append(cell, ["a", "x"]), online
    )
    assert dirty.interval == plain.interval
    assert dirty.non_finite == 2


def test_wrong_arguments_are_the_callers_mistake() -> None:
    for call, match in (
        (lambda: reweight([1.0], [1, 2], ["a"], {}), "one value per row"),
        (lambda: reweight([1.0], [1], ["a"], {"a": -1}), "not negative"),
        (lambda: reweight([1.0], [1], ["a"], {"a": math.nan}), "not negative"),
        (lambda: reweight([1.0], [1], ["a"], {"a": 1}, 0), "alpha"),
        (lambda: explain_gap(interval(0), reweight([], [], [], {}), alpha=1), "alpha"),
    ):
        with pytest.raises(ValueError, match=match):
            call()


@pytest.fixture(scope="module")
def forecast() -> Reweighted:
    return reweight(*holdout(6), {"a": 1, "b": 3, "c": 6})


def test_the_parts_add_up_to_the_gap_exactly(forecast: Reweighted) -> None:
    rng = np.random.default_rng(7)
    for scale in (1e-9, 1e-3, 1, 1e9):
        for _ in range(50):
            before, after = (Bias(*np.abs(rng.normal(0, scale**0.5, 4))) for _ in range(2))
            online = interval(float(rng.normal(0, scale)), 0.1 * scale)
            found = explain_gap(online, forecast, None, before, after)
            assert [part.name for part in found.parts] == ["traffic_mix", "labels", "calibration", "effect"]
            assert math.fsum(part.value for part in found.parts) == found.gap
            assert found.gap == pytest.approx((online.estimate or 0) - (forecast.offline.estimate or 0))


def test_a_pure_change_of_traffic_is_explained_by_the_traffic(forecast: Reweighted) -> None:
    online = replace(forecast.interval, se=0.01)
    found = explain_gap(online, forecast, Labels(0, 0, 0.2, 0.2, 0, 1))
    mix, labels, _, effect = found.parts
    assert mix.value == pytest.approx(found.gap)
    assert labels.determined
    assert effect.value == pytest.approx(0, abs=1e-12)
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < 0 < effect.high
    assert "the mix of traffic" in found.sentence


def test_missing_outcomes_are_bounded_and_never_guessed(forecast: Reweighted) -> None:
    rng = np.random.default_rng(8)
    labels = Labels(0.1, 0.2, 0.3, 0.4, 0.0, 1.0)
    part = explain_gap(interval(0.1), forecast, labels).parts[1]
    assert part.value == 0
    assert not part.determined
    assert part.low is not None
    assert part.high is not None
    for control, challenger in [(0, 1), (1, 0), *rng.random((50, 2))]:
        truth = (0.8 * 0.4 + 0.2 * challenger) - (0.9 * 0.3 + 0.1 * control)
        assert part.low - 1e-12 <= (0.4 - 0.3) - truth <= part.high + 1e-12
    assert part.low == pytest.approx(0.1 - (0.8 * 0.4 + 0.2 - 0.9 * 0.3))
    narrow, wide = (
        explain_gap(interval(0.1), forecast, x).parts[3] for x in (Labels(0, 0, 0.3, 0.4, 0, 1), labels)
    )
    assert (wide.low or 0) < (narrow.low or 0)
    for unknown in (
        None,
        Labels(0.1, 0.2, 0.3, 0.4),
        Labels(math.nan, 0.2, 0.3, 0.4, 0, 1),
        Labels(0.1, 0, 3, 0, 0, 1),
    ):
        found = explain_gap(interval(0.1), forecast, unknown)
        assert (found.parts[1].value, found.parts[1].low, found.parts[3].low) == (0, None, None)


def test_a_shift_of_calibration_is_its_share_of_the_brier_score() -> None:
    rng = np.random.default_rng(9)
    n = 200_000
    p = rng.uniform(0.2, 0.6, n)
    worlds = [(rng.random(n) < p + shift).astype(float) for shift in (0.0, 0.1)]
    control, challenger = p, np.clip(p + rng.normal(0, 0.1, n), 0, 1)
    biases = []
    differences = []
    for y in worlds:
        errors = control - y, challenger - y
        se = [e.std() / math.sqrt(n) for e in errors]
        biases.append(Bias(errors[0].mean(), se[0], errors[1].mean(), se[1]))
        differences.append(errors[1] ** 2 - errors[0] ** 2)
    offline = reweight(differences[0], np.arange(n), np.full(n, "all"), {"all": 1})
    online = interval(differences[1].mean(), differences[1].std() / math.sqrt(n))
    part = explain_gap(online, offline, None, *biases).parts[2]
    expected = [b.challenger**2 - b.control**2 for b in biases]
    assert part.value == pytest.approx(expected[1] - expected[0])
    assert part.determined
    for ugly in (math.nan, math.inf, 1e200):
        worse = replace(biases[1], control=ugly)
        assert not explain_gap(online, offline, None, biases[0], worse).parts[2].determined


def test_without_one_of_the_results_there_is_no_gap(forecast: Reweighted) -> None:
    for online in (undetermined("too_few_units", 0, 0.05), undetermined("x", 5, 0.05, 0.1)):
        found = explain_gap(online, forecast)
        assert (found.gap, found.parts, found.reason) == (None, (), "no_result")


def test_every_part_has_a_sentence_without_jargon(forecast: Reweighted) -> None:
    bias = Bias(0.0, 0.01, 0.05, 0.01)
    found = explain_gap(
        interval(0.4), forecast, Labels(0.02, 0.03, 0.2, 0.2, 0, 1), Bias(0, 0.01, 0, 0.01), bias
    )
    for part in found.parts:
        assert part.sentence.endswith(".")
        assert not {"estimand", "heteroscedastic", "post-stratif"} & set(part.sentence.split())
    assert "worse for the challenger" in found.sentence
    assert "better for the challenger" in explain_gap(interval(-0.9), forecast).sentence
