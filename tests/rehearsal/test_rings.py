"""Rings in the rehearsal: who is in them is exposed further, nobody else before them, and an unknown ring is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.rehearsal.scenes import past, spec
from understudy.errors import NoHistory
from understudy.rehearsal import plan_of
from understudy.rehearsal.rings import arms_of

REST = {"soak": "20s", "timeout": "400s", "min_units": 10, "margin_scale": 3}


def ladder(*rungs: tuple[float, list[str]]) -> list[dict[str, object]]:
    return [REST | {"percent": percent, "ring": ring} for percent, ring in rungs]


def test_a_ring_has_its_own_share_and_everybody_else_the_stages() -> None:
    rungs = (20, ["origin=JFK"]), (50, ["origin=JFK"]), (1, []), (25, []), (60, [])
    challenger, control = arms_of(spec(stages=ladder(*rungs)), past())
    jfk, lga = challenger.T
    assert jfk.tolist() == [0.2, 0.5, 0.5, 0.5, 0.6]
    assert lga.tolist() == [0.0, 0.0, 0.01, 0.25, 0.6]
    np.testing.assert_array_equal(control[:4], challenger[:4])
    assert control[4].tolist() == [0.4, 0.4]


def test_a_second_ring_leaves_the_first_what_it_has() -> None:
    rungs = (40, ["origin=JFK"]), (10, ["origin=LGA"]), (20, [])
    challenger, _ = arms_of(spec(stages=ladder(*rungs)), past())
    assert challenger.tolist() == [[0.4, 0.0], [0.4, 0.1], [0.4, 0.2]]


def test_a_ring_that_never_came_cannot_be_rehearsed_or_planned() -> None:
    experiment = spec(stages=ladder((10, ["origin=EWR"]), (20, [])))
    for ask in (arms_of, plan_of):
        with pytest.raises(NoHistory, match="Ring origin=EWR of delay_test never came"):
            ask(experiment, past())


def test_a_ring_stage_takes_longer_by_as_much_as_the_ring_is_smaller() -> None:
    experiment = spec(stages=ladder((10, ["origin=JFK"]), (10.0001, [])))
    history = past(units=400, events=20_000, span=400.0)
    ring, everyone = plan_of(experiment, history)
    share = float(np.mean(history.combination == 0))
    assert ring.ring == ("origin=JFK",)
    assert (ring.events or 0) == pytest.approx(everyone.events or 0, rel=0.01)
    assert (everyone.seconds or 0) / (ring.seconds or 1) == pytest.approx(share, rel=0.01)
