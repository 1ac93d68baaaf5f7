"""Several questions at once: scipy and statsmodels as oracles, e-BH against its definition, its promise, ugly inputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from understudy.stats.multiplicity import benjamini_hochberg, benjamini_yekutieli, e_bh


def test_bh_and_by_agree_with_scipy_and_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    rng = np.random.default_rng(1)
    for m in (1, 2, 17):
        p = rng.random(m) ** 3
        for ours, method, name in (
            (benjamini_hochberg, "bh", "fdr_bh"),
            (benjamini_yekutieli, "by", "fdr_by"),
        ):
            found = ours(p, 0.05)
            np.testing.assert_allclose(found.adjusted, false_discovery_control(p, method=method), rtol=1e-12)
            rejected, adjusted, *_ = multipletests(p, 0.05, method=name)
            np.testing.assert_allclose(found.adjusted, adjusted, rtol=1e-12)
            assert np.array_equal(found.rejected, rejected)


def by_definition(e: list[float], alpha: float) -> set[int]:
    order = sorted(range(len(e)), key=lambda i: -e[i])
    largest = max((k for k in range(1, len(e) + 1) if k * e[order[k - 1]] / len(e) >= 1 / alpha), default=0)
    return set(order[:largest])


def test_e_bh_is_its_definition() -> None:
    rng = np.random.default_rng(2)
    for _ in range(200):
        e = rng.lognormal(2, 2, rng.integers(1, 12)).tolist()
        found = e_bh(np.log(e), 0.1)
        assert set(np.flatnonzero(found.rejected).tolist()) == by_definition(e, 0.1)
        assert int(found.count) == len(by_definition(e, 0.1))


def test_the_adjusted_level_is_the_smallest_alpha_that_rejects() -> None:
    log_e = np.log([400.0, 30.0, 90.0, 1.0])
    found = e_bh(log_e, 0.05)
    assert found.adjusted.tolist() == pytest.approx([0.01, 4 / 90, 4 / 180, 1.0])
    for i, level in enumerate(found.adjusted[:3]):
        assert e_bh(log_e, float(level) * 1.0001).rejected[i]
        assert not e_bh(log_e, float(level) * 0.9999).rejected[i]


def test_an_answer_exactly_on_the_line_counts() -> None:
    assert e_bh([math.log(20.0)], 0.05).rejected.all()
    assert e_bh(np.log([60.0, 1.0, 1.0]), 0.05).rejected.tolist() == [True, False, False]
    assert benjamini_hochberg([0.05 / 3, 1.0, 1.0], 0.05).rejected.tolist() == [True, False, False]


def test_e_values_beyond_the_largest_double_are_fine() -> None:
    found = e_bh([5000.0, 800.0, -5000.0, math.inf], 0.05)
    assert found.rejected.tolist() == [True, True, False, True]
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_rows_are_separate_families() -> None:
    rng = np.random.default_rng(3)
    log_e = rng.normal(2, 3, (4, 5, 9))
    together = e_bh(log_e, 0.05)
    assert together.count.shape == (4, 5)
    for i, j in ((0, 0), (3, 4)):
        np.testing.assert_array_equal(together.rejected[i, j], e_bh(log_e[i, j], 0.05).rejected)


def test_a_planted_cohort_is_found_and_the_false_share_stays_below_alpha() -> None:
    # 40 cohorts with one common shock (dependence); two harmed ones in half of the worlds.
    rng = np.random.default_rng(4)
    runs, m, drift = 4000, 40, 3.0
    z = math.sqrt(0.5) * rng.normal(size=(runs, 1)) + math.sqrt(0.5) * rng.normal(size=(runs, m))
    z[::2, :2] += 5.0
    found = e_bh(drift * z - drift**2 / 2, 0.1)
    false = found.rejected.copy()
    false[::2, :2] = False
    share = false.sum(axis=1) / np.maximum(found.count, 1)
    assert float(share.mean()) < 0.1
    assert float(found.rejected[::2, :2].mean()) > 0.8


@pytest.mark.parametrize("test", [e_bh, benjamini_hochberg, benjamini_yekutieli])
def test_an_undetermined_question_was_asked_all_the_same(test: type) -> None:
    values = [6.0, math.nan] if test is e_bh else [0.001, math.nan]
    found = test(values, 0.05)
    alone = test(values[:1], 0.05)
    assert found.rejected.tolist() == [True, False]
    assert found.adjusted[0] > alone.adjusted[0]
    assert math.isnan(found.adjusted[1])
    assert json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize("values", [[], [math.nan], [math.nan, math.nan]])
@pytest.mark.parametrize("test", [e_bh, benjamini_hochberg, benjamini_yekutieli])
def test_nothing_to_ask_gives_no_discovery(test: type, values: list[float]) -> None:
    found = test(values, 0.05)
    assert not found.rejected.any()
    assert int(found.count) == 0


def test_misuse_is_refused() -> None:
    for alpha in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="alpha"):
            e_bh([1.0], alpha)
    for p in (-0.1, 1.1, math.inf):
        with pytest.raises(ValueError, match="p-value"):
            benjamini_hochberg([p], 0.05)
