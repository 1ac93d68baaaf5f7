"""The paired offline comparison: against statsmodels, by cohort, and with ugly inputs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from understudy.stats.losses import row_loss
from understudy.stats.paired import holm, paired_by_cohort, paired_difference


def rows(seed: int, units: int = 200, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    unit = np.repeat(np.arange(units), rng.integers(1, 8, units))
    champion = rng.normal(1, 1, unit.size)
    effect = rng.normal(0, 0.3, units)[unit]
    return champion, champion + shift + effect + rng.normal(0, 0.5, unit.size), unit


def test_it_agrees_with_a_cluster_robust_regression() -> None:
    import statsmodels.api as sm

    champion, challenger, unit = rows(1)
    found = paired_difference(champion, challenger, unit, 0.05)
    fit = sm.OLS(challenger - champion, np.ones(unit.size)).fit(cov_type="cluster", cov_kwds={"groups": unit})
    assert found.interval.estimate == pytest.approx(fit.params[0])
    assert found.interval.se == pytest.approx(fit.bse[0], rel=0.005)


def test_two_sided_intervals_cover_at_their_level_and_clusters_matter() -> None:
    hits = 0
    for seed in range(400):
        interval = paired_difference(*rows(seed, 60), 0.1).interval
        assert interval.lower is not None
        assert interval.upper is not None
        hits += interval.lower <= 0 <= interval.upper
    assert 0.85 <= hits / 400 <= 0.945


def test_a_one_sided_bound_is_the_wider_interval_at_twice_the_level() -> None:
    data = rows(5)
    one, two = paired_difference(*data, 0.05, "one"), paired_difference(*data, 0.1)
    assert (one.interval.lower, one.interval.upper) == (two.interval.lower, two.interval.upper)


def test_cohorts_share_alpha_and_the_harmed_one_is_found() -> None:
    champion, challenger, unit = rows(6, 900)
    origin = np.where(unit % 3 == 0, "JFK", np.where(unit % 3 == 1, "LGA", "EWR"))
    challenger = challenger + np.where(origin == "JFK", 0.4, 0.0)
    found = paired_by_cohort(champion, challenger, unit, {"origin": origin}, 0.05)
    assert list(found) == ["all", "origin=EWR", "origin=JFK", "origin=LGA"]
    assert found["all"].interval.alpha == 0.05
    harmed = found["origin=JFK"]
    assert harmed.interval.alpha == pytest.approx(0.05 / 3)
    assert (harmed.interval.lower or 0) > 0
    assert (harmed.p_holm or 1) < 0.05
    assert json.dumps({key: cell.to_dict() for key, cell in found.items()}, allow_nan=False)


def test_holm_matches_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    assert list(holm(p).values()) == pytest.approx(list(multipletests(list(p.values()), method="holm")[1]))
    assert holm({"a": 0.02, "b": None}) == {"a": 0.04, "b": None}


@pytest.mark.parametrize(
    ("champion", "challenger", "units", "reason"),
    [
        ([], [], [], "too_few_units"),
        ([1.0], [2.0], ["a"], "too_few_units"),
        ([1.0, 2.0], [2.0, 5.0], ["a", "a"], "too_few_units"),
        ([1.0, 2.0], [2.0, 3.0], ["a", "b"], "zero_variance"),
        ([math.nan, math.inf], [math.nan, math.inf], ["a", "b"], "too_few_units"),
    ],
)
def test_too_little_is_undetermined(
    champion: list[float], challenger: list[float], units: list[str], reason: str
) -> None:
    found = paired_difference(champion, challenger, units, 0.05)
    assert (found.interval.determined, found.interval.reason, found.p) == (False, reason, None)


def test_losses_are_on_the_harm_scale() -> None:
    p, y = [0.9, 0.4, math.nan, 1.0], [1, 1, 1, 0]
    assert row_loss("brier", p, y) == pytest.approx([0.01, 0.36, math.nan, 1.0], nan_ok=True)
    assert row_loss("accuracy", p, y) == pytest.approx([-1, 0, math.nan, 0], nan_ok=True)
    assert row_loss("log_loss", p, y)[3] == pytest.approx(-math.log(1e-6), rel=1e-6)
    with pytest.raises(ValueError, match="kind"):
        row_loss("error_rate", p, y)
