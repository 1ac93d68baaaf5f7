"""Change points: quiet series stay quiet at every look, planted steps and drifts are found where they are."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from scipy.special import logsumexp

from understudy.stats.change_points import MIN_POINTS, ChangePoints, change_points


def series(rng: np.random.Generator, n: int, phi: float = 0.0) -> np.ndarray:
    """Noise of variance one with autocorrelation phi."""
    shocks = rng.normal(0, 1, n)
    shocks[1:] *= math.sqrt(1 - phi**2)
    return np.array(list(itertools.accumulate(shocks, lambda before, shock: phi * before + shock)))


def skewed(rng: np.random.Generator, n: int, phi: float = 0.0) -> np.ndarray:
    """The same with lognormal shocks."""
    shocks = np.exp(rng.normal(0, 1, n)) - math.exp(0.5)
    return np.array(list(itertools.accumulate(shocks, lambda before, shock: phi * before + shock)))


@pytest.mark.parametrize(("make", "phi"), [(series, 0.0), (series, 0.3), (series, 0.6), (skewed, 0.3)])
def test_quiet_series_are_flagged_in_at_most_alpha(make: object, phi: float) -> None:
    rng = np.random.default_rng(round(10 * phi) + 1)
    assert callable(make)
    flagged = sum(bool(change_points(make(rng, 120, phi), 0.1).changes) for _ in range(60))
    assert flagged <= 6


@pytest.mark.parametrize(("phi", "size"), [(0.0, 3.0), (0.3, 3.0), (0.3, -3.0)])
def test_a_step_of_three_standard_deviations_is_located_within_a_few_points(phi: float, size: float) -> None:
    rng = np.random.default_rng(3)
    off, inside, sizes = [], 0, []
    for _ in range(20):
        values = series(rng, 120, phi)
        values[70:] += size
        found = change_points(values)
        assert found.changes
        first = found.changes[0]
        assert first.p <= first.alpha
        assert first.alarm >= first.position
        off.append(abs(first.position - 70))
        inside += first.first <= 70 <= first.last
        sizes.append(first.size)
    assert np.median(off) <= 1
    assert sorted(off)[17] <= 4
    assert inside >= 17
    assert np.median(sizes) == pytest.approx(size, abs=0.5)


def test_a_drift_is_found_and_its_slope_told() -> None:
    rng, slopes, starts = np.random.default_rng(4), [], []
    for _ in range(12):
        values = series(rng, 160)
        values[80:] += 0.1 * np.arange(1, 81)
        first = change_points(values).changes[0]
        assert first.alarm < 130
        starts.append(first.position)
        if first.kind == "drift":
            assert first.slope is not None
            slopes.append(first.slope)
    assert len(slopes) >= 6
    assert np.median(slopes) == pytest.approx(0.1, abs=0.06)
    assert np.median(starts) == pytest.approx(80, abs=15)


def test_a_step_there_and_back_is_two_changes() -> None:
    values = series(np.random.default_rng(5), 200)
    values[60:130] += 5
    found = change_points(values)
    assert [change.position for change in found.changes] == [60, 130]
    assert [change.size > 0 for change in found.changes] == [True, False]
    assert [change.alpha for change in found.changes] == pytest.approx([0.05 / 2, 0.05 / 6])
    assert not found.quiet


def test_a_later_look_never_rewrites_an_earlier_one() -> None:
    values = series(np.random.default_rng(6), 130)
    values[60:] += 4
    whole = change_points(values).changes[0]
    for n in range(whole.alarm + 1, 131, 13):
        again = change_points(values[:n]).changes[0]
        assert (again.kind, again.position, again.alarm) == (whole.kind, whole.position, whole.alarm)
        assert (again.size, again.log_e) == pytest.approx((whole.size, whole.log_e))
    assert not change_points(values[: whole.alarm]).changes


def test_scale_shift_and_sign_change_nothing_but_the_unit() -> None:
    values = series(np.random.default_rng(7), 100)
    values[60:] += 4
    plain = change_points(values).changes[0]
    for factor, shift in ((1e9, 0.0), (1e-9, 0.0), (1.0, 1e6), (-1.0, 0.0), (1e300, 0.0)):
        other = change_points(values * factor + shift).changes[0]
        assert (other.position, other.alarm) == (plain.position, plain.alarm)
        assert other.size == pytest.approx(plain.size * factor, rel=1e-6)
        assert other.log_e == pytest.approx(plain.log_e, rel=1e-6)


@pytest.mark.parametrize("jump", [1e3, 1e12, 1e200])
def test_what_comes_later_does_not_hide_a_change_however_large_it_is(jump: float) -> None:
    values = series(np.random.default_rng(16), 200)
    values[60:] += 4
    values[130:] += jump
    found = change_points(values)
    assert [change.position for change in found.changes] == [60, 130]
    assert found.changes[1].size == pytest.approx(jump, rel=0.01)
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_gaps_are_left_out_and_positions_stay_those_of_the_series() -> None:
    values = series(np.random.default_rng(8), 140)
    values[80:] += 5
    values[[3, 20, 21, 22, 75, 90]] = [math.nan, math.inf, -math.inf, math.nan, math.nan, math.nan]
    found = change_points(values, times=1e9 + 3600.0 * np.arange(140))
    assert (found.points, found.missing) == (134, 6)
    assert abs(found.changes[0].position - 80) <= 1
    assert found.changes[0].time == 1e9 + 3600.0 * found.changes[0].position


def test_points_need_not_be_equally_spaced() -> None:
    rng, flagged = np.random.default_rng(9), 0
    for _ in range(30):
        times = np.cumsum(rng.exponential(1, 100) + 0.01)
        fade = 0.3 ** np.diff(times, prepend=0.0)
        noise = rng.normal(0, 1, 100) * np.sqrt(1 - fade**2)
        values = np.zeros(100)
        for i in range(1, 100):
            values[i] = fade[i] * values[i - 1] + noise[i]
        flagged += bool(change_points(values, 0.1, times).changes)
    assert flagged <= 3
    values[50:] += 5
    assert abs(change_points(values, 0.1, times).changes[0].position - 50) <= 3


def test_points_with_few_observations_count_less() -> None:
    rng = np.random.default_rng(10)
    sizes = np.where(np.arange(120) % 4 == 0, 1.0, 100.0)
    flagged = 0
    for _ in range(30):
        values = rng.normal(0, 1, 120) / np.sqrt(sizes)
        flagged += bool(change_points(values, 0.1, sizes=sizes).changes)
    assert flagged <= 3
    values[60:] += 0.3  # three standard deviations of the well-measured points, a third of the others'
    assert abs(change_points(values, 0.1, sizes=sizes).changes[0].position - 60) <= 4


def test_one_wild_point_is_no_change() -> None:
    for size in (8.0, 50.0, 1e6):
        values = series(np.random.default_rng(11), 100)
        values[60] += size
        assert change_points(values).quiet


def test_a_rate_that_was_always_zero_and_starts_to_fail_is_found() -> None:
    values = np.zeros(80)
    values[50:] = 0.02
    first = change_points(values).changes[0]
    assert (first.kind, first.position) == ("step", 50)
    assert first.size == pytest.approx(0.02)


def test_the_largest_evidence_of_a_quiet_series_keeps_to_villes_bound() -> None:
    rng = np.random.default_rng(12)
    logs = [change_points(7 + 3 * series(rng, 40, 0.3), 1e-12).log_e for _ in range(150)]
    largest = np.array([log for log in logs if log is not None])
    assert largest.size == 150
    for level in (0.5, 0.2, 0.1):  # the running maximum passes 1 / level in at most that share
        assert (largest >= -math.log(level)).mean() <= level + 2 * math.sqrt(level * (1 - level) / 150)


def density(x: np.ndarray, covariance: np.ndarray, change: np.ndarray | None = None) -> float:
    """Log of the likelihood integrated over level, log spread and a step N(0, 4 sigma^2), by dense matrices."""
    if change is not None:
        covariance = covariance + 4 * np.outer(change, change)
    inverse, one = np.linalg.inv(covariance), np.ones(x.size)
    weight = one @ inverse @ one
    rest = x @ inverse @ x - (one @ inverse @ x) ** 2 / weight
    return float(
        -np.linalg.slogdet(covariance)[1] / 2 - math.log(weight) / 2 - (x.size - 1) / 2 * math.log(rest)
    )


@pytest.mark.parametrize("most", [0.0, 0.5])
def test_the_evidence_agrees_with_dense_matrices(most: float) -> None:
    rng = np.random.default_rng(21)
    values, times = (
        rng.uniform(-1, 1, 26),
        np.cumsum(rng.uniform(0.5, 1.5, 26)),
    )  # none far enough to be pulled in
    top, spacing = math.asin(most), np.median(np.diff(times[:MIN_POINTS]))
    apart = np.abs(times[:, None] - times) / spacing
    coarse, fine = (np.sin(np.linspace(0, top, 1 + math.ceil(k * top))) for k in (8, 40))
    best = -math.inf
    for n in range(11, 27):
        x, terms = values[:n], []
        for phi in coarse:
            covariance = phi ** apart[:n, :n]
            started = n - 8
            terms.append(density(x, covariance) + math.log1p(-0.5 * started / 168) - math.log(coarse.size))
            for start in range(8, n - 2):
                step = (np.arange(n) >= start).astype(float)
                ramp = np.maximum(times[:n] - times[start - 1], 0) / spacing / 20
                for share, change in ((0.75, step), (0.25, ramp)):
                    prior = math.log(share * 0.5 / 168 / coarse.size)
                    terms.append(density(x, covariance, change) + prior)
        null = max(density(x, phi ** apart[:n, :n]) for phi in fine)
        best = max(best, float(logsumexp(terms)) - null)
    found = change_points(values, times=times, max_autocorrelation=most)
    assert found.quiet
    assert found.log_e == pytest.approx(best, abs=1e-8)


def undetermined(found: ChangePoints) -> str | None:
    assert not found.determined
    assert not found.quiet
    assert (found.changes, found.log_e, found.p) == ((), None, None)
    assert json.dumps(found.to_dict(), allow_nan=False)
    return found.reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "too_few_points"),
        ([1.0], "too_few_points"),
        (list(range(MIN_POINTS - 1)), "too_few_points"),
        ([math.nan] * 100, "too_few_points"),
        ([1.0, 2.0] * 9 + [math.inf] * 50, "too_few_points"),
        ([0.0] * 50, "zero_variance"),
        ([1e300] * 50, "zero_variance"),
    ],
)
def test_a_series_that_cannot_say_is_undetermined(values: list[float], reason: str) -> None:
    assert undetermined(change_points(values)) == reason


def test_times_that_run_backwards_are_undetermined() -> None:
    values, times = np.random.default_rng(13).normal(0, 1, 30), np.arange(30.0)
    times[7] = times[6]
    assert undetermined(change_points(values, times=times)) == "times_not_increasing"
    assert undetermined(change_points(values, sizes=np.zeros(30))) == "too_few_points"
    assert undetermined(change_points(values, sizes=np.full(30, -1.0))) == "too_few_points"


def test_results_are_json_and_wrong_arguments_are_named() -> None:
    values = series(np.random.default_rng(14), 80)
    values[40:] += 6
    found = change_points(values).to_dict()
    assert json.dumps(found, allow_nan=False)
    assert found["quiet"] is False
    quiet = change_points(series(np.random.default_rng(15), 60))
    assert quiet.quiet
    assert quiet.p is not None
    with pytest.raises(ValueError, match="one per point"):
        change_points([1.0, 2.0], times=[1.0])
    with pytest.raises(ValueError, match="alpha"):
        change_points([1.0], 0)
    with pytest.raises(ValueError, match="max_autocorrelation"):
        change_points([1.0], max_autocorrelation=1.0)
