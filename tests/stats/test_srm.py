"""The sequential sample-ratio test: exact edges, its promise under looks, and planted mismatches."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import binomtest

from understudy.stats.srm import Split, log_bayes_factor, sequential_srm


def split(*counts: int, shares: tuple[float, ...] = (1, 1)) -> Split:
    return Split((1,), counts, shares)


def test_the_bayes_factor_is_the_dirichlet_multinomial_ratio() -> None:
    # Two arms: a beta-binomial against a binomial; the binomial coefficients cancel.
    a, b, t = 37, 52, 0.3
    beta = (
        gammaln(30 + a) + gammaln(70 + b) - gammaln(100 + a + b) - (gammaln(30) + gammaln(70) - gammaln(100))
    )
    assert log_bayes_factor((a, b), (3, 7)) == pytest.approx(
        beta - a * math.log(t) - b * math.log(1 - t), rel=1e-9
    )


@pytest.mark.parametrize(
    ("parts", "alarm", "reason"),
    [
        ((), False, None),
        ((split(0, 0),), False, None),
        ((split(5, 0, shares=(1, 0)),), False, None),
        ((split(5, 1, shares=(1, 0)),), True, "units_in_an_arm_without_share"),
        ((split(5, 1, shares=(0, 0)),), True, "units_in_an_arm_without_share"),
        ((split(0, 0, shares=(0, 0)),), False, None),
        ((split(1000, 1000),), False, None),
        ((split(1000, 1300),), True, "split_differs_from_shares"),
        ((split(950, 50, shares=(95, 5)),), False, None),
        ((split(200, 0),), True, "split_differs_from_shares"),
    ],
)
def test_edges_are_exact(parts: tuple[Split, ...], alarm: bool, reason: str | None) -> None:
    found = sequential_srm(parts, 0.001)
    assert (found.alarm, found.reason) == (alarm, reason)
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_parts_with_other_shares_add_up_under_one_alpha() -> None:
    parts = (split(500, 520), split(900, 60, shares=(95, 5)))
    total = sum(log_bayes_factor(part.counts, part.shares) for part in parts)
    assert sequential_srm(parts, 0.05).log_bf == pytest.approx(total)


@pytest.mark.parametrize(
    ("counts", "shares"), [((1, 2), (1,)), ((-1, 2), (1, 1)), ((1, 2), (-1, 1)), ((1, 2), (1, math.nan))]
)
def test_nonsense_is_refused(counts: tuple[int, ...], shares: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="counts"):
        log_bayes_factor(counts, shares)


def test_a_look_after_every_unit_alarms_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(3)
    for share in (0.5, 0.05):
        first = (rng.random((2000, 3000)) < share).cumsum(axis=1)
        second = np.arange(1, 3001) - first
        a, b = 100 * share, 100 * (1 - share)
        log_bf = gammaln(a + first) + gammaln(b + second) - gammaln(100 + first + second)
        log_bf += (
            gammaln(100) - gammaln(a) - gammaln(b) - first * math.log(share) - second * math.log(1 - share)
        )
        alarms = int((log_bf >= math.log(20)).any(axis=1).sum())
        assert binomtest(alarms, 2000, 0.05, alternative="greater").pvalue > 0.001
        last = log_bayes_factor((first[0, -1], second[0, -1]), (share, 1 - share))
        assert log_bf[0, -1] == pytest.approx(last, abs=1e-6)
