"""A ring goes first: only its units are exposed and counted, and nobody else is before it has passed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.lifecycle.conftest import World
from tests.lifecycle.served import BETTER, traffic
from understudy import lifecycle
from understudy.errors import StaleGeneration
from understudy.exposure import CHALLENGER, CONTROL, UNEXPOSED, assign
from understudy.lifecycle.report import render
from understudy.lifecycle.reproduce import reproduce
from understudy.lifecycle.status import status
from understudy.store.runs import RunState

REST = {"soak": "20s", "timeout": "300s", "min_units": 50}
RING = REST | {"percent": 40, "ring": ["origin=JFK"], "margin_scale": 2}
LADDER = [RING, REST | {"percent": 10}, REST | {"percent": 60}]
COHORTS = ("origin=JFK", "origin=LGA")
UNITS = [f"unit-{number}" for number in range(3000)]


@pytest.fixture
def ringed(make_world: Callable[..., World]) -> Callable[..., World]:
    """Return a builder of a world whose ladder begins with a ring."""

    def make(*stages: dict[str, Any], **changes: Any) -> World:
        world = make_world()
        world.declare(stages=list(stages or LADDER), **changes)
        world.cohorts = COHORTS
        return world

    return make


def arms(world: World) -> dict[str, list[str]]:
    """Return the arm of each unit by its airport, as readers of the document have it."""
    exposure, now = world.published(), world.clock()
    return {
        origin: [assign(exposure, unit, now, {"origin": origin}) for unit in UNITS]
        for origin in ("JFK", "LGA")
    }


def passed(world: World, run_id: str, stage: int) -> dict[str, Any]:
    """Let a stage soak with good traffic, and take the look that advances it."""
    world.clock.now += 22
    traffic(world, run_id, BETTER)
    answer = lifecycle.look(run_id, stage)
    assert answer["decision"] == "ADVANCE", answer["sentence"]
    lifecycle.conclude_stage(run_id, stage)
    return answer


def test_nobody_outside_of_the_ring_is_exposed_before_it_has_passed(ringed: Callable[..., World]) -> None:
    world = ringed()
    run_id = world.exposed_run()
    found = arms(world)
    assert set(found["LGA"]) == {UNEXPOSED}
    assert set(found["JFK"]) == {CHALLENGER, CONTROL, UNEXPOSED}
    with pytest.raises(StaleGeneration, match="stage_1 has no verdict"):
        lifecycle.raise_exposure(run_id, 2)
    assert arms(world) == found
    passed(world, run_id, 1)
    lifecycle.raise_exposure(run_id, 2)
    assert CHALLENGER in arms(world)["LGA"]


def test_no_exposed_unit_changes_its_arm_while_the_ladder_grows(ringed: Callable[..., World]) -> None:
    world = ringed()
    run_id = world.exposed_run()
    before = arms(world)
    shares = []
    for stage in (1, 2):
        passed(world, run_id, stage)
        lifecycle.raise_exposure(run_id, stage + 1)
        after = arms(world)
        for origin, old in before.items():
            moved = {(was, now) for was, now in zip(old, after[origin], strict=True) if was != now}
            assert moved <= {(UNEXPOSED, CHALLENGER), (UNEXPOSED, CONTROL)}
        before = after
        shares.append({origin: Counter(found) for origin, found in after.items()})
    assert shares[0]["JFK"][CHALLENGER] > 3 * shares[0]["LGA"][CHALLENGER]
    assert shares[1]["JFK"] == shares[1]["LGA"]


def test_a_ring_is_judged_by_its_own_units_and_its_equally_large_control(
    ringed: Callable[..., World],
) -> None:
    world = ringed()
    run_id = world.exposed_run()
    passed(world, run_id, 1)
    quality = world.verdicts(run_id, "stage_1")[-1].verdict.evidence
    recorded = world.verdicts(run_id, "stage_1")[-1].verdict
    assert recorded.passed, quality
    by_cohort = {part.cohort: part for part in recorded.parts if part.metric == "brier"}
    assert by_cohort["origin=JFK"].evidence["estimate"] == pytest.approx(
        by_cohort["all"].evidence["estimate"]
    )
    assert by_cohort["origin=LGA"].evidence["estimate"] is None
    assert reproduce(run_id)["reproduced"]


def test_a_ring_beside_everybody_else_is_no_mismatch_of_the_split(ringed: Callable[..., World]) -> None:
    world = ringed()
    run_id = world.exposed_run()
    passed(world, run_id, 1)
    lifecycle.raise_exposure(run_id, 2)
    passed(world, run_id, 2)
    lifecycle.raise_exposure(run_id, 3)
    passed(world, run_id, 3)
    assert reproduce(run_id)["reproduced"]


def test_a_ring_whose_control_is_lost_is_a_mismatch_although_everybody_else_is_many(
    ringed: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = ringed()
    run_id = world.exposed_run()
    write = world.write

    def without_most_of_control(kind: str, events: list[dict[str, Any]]) -> None:
        kept = [one for one in events if one.get("arm") != CONTROL or hash(one["unit"]) % 4 == 0]
        write(kind, [*kept, *({**kept[0], "arm": UNEXPOSED, "event_id": f"o{n}"} for n in range(4000))])

    with monkeypatch.context() as patch:
        patch.setattr(
            World,
            "write",
            lambda _, kind, events: (
                without_most_of_control(kind, events) if kind == "requests" else write(kind, events)
            ),
        )
        traffic(world, run_id, BETTER)
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "sample_ratio_mismatch")


def test_harm_in_the_ring_ends_the_run_before_anybody_else_was_exposed(ringed: Callable[..., World]) -> None:
    world = ringed()
    run_id = world.exposed_run()
    traffic(world, run_id, 0.15)
    assert lifecycle.look(run_id, 1)["decision"] == "ROLL_BACK"
    assert world.run(run_id).state is RunState.ROLLING_BACK
    assert not world.published().exposed


def test_one_of_two_rings_can_go_back_alone_and_stays_back(ringed: Callable[..., World]) -> None:
    both = RING | {"ring": list(COHORTS)}
    world = ringed(both, *LADDER[1:], cohort_harm="contain")
    run_id = world.exposed_run()
    world.clock.now += 5
    traffic(world, run_id, BETTER, skill_at={"JFK": 0.15, "LGA": 0.95})
    assert lifecycle.look(run_id, 1)["decision"] == "HOLD"
    assert world.published().contained == ("origin=JFK",)
    before = arms(world)
    assert set(before["JFK"]) == {UNEXPOSED}
    assert CHALLENGER in before["LGA"]
    passed(world, run_id, 1)
    lifecycle.raise_exposure(run_id, 2)
    after = arms(world)
    assert set(after["JFK"]) == {UNEXPOSED}
    assert after["LGA"] == before["LGA"]


def test_status_ledger_and_report_say_who_is_exposed(ringed: Callable[..., World]) -> None:
    world = ringed()
    run_id = world.exposed_run()
    (told,) = status(world.session, world.model)
    assert (told["percent"], told["rings"]) == (0.0, {"origin=JFK": 40.0})
    assert told["stage_rings"] == [["origin=JFK"], [], []]
    assert "Stage 1: 40 % of origin=JFK." in render(world.session.passage(run_id))
    world.clock.now += 31
    (lapsed,) = status(world.session, world.model)
    assert (lapsed["rings"], lapsed["lease_lapsed"]) == ({}, True)
