"""Every world has the harm and the traffic that it claims, measured."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rehearsal.scenes import past, spec
from understudy.rehearsal.climb import _Climb
from understudy.rehearsal.history import History
from understudy.rehearsal.ladder import Ladder
from understudy.rehearsal.traffic import Traffic
from understudy.rehearsal.worlds import (
    AUTOCORRELATION,
    MERGED,
    Effect,
    Shape,
    Truth,
    World,
    reshaped,
    worlds_of,
)

HISTORY = past(error_rate=0.05)
RNG = np.random.default_rng


def rates(world: World, history: History = HISTORY) -> tuple[History, np.ndarray]:
    """Return the challenger's mean difference by metric and cohort ("all" first) over long runs."""
    forever = [{"percent": 50, "soak": "400s", "timeout": "500s", "min_units": 2, "margin_scale": 99}]
    ladder = Ladder.of(spec(stages=forever, alpha=1e-6), history)
    shaped = reshaped(ladder.history, world.shape, RNG(1))
    climb = _Climb(ladder, Traffic(shaped, 12, RNG(2)), world, RNG(3))
    climb.run()
    cells = climb.tally.cells(np.arange(12), 1, climb.contained)
    arms = [
        arm.sum_n.sum(axis=(0, 2)) / arm.sum_d.sum(axis=(0, 2)) for arm in (cells.challenger, cells.control)
    ]
    return ladder.history, (arms[0] - arms[1]).reshape(2, 3)


def test_the_worlds_of_a_spec_are_the_ones_promised() -> None:
    worlds = {world.name: world for world in worlds_of(spec(), HISTORY)}
    assert set(worlds) == {
        "no_effect", "heavy_tails", "repeating_units", "autocorrelation", "late_labels", "outages", "harm_brier_1x",
        "harm_brier_2x", "harm_errors_1x", "harm_errors_2x", "harm_in_one_cohort", "hoped_gain",
    }  # fmt: skip
    assert worlds["harm_errors_2x"].effects == (Effect("errors", 0.04), Effect("brier", -0.02))
    assert worlds["hoped_gain"].effects == (Effect("brier", -0.02),)
    hoped = {world.name: world for world in worlds_of(spec(risk={"hoped_gain": 0.005}), HISTORY)}
    assert hoped["hoped_gain"].effects == (Effect("brier", -0.005),)


@pytest.mark.parametrize(
    "name", ["no_effect", "harm_brier_1x", "harm_brier_2x", "harm_errors_1x", "harm_errors_2x", "hoped_gain"]
)
def test_harm_and_gain_are_as_large_as_claimed(name: str) -> None:
    world = next(world for world in worlds_of(spec(), HISTORY) if world.name == name)
    history, found = rates(world)
    claimed = {effect.metric: effect.size for effect in world.effects}
    for metric, difference in zip(history.metrics, found[:, 0], strict=True):
        assert difference == pytest.approx(claimed.get(metric, 0.0), abs=0.003)


def test_harm_in_one_cohort_is_in_that_cohort_and_nowhere_else() -> None:
    lga = past(error_rate=0.0)
    member = lga.member.copy()
    world = World(
        "w",
        "",
        Truth.HARM,
        2.0,
        (Effect("brier", 0.1, "origin=JFK"), Effect("brier", -0.02, "origin=JFK", False)),
    )
    _, found = rates(world, lga.with_values(member=member))
    assert found[0, 1] == pytest.approx(0.1, abs=0.005)
    assert found[0, 2] == pytest.approx(-0.02, abs=0.005)


@pytest.mark.parametrize("shape", Shape)
def test_no_shape_of_traffic_favours_an_arm(shape: Shape) -> None:
    _, found = rates(World("w", "", Truth.SAME, shape=shape))
    assert found[:, 0] == pytest.approx([0.0, 0.0], abs=0.02)


def test_heavy_tails_are_heavy_and_keep_the_average() -> None:
    heavy = reshaped(HISTORY, Shape.HEAVY_TAILED, RNG(1))
    for metric in range(2):
        assert heavy.rate(metric) == pytest.approx(HISTORY.rate(metric))
    before, after = HISTORY.numerator[0], heavy.numerator[0]
    assert _kurtosis(after) > 5 * _kurtosis(before)
    assert set(np.unique(heavy.numerator[1])) == {0.0, 1.0}
    by_unit = np.bincount(heavy.unit, heavy.numerator[1]).max()
    assert by_unit > np.bincount(HISTORY.unit, HISTORY.numerator[1]).max()


def test_units_repeat_more_often_and_nothing_else_changes() -> None:
    merged = reshaped(HISTORY, Shape.REPEATING, RNG(1))
    assert merged.units == pytest.approx(HISTORY.units / MERGED, rel=0.02)
    assert merged.numerator is HISTORY.numerator


def test_a_units_next_event_resembles_its_last_as_much_as_claimed() -> None:
    tied = reshaped(HISTORY, Shape.AUTOCORRELATED, RNG(1))
    path, unit = tied.path, tied.unit[tied.path]
    follows = np.flatnonzero(
        (unit[1:] == unit[:-1]) & (tied.denominator[0, path][1:] > 0) & (tied.denominator[0, path][:-1] > 0)
    )
    loss = tied.numerator[0, path]
    assert np.corrcoef(loss[follows], loss[follows + 1])[0, 1] == pytest.approx(AUTOCORRELATION, abs=0.05)


def test_late_labels_are_late_and_are_the_costlier_ones() -> None:
    late = reshaped(HISTORY, Shape.LATE_LABELS, RNG(1))
    moved = late.delay > HISTORY.delay
    assert moved.mean() == pytest.approx(0.5, abs=0.01)
    assert HISTORY.numerator[0][moved].min() >= HISTORY.numerator[0][~moved].max() - 1e-6


def test_an_outage_stops_the_traffic_and_brings_no_numbers_for_a_while() -> None:
    ladder = Ladder.of(spec(), HISTORY)
    climb = _Climb(
        ladder,
        Traffic(ladder.history, 8, RNG(1)),
        World("outages", "", Truth.SAME, shape=Shape.OUTAGES),
        RNG(2),
    )
    outage = climb.outage
    assert outage is not None
    runs = np.arange(8)
    at = climb._newest(runs, (outage.stops + outage.returns) / 2)
    assert at == pytest.approx(outage.stops, abs=0.5)
    climb.run()
    assert climb.tally.non_finite[0].sum() > 0


def test_a_pause_longer_than_lease_and_freshness_ends_the_exposure_by_itself() -> None:
    at = HISTORY.at.copy()
    silent = HISTORY.with_values(at=np.where(at > 60, at + 100, at), span=HISTORY.span + 100)
    ladder = Ladder.of(spec(), silent)
    found = _Climb(ladder, Traffic(ladder.history, 8, RNG(1)), World("w", "", Truth.SAME), RNG(2)).run()
    assert (found.ending == 4).any()


def _kurtosis(values: np.ndarray) -> float:
    centred = values - values.mean()
    return float((centred**4).mean() / (centred**2).mean() ** 2)
