"""Many runs at once come to what one run at a time comes to, event by event, through the policy's own `decide`."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from tests.rehearsal.oracle import slow_run
from tests.rehearsal.scenes import COHORTS, past, spec
from understudy.rehearsal.climb import _Climb
from understudy.rehearsal.history import History
from understudy.rehearsal.ladder import Ending, Endings, Ladder
from understudy.rehearsal.traffic import Traffic
from understudy.rehearsal.worlds import Effect, Shape, Truth, World, reshaped
from understudy.spec import Experiment
from understudy.stats.ratio import ArmMoments

RUNS = 4
WORLDS = {
    "no effect": World("no_effect", "", Truth.SAME),
    "small harm": World("harm", "", Truth.HARM, 1.0, (Effect("brier", 0.02),)),
    "large harm": World("harm", "", Truth.HARM, 2.0, (Effect("brier", 0.08),)),
    "gain": World("gain", "", Truth.GAIN, effects=(Effect("brier", -0.03),)),
    "harm in one cohort": World(
        "harm_in_one_cohort",
        "",
        Truth.HARM,
        2.0,
        (Effect("brier", 0.15, "origin=JFK"), Effect("brier", -0.15, "origin=JFK", inside=False)),
    ),
    "repeating": World("repeating_units", "", Truth.SAME, shape=Shape.REPEATING),
    "autocorrelated": World("autocorrelation", "", Truth.SAME, shape=Shape.AUTOCORRELATED),
}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS.keys())
def test_every_run_ends_as_it_does_one_event_at_a_time(world: World) -> None:
    _agrees(world, spec(**LADDER), history=_history())


def test_tolerated_looks_of_harm_are_counted_alike_where_every_look_is_rehearsed() -> None:
    for failures in (1, 2, 3):
        experiment = spec(**LADDER, limits={"failures": failures}, look_every="13s")
        assert all(looks[-1] == len(looks) for looks in Ladder.of(experiment, _history()).looks)
        _agrees(WORLDS["large harm"], experiment, history=_history())


def test_an_outcome_counts_once_it_is_told_and_in_the_stage_of_its_request() -> None:
    history = _history()
    late = history.with_values(delay=np.full(len(history.at), 25.0))
    _agrees(WORLDS["gain"], spec(**LADDER), history=late)


def test_a_history_that_is_shorter_than_a_stage_is_gone_round_with_changed_paths() -> None:
    _agrees(WORLDS["gain"], spec(**LADDER), history=past(units=40, events=120, span=11.0, noise=0.05))


def test_a_harmed_cohort_is_sent_back_at_the_same_look_and_the_rest_goes_on() -> None:
    sent_back = _agrees(
        WORLDS["harm in one cohort"],
        spec(**LADDER, cohort_harm="contain", max_contained=1),
        history=_history(),
    )
    assert sent_back > 0


@pytest.mark.parametrize("name", ["no effect", "harm in one cohort"])
def test_rings_are_exposed_first_and_keep_what_they_have(name: str) -> None:
    first = LADDER["stages"][0]
    stages = [
        first | {"percent": 20, "ring": ["origin=JFK"]},
        first | {"percent": 40, "ring": ["origin=JFK"]},
        first | {"percent": 10},
        LADDER["stages"][1],
    ]
    _agrees(WORLDS[name], spec(**LADDER | {"stages": stages}), history=_history())


def test_the_worlds_above_end_in_every_way() -> None:
    endings = {
        Ending(code)
        for world in WORLDS.values()
        for code in _climbed(world, spec(**LADDER), _history())[1].ending
    }
    assert endings >= {Ending.PROMOTED, Ending.ROLLED_BACK, Ending.TIMED_OUT, Ending.NOT_SHIPPED}


LADDER: dict[str, Any] = {
    "stages": [
        {"percent": 30, "soak": "20s", "timeout": "60s", "min_units": 10, "margin_scale": 3},
        {"percent": 50, "soak": "40s", "timeout": "120s", "min_units": 30, "margin_scale": 1.5},
    ],
    "metrics": [
        {"name": "brier", "kind": "brier", "role": "primary", "margin": 0.02},
        {"name": "errors", "kind": "error_rate", "role": "guardrail", "margin": 0.1},
    ],
}


def _history() -> History:
    return past(units=150, events=700, span=90.0, noise=0.05, unit_spread=0.02)


def _climbed(world: World, experiment: Experiment, history: History) -> tuple[_Climb, Endings]:
    ladder = Ladder.of(experiment, history)
    shaped = reshaped(ladder.history, world.shape, np.random.default_rng(3))
    climb = _Climb(ladder, Traffic(shaped, RUNS, np.random.default_rng(4)), world, np.random.default_rng(5))
    return climb, climb.run()


def _agrees(world: World, experiment: Experiment, history: History) -> int:
    climb, fast = _climbed(world, experiment, history)
    ends = zip(fast.ending, fast.stage, fast.seconds, fast.events, fast.units, fast.contained, strict=True)
    for number, end in enumerate(ends):
        slow, evidence = slow_run(climb.ladder, climb.traffic, world, number)
        cells = evidence.cells
        assert tuple(float(part) for part in end) == pytest.approx(slow)
        assert tuple(climb.distinct[number].sum(axis=0)) == evidence.quality.splits[0].counts
        last = evidence.quality.stages[-1]
        assert tuple(climb.units[number, slow[1] - 1]) == (last.control, last.challenger)
        found = climb.tally.cells(np.array([number]), slow[1], climb.contained[[number]])
        assert (found.metrics, found.cohorts) == (cells.metrics, cells.cohorts)
        gone = {name for name, away in zip(COHORTS, climb.contained[number], strict=True) if away}
        judged = [row for row, name in enumerate(cells.cohorts) if name not in gone]
        for arm in ("control", "challenger"):
            assert getattr(found, arm).buckets == getattr(cells, arm).buckets > 0
            for field in fields(ArmMoments):
                if field.name in ("stages", "buckets", "events"):
                    continue
                wanted = getattr(getattr(cells, arm), field.name)[judged]
                got = getattr(getattr(found, arm), field.name)[0][judged]
                np.testing.assert_allclose(got, wanted, rtol=1e-8, atol=1e-9, err_msg=f"{arm} {field.name}")
            clocks = (getattr(cells, arm).clock[judged], getattr(found, arm).clock[0][judged])
            np.testing.assert_allclose(*clocks, rtol=1e-8, err_msg=f"{arm} clock")
    return int(fast.contained.sum())
