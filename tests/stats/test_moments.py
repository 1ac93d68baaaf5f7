"""Moments that merge: NIST's certified values, exact arithmetic, any order, any split, ugly inputs."""

from __future__ import annotations

import json
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.stats.moments import Moments

Rows = NDArray[np.float64]


def column(values: Rows) -> Moments:
    return Moments.from_rows(np.asarray(values, dtype=float)[:, None], ("y",))


def same(left: Moments, right: Moments, rel: float = 1e-12) -> None:
    assert np.array_equal(left.n, right.n)
    assert np.array_equal(left.non_finite, right.non_finite)
    np.testing.assert_allclose(left.mean, right.mean, rtol=rel)
    scale = np.abs(left.m2).max()
    np.testing.assert_allclose(left.m2, right.m2, rtol=rel, atol=rel * scale)


# NIST StRD, univariate summary statistics: the sets whose data follow from a rule, with the certified mean and deviation.
# (PiDigits does not: the true digits of pi have mean 4.5358, the certified 4.5348 belongs to NIST's own file.)
# The last number is what doubles can hold: from NumAcc3 on the data themselves are already rounded.
CERTIFIED = {
    "NumAcc1": (np.array([10000001.0, 10000003.0, 10000002.0]), 10000002.0, 1.0, 1e-15),
    "NumAcc2": (np.array([1.2] + [1.1, 1.3] * 500), 1.2, 0.1, 1e-13),
    "NumAcc3": (np.array([1000000.2] + [1000000.1, 1000000.3] * 500), 1000000.2, 0.1, 1e-8),
    "NumAcc4": (np.array([10000000.2] + [10000000.1, 10000000.3] * 500), 10000000.2, 0.1, 1e-7),
}


@pytest.mark.parametrize("name", CERTIFIED)
def test_nist_certified_values(name: str) -> None:
    values, mean, deviation, within = CERTIFIED[name]
    for found in (column(values), _in_pieces(values)):
        assert float(found.mean[0]) == pytest.approx(mean, rel=1e-15)
        assert math.sqrt(found.variance[0]) == pytest.approx(deviation, rel=within)


@pytest.mark.parametrize("name", CERTIFIED)
def test_the_rounded_data_themselves_lose_nothing(name: str) -> None:
    values = CERTIFIED[name][0]
    exact = [Fraction(v) for v in values.tolist()]
    mean = sum(exact) / len(exact)
    second = sum((v - mean) ** 2 for v in exact)
    for found in (column(values), _in_pieces(values)):
        assert float(found.m2[0, 0]) == pytest.approx(float(second), rel=1e-13)
        error = Fraction(float(found.mean[0])) + Fraction(float(found.remainder[0])) - mean
        assert abs(float(error)) < 1e-20 * float(mean) + 1e-17


def _in_pieces(values: Rows) -> Moments:
    merged = Moments.empty(("y",))
    for piece in np.array_split(values, 7):
        merged = merged.merge(column(piece))
    return merged


@pytest.mark.parametrize("offset", [0.0, 1.0, 1e9, -1e9])
@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_merging_is_the_same_in_any_order(offset: float, scale: float) -> None:
    rng = np.random.default_rng(1)
    # Multiples of 2^-10, so that neither offset nor scale rounds the values before they are counted.
    x = np.round(rng.normal(size=(600, 3)) * 1024) / 1024 * (2.0 ** round(math.log2(scale)))
    x = x + offset * (scale if scale >= 1 else 1.0) * (scale >= 1)
    whole = Moments.from_rows(x, "abc")
    a, b, c = (Moments.from_rows(part, "abc") for part in (x[:7], x[7:400], x[400:]))
    for merged in (a.merge(b).merge(c), a.merge(b.merge(c)), c.merge(a).merge(b), b.merge(c).merge(a)):
        same(whole, merged)
    stacked = Moments.from_rows(x.reshape(60, 10, 3), "abc").merged(0)
    same(whole, stacked)


def test_an_offset_of_a_billion_leaves_the_variance_alone() -> None:
    rng = np.random.default_rng(2)
    noise = np.round(rng.uniform(size=(1000, 1)) * 2**20) / 2**20
    near, far = (Moments.from_rows(noise + offset, "y") for offset in (0.0, 1e9))
    np.testing.assert_allclose(far.m2, near.m2, rtol=1e-13)
    pieces = Moments.from_rows((noise + 1e9).reshape(100, 10, 1), "y").merged()
    np.testing.assert_allclose(pieces.m2, near.m2, rtol=1e-12)


