"""Shares and delays with their Monte-Carlo error, and ceilings that are met only when that is certain."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import stats

from tests.rehearsal.scenes import spec
from understudy.rehearsal.ladder import Ending, Endings, looks_of
from understudy.rehearsal.report import Delay, Share, ceilings_of, found_in
from understudy.rehearsal.split import split_is_sound
from understudy.rehearsal.worlds import Effect, Shape, Truth, World
from understudy.stats.srm import Split, sequential_srm


@pytest.mark.parametrize(
    ("count", "of"), [(0, 400), (1, 400), (13, 400), (200, 400), (399, 400), (400, 400), (0, 1)]
)
def test_a_share_has_its_exact_bounds(count: int, of: int) -> None:
    share = Share.of_runs(count, of)
    exact = stats.binomtest(count, of)
    assert share.upper == pytest.approx(exact.proportion_ci(0.90, "exact").high)
    assert share.lower == pytest.approx(exact.proportion_ci(0.90, "exact").low)
    assert share.se == pytest.approx(np.sqrt(share.value * (1 - share.value) / of))


def test_a_delay_that_never_ends_in_half_of_the_runs_has_no_median() -> None:
    never = Delay.of_runs(np.array([1.0, np.inf, np.inf]))
    assert (never.median, never.nine_tenths, never.median_upper) == (None, None, None)
    known = Delay.of_runs(np.arange(1.0, 401.0))
    assert (known.median, known.nine_tenths) == (200.0, 360.0)


def test_the_bound_of_a_median_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    held = [(Delay.of_runs(rng.random(101)).median_upper or 1.0) >= 0.5 for _ in range(2000)]
    assert stats.binomtest(sum(held), 2000, 0.95, "less").pvalue > 0.001
    assert Delay.of_runs(np.array([1.0])).median_upper is None


def world(
    name: str, truth: Truth, times: float = 0.0, shape: Shape = Shape.AS_RECORDED, cohort: str | None = None
) -> World:
    return World(
        name, "", truth, times, (Effect("brier", 0.1, cohort),) if truth is Truth.HARM else (), shape
    )


def ends(promoted: int = 0, rolled_back: int = 0, timed_out: int = 0, seconds: float = 10.0) -> Endings:
    codes = [Ending.PROMOTED] * promoted + [Ending.ROLLED_BACK] * rolled_back + [Ending.TIMED_OUT] * timed_out
    n = len(codes)
    return Endings(
        np.array(codes),
        np.ones(n, dtype=int),
        np.full(n, seconds),
        np.full(n, 100.0),
        np.full(n, 20.0),
        np.zeros(n, dtype=int),
    )


def judged(risk: dict[str, float], *found: tuple[World, Endings]) -> dict[str, bool]:
    results = [found_in(item, endings, 1000.0, 2) for item, endings in found]
    return {ceiling.name: ceiling.met for ceiling in ceilings_of(spec(risk=risk), results)}


def test_a_ceiling_is_met_only_if_its_upper_bound_is_below_it() -> None:
    null = world("no_effect", Truth.SAME)
    assert judged({"false_rollback": 0.05}, (null, ends(rolled_back=12, timed_out=388))) == {
        "false_rollback": True
    }
    # 16 of 400 are 4 %, but up to 6 % cannot be excluded.
    assert judged({"false_rollback": 0.05}, (null, ends(rolled_back=16, timed_out=384))) == {
        "false_rollback": False
    }


def test_the_worst_of_the_worlds_counts() -> None:
    calm, heavy = world("no_effect", Truth.SAME), world("heavy_tails", Truth.SAME, shape=Shape.HEAVY_TAILED)
    found = judged(
        {"false_rollback": 0.05}, (calm, ends(timed_out=400)), (heavy, ends(rolled_back=40, timed_out=360))
    )
    assert found == {"false_rollback": False}
    outage = world("outages", Truth.SAME, shape=Shape.OUTAGES)
    assert judged({"false_rollback": 0.05}, (calm, ends(timed_out=400)), (outage, ends(rolled_back=400)))[
        "false_rollback"
    ]


def test_every_ceiling_is_held_against_its_own_worlds() -> None:
    risk = {
        "false_promotion": 0.05, "missed_harm": 0.05, "harmed_units": 100.0, "detection": 60.0, "promotion": 60.0,
    }  # fmt: skip
    once, twice = world("harm_brier_1x", Truth.HARM, 1), world("harm_brier_2x", Truth.HARM, 2)
    gain = world("hoped_gain", Truth.GAIN)
    good = [(once, ends(rolled_back=400)), (twice, ends(rolled_back=400)), (gain, ends(promoted=400))]
    assert all(judged(risk, *good).values())
    missed = judged(
        risk,
        (once, ends(rolled_back=400)),
        (twice, ends(promoted=100, rolled_back=300)),
        (gain, ends(promoted=400)),
    )
    assert {name for name, met in missed.items() if not met} == {
        "false_promotion",
        "missed_harm",
        "harmed_units",
    }
    slow = judged(
        risk, (twice, ends(rolled_back=400, seconds=61.0)), (gain, ends(promoted=400, seconds=61.0))
    )
    assert {name for name, met in slow.items() if not met} == {"detection", "promotion"}


def test_a_ceiling_that_no_world_is_about_is_not_met() -> None:
    assert judged({"promotion": 60.0}, (world("no_effect", Truth.SAME), ends(timed_out=10))) == {
        "promotion": False
    }


def test_harm_in_one_cohort_counts_as_missed_but_not_as_late() -> None:
    cohort = world("harm_in_one_cohort", Truth.HARM, 2, cohort="origin=JFK")
    twice = world("harm_brier_2x", Truth.HARM, 2)
    risk = {"missed_harm": 0.05, "detection": 60.0}
    found = judged(risk, (cohort, ends(promoted=400)), (twice, ends(rolled_back=400)))
    assert found == {"missed_harm": False, "detection": True}


def test_a_promoted_challenger_reaches_everyone() -> None:
    found = found_in(world("w", Truth.HARM, 2), ends(promoted=1, timed_out=1), 1000.0, 2)
    assert found.exposed_units == pytest.approx((1000 + 20) / 2)
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["endings"]["promoted"] == 1


@pytest.mark.parametrize(
    ("soak", "timeout", "every"), [(4, 90, 2), (30, 300, 5), (5, 9, 2), (86400, 7 * 86400, 60)]
)
def test_rehearsed_looks_have_the_first_the_first_after_the_soak_and_the_last(
    soak: float, timeout: float, every: float
) -> None:
    looks = looks_of(soak, timeout, every, 10)
    assert len(looks) <= 11
    assert (np.diff(looks) > 0).all()
    assert looks[0] == 1
    assert looks[-1] * every > timeout >= (looks[-1] - 1) * every
    assert any(look * every >= soak > (look - 1) * every for look in looks)


def test_the_split_of_many_runs_is_tested_as_that_of_one() -> None:
    rng = np.random.default_rng(2)
    counts = rng.poisson([[40, 40], [300, 300], [60, 900]], (300, 3, 2)).astype(float)
    counts[::7, 2, 0] += 60
    challenger, control = np.array([0.05, 0.5, 0.95]), np.array([0.05, 0.5, 0.05])
    sound = split_is_sound(counts, challenger, control)
    for run in range(300):
        first = counts[run, :2].sum(axis=0).astype(int)
        parts = [
            Split((1, 2), (int(first[0]), int(first[1])), (0.5, 0.5)),
            Split((3,), (int(counts[run, 2, 0]), int(counts[run, 2, 1])), (0.05, 0.95)),
        ]
        assert sound[run] == (not sequential_srm(parts, 0.001).alarm)
    assert 0 < sound.sum() < 300
