"""Spread of effects over cohorts: against statsmodels, Gail and Simon's own table, and a simulated null."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.heterogeneity import gail_simon, heterogeneity, sign_reversal

# Gail and Simon 1985: disease-free survival of two chemotherapies by age and progesterone receptor.
EFFECTS, SE = [0.163, -0.114, -0.047, -0.151], [0.0788, 0.0689, 0.0614, 0.0547]


@pytest.mark.filterwarnings("ignore:invalid value encountered in sqrt")
def test_q_and_tau_agree_with_statsmodels() -> None:
    from statsmodels.stats.meta_analysis import combine_effects

    rng = np.random.default_rng(1)
    for k in (2, 5, 12):
        effects, se = rng.normal(0, 0.5, k), rng.uniform(0.1, 0.4, k)
        found, oracle = heterogeneity(effects, se), combine_effects(effects, se**2, method_re="chi2")
        assert found.q == pytest.approx(oracle.q)
        assert found.p == pytest.approx(float(oracle.test_homogeneity().pvalue))
        assert found.i2 == pytest.approx(max(oracle.i2, 0))
        assert found.tau2 == pytest.approx(max(oracle.tau2, 0))
        assert found.fixed == pytest.approx(oracle.mean_effect_fe)
        assert found.fixed_se == pytest.approx(oracle.sd_eff_w_fe)
        if oracle.tau2 <= 0:  # statsmodels goes on with the negative variance
            assert found.random == pytest.approx(found.fixed)
            continue
        assert found.random == pytest.approx(oracle.mean_effect_re)
        assert found.random_se == pytest.approx(oracle.sd_eff_w_re)


def test_equal_effects_have_no_spread() -> None:
    found = heterogeneity([2.0, 2.0, 2.0], [1.0, 2.0, 0.5])
    assert (found.q, found.p, found.i2, found.tau2) == (0, 1, 0, 0)
    assert found.fixed == found.random == 2


def test_gail_and_simons_example() -> None:
    found = gail_simon(EFFECTS, SE)
    assert found.q_plus == pytest.approx(4.28, abs=0.005)
    assert found.p == pytest.approx(0.088, abs=0.0005)
    assert not found.crossing


@pytest.mark.parametrize(("k", "critical"), [(2, 2.71), (3, 4.23), (4, 5.43), (5, 6.50)])
def test_gail_and_simons_table_of_critical_values(k: int, critical: float) -> None:
    effects = [math.sqrt(critical), *[-9.0] * (k - 1)]
    assert gail_simon(effects, np.ones(k)).p == pytest.approx(0.05, abs=2e-4)
    assert gail_simon([-9.0, *effects[1:]], np.ones(k)).p == pytest.approx(1 - 0.5 ** (k - 1))


def test_two_strata_reduce_to_half_a_chi_square() -> None:
    from scipy.stats import norm

    assert gail_simon([1.7, -5.0], [1, 1]).p == pytest.approx(norm.sf(1.7))


def test_false_alarms_stay_below_alpha_at_the_edge_of_the_null() -> None:
    # The null is hardest to hold when every stratum but one benefits clearly and the last has no effect.
    rng = np.random.default_rng(2)
    draws = rng.normal(0, 1, (4000, 4)) + np.array([0, 30, 30, 30])
    hits = sum(gail_simon(draw, np.ones(4)).crossing for draw in draws[:1500])
    assert hits <= 90  # 1500 at 0.05: 75 expected at most, 4 in 100 chances of more than 90
    mixed = draws[1500:] - np.array([0, 30, 30, 30])
    assert sum(gail_simon(draw, np.ones(4)).crossing for draw in mixed[:1500]) <= 90


def test_the_scale_of_the_metric_does_not_matter() -> None:
    small, large = heterogeneity(EFFECTS, SE), heterogeneity(np.array(EFFECTS) * 1e150, np.array(SE) * 1e150)
    assert large.q == pytest.approx(small.q)
    assert large.i2 == pytest.approx(small.i2)
    assert gail_simon(np.array(EFFECTS) * 1e9, np.array(SE) * 1e9).p == pytest.approx(
        gail_simon(EFFECTS, SE).p
    )


def test_simpsons_reversal_is_flagged() -> None:
    # Kidney stones (Charig 1986): open surgery wins in both strata and loses overall.
    strata = [81 / 87 - 234 / 270, 192 / 263 - 55 / 80]
    pooled = 273 / 350 - 289 / 350
    assert sign_reversal(pooled, strata).every is True
    assert sign_reversal(pooled, [*strata, -0.1]).opposed == (0, 1)
    assert sign_reversal(pooled, [*strata, -0.1]).every is False
    assert sign_reversal(0.0, [1.0, 2.0]).every is False
    assert sign_reversal(1.0, [0.0, -2.0]).every is False


@pytest.mark.parametrize(
    ("effects", "se", "strata"),
    [
        ([], [], 0),
        ([1.0], [1.0], 1),
        ([1.0, math.nan], [1.0, 1.0], 1),
        ([1.0, math.inf], [1.0, 1.0], 1),
        ([1.0, 2.0], [1.0, 0.0], 1),
        ([1.0, 2.0], [-1.0, math.nan], 0),
    ],
)
def test_too_few_usable_strata_are_undetermined(effects: list[float], se: list[float], strata: int) -> None:
    for found in (heterogeneity(effects, se), gail_simon(effects, se)):
        assert (found.reason, found.p, found.strata) == ("fewer_than_two_strata", None, strata)
        assert found.left_out == len(effects) - strata
        assert json.dumps(found.to_dict(), allow_nan=False)


def test_numbers_too_large_and_wrong_arguments() -> None:
    huge = [1e300, -1e300]
    for found in (
        heterogeneity(huge, [1e-9, 1e-9]),
        gail_simon(huge, [1e-9, 1e-9]),
        heterogeneity(huge, [1e200, 1e200]),
    ):
        assert (found.reason, found.p) == ("values_too_large", None)
        assert json.dumps(found.to_dict(), allow_nan=False)
    assert sign_reversal(math.nan, [1.0, 2.0]).reason == "effect_missing"
    assert sign_reversal(1.0, [1.0, math.nan]).every is None
    assert sign_reversal(1.0, []).reason == "fewer_than_two_strata"
    assert sign_reversal(1.0, []).to_dict()["every"] is None
    with pytest.raises(ValueError, match="one per stratum"):
        heterogeneity([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="alpha"):
        gail_simon([1.0, 2.0], [1.0, 1.0], 0)