def test_an_empty_part_is_neutral_to_the_last_bit() -> None:
    rng = np.random.default_rng(3)
    full, nothing = Moments.from_rows(rng.normal(3, 1, (50, 2)), "xy"), Moments.empty("xy")
    for merged in (full.merge(nothing), nothing.merge(full)):
        assert np.array_equal(merged.mean, full.mean)
        assert np.array_equal(merged.m2, full.m2)
    assert nothing.merge(nothing).to_dict() == nothing.to_dict()
    assert Moments.empty("xy", (0,)).merged().to_dict() == nothing.to_dict()


def test_moments_agree_with_numpy() -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4, 30, 3))
    found = Moments.from_rows(x, "abc")
    for i in range(4):
        np.testing.assert_allclose(found.mean[i], x[i].mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.row(i).covariance, np.cov(x[i].T), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(found.variance, x.var(axis=1, ddof=1), rtol=1e-12)


def test_an_engines_aggregates_become_the_same_moments() -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(2, 1, (3, 40, 2))
    m2 = np.stack([np.cov(part.T) * 39 for part in x])
    taken = Moments.from_aggregates("ab", np.full(3, 40), x.mean(axis=1), m2)
    same(taken.merged(), Moments.from_rows(x.reshape(120, 2), "ab"))
    none = Moments.from_aggregates("a", [0.0, 1.0], [[math.nan], [5.0]], [[[math.nan]], [[math.nan]]])
    assert none.mean.tolist() == [[0.0], [5.0]]
    assert not none.m2.any()


def test_rows_with_anything_that_is_no_number_are_counted_apart() -> None:
    x = np.array([[1.0, 2.0], [math.nan, 2.0], [3.0, math.inf], [5.0, -math.inf], [3.0, 6.0]])
    found = Moments.from_rows(x, "ab")
    assert (float(found.n), float(found.non_finite)) == (2.0, 3.0)
    assert found.mean.tolist() == [2.0, 4.0]
    assert found.merge(found).non_finite == 6
    absent = Moments.from_rows(x, "ab", present=[True, False, True, True, False])
    assert (float(absent.n), float(absent.non_finite)) == (1.0, 2.0)


@pytest.mark.parametrize(
    "rows",
    [
        np.empty((0, 1)),
        np.ones((1, 1)),
        np.full((5, 1), math.nan),
        np.full((5, 1), math.inf),
        np.full((5, 1), 0.1),
        np.array([[1e308], [1e308], [-1e308]]),
        np.array([[5e-324], [1e9]]),
        np.empty((0, 5, 1)),
    ],
    ids=["empty", "one", "nan", "inf", "constant", "huge", "tiny and large", "no cells"],
)
def test_ugly_rows_never_raise(rows: Rows) -> None:
    found = Moments.from_rows(rows, "y")
    again = Moments.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert np.array_equal(again.n, found.n)
    assert again.m2.shape == found.m2.shape
    found.merge(found).covariance.sum()


def test_a_constant_has_no_variance_at_all() -> None:
    assert Moments.from_rows(np.full((7, 1), 0.1), "y").m2 == 0
    assert Moments.from_rows(np.full((6, 7, 1), 0.1), "y").merged().m2 == 0


def test_moments_survive_their_dictionary() -> None:
    x = np.random.default_rng(6).normal(1e9, 1, (2, 3, 20, 2))
    found = Moments.from_rows(x, "ab")
    again = Moments.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        Moments.from_rows(np.ones((3, 2)), "a")
    with pytest.raises(ValueError, match="shape"):
        Moments.from_rows(np.ones(3), "a")
    with pytest.raises(ValueError, match="columns"):
        Moments.empty("a").merge(Moments.empty("b"))
    with pytest.raises(ValueError, match="axis"):
        Moments.empty("a").merged()
    with pytest.raises(ValueError, match="fit"):
        Moments.from_aggregates("a", [1.0], [1.0], [[[0.0]]])
    with pytest.raises(ValueError, match="negative"):
        Moments.from_aggregates("a", [-1.0], [[1.0]], [[[0.0]]])
