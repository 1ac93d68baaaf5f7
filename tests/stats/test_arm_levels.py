"""Levels of single arms, and the harms that are put together from them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from understudy.stats.arm_levels import arm_levels, bias_harm, gap_harm
from understudy.stats.cells import Cell, Cells, interval_table
from understudy.stats.ratio import ArmMoments
from understudy.stats.sequences import one_sided

ALPHA, N_STAR = 0.05, 2000.0


def drawn(mean: float, units: int = 1000, spread: float = 0.3, seed: int = 1) -> NDArray[np.float64]:
    return mean + spread * np.random.default_rng(seed).normal(0.0, 1.0, (units, 1))


def arm(mean: float, units: int = 1000, spread: float = 0.3, seed: int = 1) -> ArmMoments:
    values = drawn(mean, units, spread, seed)
    return ArmMoments.from_units(values, np.ones_like(values))


def table(*pairs: tuple[ArmMoments, ArmMoments], kind: str = "mean") -> Cells:
    return Cells.stack([Cell("m", kind, f"g={n}", *pair) for n, pair in enumerate(pairs)])


def test_a_level_is_the_mean_with_its_one_sided_sequence() -> None:
    values = np.random.default_rng(3).normal(0.4, 0.3, (500, 1))
    moments = ArmMoments.from_units(values, np.ones_like(values))
    control, challenger = arm_levels(table((moments, moments)), ALPHA, N_STAR)
    se = values.std(ddof=1) / np.sqrt(500)
    expected = one_sided(float(values.mean()), float(se), 500, ALPHA, N_STAR / 2, df=499)
    for level in (control, challenger):
        assert level.level[0] == pytest.approx(values.mean())
        assert (level.lower[0], level.upper[0]) == pytest.approx((expected.lower, expected.upper), rel=1e-3)


def test_a_level_leans_on_the_larger_spread_of_both_arms() -> None:
    calm, wild = arm(0.0, spread=0.1), arm(0.0, spread=1.0, seed=2)
    lent = arm_levels(table((calm, wild)), ALPHA, N_STAR)[0]
    alone = arm_levels(table((calm, calm)), ALPHA, N_STAR)[0]
    assert lent.upper[0] - lent.lower[0] > 5 * (alone.upper[0] - alone.lower[0])


def test_a_rate_that_never_happened_lies_between_zero_and_what_so_many_units_allow() -> None:
    never = ArmMoments.from_units(np.zeros((1000, 1)), np.ones((1000, 1)))
    some = ArmMoments.from_units(np.repeat([[1.0], [0.0]], [5, 995], axis=0), np.ones((1000, 1)))
    control = arm_levels(table((never, some), kind="error_rate"), ALPHA, N_STAR)[0]
    assert control.determined[0]
    assert (control.lower[0], control.upper[0]) == (0.0, pytest.approx(1 - (ALPHA / 2) ** (1 / 1000)))


@pytest.mark.parametrize("units", [0, 1])
def test_an_arm_of_hardly_a_unit_is_undetermined(units: int) -> None:
    thin = table((arm(0.0), arm(0.0, units)))
    assert not bias_harm(thin, ALPHA, N_STAR).determined[0]
    assert not gap_harm(
        table((arm(0.0), arm(0.0, units)), (arm(0.0), arm(0.1))), [0, 1], ALPHA, N_STAR
    ).determined
    assert np.isnan(bias_harm(thin, ALPHA, N_STAR).upper[0])


def test_bias_is_a_distance_from_zero_whichever_side_it_lies_on() -> None:
    cells = table((arm(0.1), arm(-0.1, seed=2)), (arm(0.0), arm(-0.3, seed=2)), (arm(-0.3), arm(0.0, seed=2)))
    harm = bias_harm(cells, ALPHA, N_STAR)
    assert harm.lower[0] < 0 < harm.upper[0]
    assert harm.lower[1] > 0.2
    assert harm.upper[2] < -0.2


def test_a_gap_widens_when_one_group_is_left_behind_and_narrows_when_it_catches_up() -> None:
    wider = table((arm(0.2), arm(0.2, seed=2)), (arm(0.2, seed=3), arm(0.7, seed=4)))
    narrower = table((arm(0.2), arm(0.2, seed=2)), (arm(0.7, seed=3), arm(0.2, seed=4)))
    assert 0.3 < gap_harm(wider, [0, 1], ALPHA, N_STAR).lower < 0.5
    assert gap_harm(narrower, [0, 1], ALPHA, N_STAR).lower < 0


def test_a_gap_moves_by_no_more_than_the_groups_do_however_many_there_are() -> None:
    pairs = [(arm(0.2, seed=n), arm(0.2, seed=100 + n)) for n in range(8)]
    cells = table(*pairs)
    harm = gap_harm(cells, range(8), ALPHA, N_STAR)
    apart = interval_table(cells, ALPHA / 2, N_STAR)
    assert harm.upper == pytest.approx(apart.upper.max() - apart.lower.min())
    assert harm.lower <= harm.estimate <= harm.upper


Values = list[NDArray[np.float64]]


def widening(control: Values, challenger: Values, alpha: float, n_star: float) -> tuple[float, float, float]:
    """Return estimate, lower and upper bound by the book, from the values of every group, one a unit."""
    budget = alpha / (2 * len(control) + 2)
    gaps = []
    for groups in (control, challenger):
        sides = [
            one_sided(v.mean(), v.std(ddof=1) / v.size**0.5, v.size, budget, n_star / 2, v.size - 1)
            for v in groups
        ]
        low, high = np.array([(side.lower, side.upper) for side in sides]).T
        levels = [v.mean() for v in groups]
        gaps.append((max(levels) - min(levels), max(low.max() - high.min(), 0.0), high.max() - low.min()))
    apart = []
    for before, after in zip(control, challenger, strict=True):
        own = [v.var(ddof=1) / v.size for v in (before, after)]
        df = sum(own) ** 2 / sum(part**2 / (v.size - 1) for part, v in zip(own, (before, after), strict=True))
        difference = after.mean() - before.mean()
        apart.append(one_sided(difference, sum(own) ** 0.5, before.size + after.size, alpha / 2, n_star, df))
    low, high = np.array([(side.lower, side.upper) for side in apart]).T
    (was, _, at_most), (now, at_least, _) = gaps
    return now - was, at_least - at_most, high.max() - low.min()


def test_a_gap_in_one_stage_is_the_one_by_the_book() -> None:
    control = [drawn(0.2 * n, seed=n) for n in range(4)]
    challenger = [drawn(0.1 * n * n, seed=50 + n) for n in range(4)]
    pairs = [(arm(0.2 * n, seed=n), arm(0.1 * n * n, seed=50 + n)) for n in range(4)]
    harm = gap_harm(table(*pairs), range(4), ALPHA, N_STAR)
    estimate, lower, upper = widening(control, challenger, ALPHA, N_STAR)
    assert harm.estimate == pytest.approx(estimate)
    # The judging bounds lean on the larger spread of both arms, so they are a little wider.
    assert lower - 0.02 < harm.lower <= lower + 1e-9
    assert upper - 1e-9 <= harm.upper < upper + 0.02


def test_a_gap_scales_with_its_numbers_and_has_no_sign() -> None:
    pairs = [(drawn(0.2, seed=1), drawn(0.2, seed=2)), (drawn(0.3, seed=3), drawn(0.7, seed=4))]
    plain, turned = (
        gap_harm(
            table(*([ArmMoments.from_units(by * v, np.ones_like(v)) for v in pair] for pair in pairs)),
            [0, 1], ALPHA, N_STAR,
        )
        for by in (1.0, -1e7)
    )  # fmt: skip
    for name in ("estimate", "lower", "upper"):
        assert getattr(turned, name) == pytest.approx(1e7 * getattr(plain, name))


def test_a_single_group_has_no_gap() -> None:
    cells = table((arm(0.2), arm(0.2, seed=2)), (arm(0.2), arm(0.2, seed=2)))
    assert not gap_harm(cells, [0], ALPHA, N_STAR).determined
    assert not gap_harm(cells, [0, 1], ALPHA, N_STAR, np.array([False, True])).determined


def test_under_continuous_looks_bounds_are_wrong_no_more_often_than_promised() -> None:
    rng = np.random.default_rng(11)
    runs, per_look, looks = 300, 40, 25
    wrong = {name: np.zeros(runs, bool) for name in ("bias", "gap", "wider gap")}
    draws = rng.normal(0.0, 1.0, (2, runs, 3, per_look * looks, 1))
    # The gap grows from 0.2 to 0.3, and other groups are the extremes.
    moved = draws + np.array([[0.0, 0.2, 0.0], [0.3, 0.0, 0.0]])[:, None, :, None, None]
    for look in range(1, looks + 1):
        cells, apart = (
            Cells(
                ("m",) * 3,
                ("mean",) * 3,
                ("g=0", "g=1", "g=2"),
                *(ArmMoments.from_units(d, np.ones_like(d)) for d in values[..., : look * per_look, :]),
            )
            for values in (draws, moved)
        )
        wrong["bias"] |= (bias_harm(cells, 0.1, 1000.0).lower > 0)[:, 0]
        for name, seen, truth in (("gap", cells, 0.0), ("wider gap", apart, 0.1)):
            gap = gap_harm(seen, [0, 1, 2], 0.1, 1000.0)
            wrong[name] |= (gap.lower > truth) | (gap.upper < truth)
    # 0.1 promised for each bound; 300 runs stay below 0.15 with more than 99.8 %.
    assert all(share.mean() < 0.15 for share in wrong.values())
