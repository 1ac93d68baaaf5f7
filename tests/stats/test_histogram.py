"""The logarithmic histogram: within half a percent, mergeable, honest about what it cannot know."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.histogram import BINS, LogHistogram
from understudy.stats.quantiles import quantiles


@pytest.mark.parametrize("scale", [0.1, 1.0, 1e5])
def test_a_quantile_is_within_half_a_percent(scale: float) -> None:
    x = scale * np.random.default_rng(1).lognormal(0, 1, 20_000)
    found = LogHistogram.from_values(x)
    for q in (0.01, 0.5, 0.95, 0.99, 0.999):
        exact = float(quantiles(x, q).estimate)
        assert float(found.quantile(q)) == pytest.approx(exact, rel=0.00501)


def test_the_interval_encloses_the_exact_one() -> None:
    x = np.random.default_rng(2).lognormal(3, 0.5, 30_000)
    exact, found = quantiles(x, 0.99), LogHistogram.from_values(x).interval(0.99)
    assert found.determined
    assert float(exact.lower) / 1.0101 < float(found.lower) < float(exact.lower)
    assert float(exact.upper) < float(found.upper) < float(exact.upper) * 1.0101
    assert float(found.se) >= float(exact.se)


def test_histograms_of_parts_add_up_to_the_histogram_of_all() -> None:
    x = np.random.default_rng(3).lognormal(3, 2, (4, 500))
    rows = LogHistogram.from_values(x)
    whole = LogHistogram.from_values(x.ravel())
    assert np.array_equal(rows.counts.sum(axis=0), whole.counts)
    merged = LogHistogram.from_values(x[0])
    for part in x[1:]:
        merged = merged.merge(LogHistogram.from_values(part))
    assert np.array_equal(merged.counts, whole.counts)
    assert int(merged.n) == 2000


def test_the_share_above_a_limit_is_never_too_small() -> None:
    x = np.random.default_rng(4).lognormal(3, 1, 10_000)
    found = LogHistogram.from_values(x)
    for limit in (0.0, 1.0, 20.0, 100.0, 1e7):
        exact = float((x > limit).mean())
        assert exact <= float(found.share_above(limit)) <= float((x > limit / 1.0101).mean())
    assert float(found.share_above(math.inf)) == 0


def test_what_is_no_measurement_is_counted_apart() -> None:
    found = LogHistogram.from_values([1.0, -1.0, math.nan, math.inf, -math.inf, 0.0])
    assert (int(found.n), int(found.unusable)) == (2, 4)
    assert float(found.quantile(0.5)) == 0.0


def test_the_ends_are_honest() -> None:
    assert math.isnan(float(LogHistogram.from_values(np.full(500, 1e12)).quantile(0.5)))
    assert str(LogHistogram.from_values(np.full(500, 1e12)).interval(0.5).reason) == "beyond_the_last_bin"
    assert float(LogHistogram.from_values(np.zeros(500)).quantile(0.9)) == 0.0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "too_few_values"), ([5.0], "too_few_values"), ([math.nan] * 900, "too_few_values"),
        ([5.0] * 900, "bounds_coincide"), ([0.0] * 900, "bounds_coincide"), ([-1.0] * 900, "too_few_values"),
    ],
)  # fmt: skip
def test_ugly_inputs_are_undetermined(values: list[float], reason: str) -> None:
    histogram = LogHistogram.from_values(values)
    found = histogram.interval(0.9)
    assert (bool(found.determined), str(found.reason)) == (False, reason)
    assert json.dumps(found.to_dict(), allow_nan=False)
    again = LogHistogram.from_dict(json.loads(json.dumps(histogram.to_dict(), allow_nan=False)))
    assert np.array_equal(again.counts, histogram.counts)
    if not len(values):
        assert math.isnan(float(histogram.share_above(1.0)))


def test_it_survives_its_dictionary_with_all_its_axes() -> None:
    x = np.random.default_rng(5).lognormal(3, 1, (2, 3, 50))
    found = LogHistogram.from_values(x)
    data = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    again = LogHistogram.from_dict(data)
    assert again.counts.shape == (2, 3, BINS)
    assert np.array_equal(again.counts, found.counts)
    assert sum(len(row) for row in data["bins"]) <= 300  # occupied bins only
    np.testing.assert_array_equal(again.quantile(0.9), found.quantile(0.9))
    assert LogHistogram.from_values(np.empty((0, 3))).n.shape == (0,)


def test_misuse_is_refused() -> None:
    found = LogHistogram.from_values([1.0])
    with pytest.raises(ValueError, match="axis"):
        LogHistogram.from_values(1.0)
    with pytest.raises(ValueError, match="q is"):
        found.quantile(1.0)
    for limit in (-1.0, math.nan):
        with pytest.raises(ValueError, match="limit"):
            found.share_above(limit)
