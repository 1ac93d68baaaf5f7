"""Under guard: what each look does to lease and exposure, with events written into the real event log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from tests.lifecycle.conftest import STEPS_BEFORE_EXPOSURE, World
from tests.lifecycle.served import BETTER, WORSE, traffic
from tests.servers import free_port
from understudy import gateways, lifecycle
from understudy.errors import BadParameter, StaleGeneration, StepNotPassed, Unreachable
from understudy.store import exposures
from understudy.store.runs import RunState
from understudy.verdicts import Outcome


def renewed(world: World) -> bool:
    exposure = world.exposure()
    assert exposure is not None
    return exposure.lease_expires_at == int(world.clock() + 30) and world.published() == exposure


def is_over(world: World, run_id: str) -> bool:
    exposure = world.exposure()
    assert exposure is not None
    return (
        not exposure.exposed
        and not world.published().exposed
        and world.run(run_id).state is RunState.ROLLING_BACK
    )


def test_a_good_stage_holds_through_its_soak_then_advances_and_the_next_one_opens(world: World) -> None:
    run_id = world.exposed_run()
    world.clock.now += 5
    traffic(world, run_id, BETTER)
    first = lifecycle.look(run_id, 1)
    assert (first["decision"], first["verdict"]["reason"]) == ("HOLD", "soaking")
    assert renewed(world)
    with pytest.raises(StaleGeneration, match="Only PASS"):
        lifecycle.raise_exposure(run_id, 2)
    world.clock.now += 26
    assert lifecycle.look(run_id, 1)["verdict"]["reason"] == "stale_events"
    traffic(world, run_id, BETTER)
    assert lifecycle.look(run_id, 1)["decision"] == "ADVANCE"
    assert renewed(world)
    answer = lifecycle.conclude_stage(run_id, 1)
    assert (answer["outcome"], answer["reason"]) == ("PASS", "stage_passed")
    raised = lifecycle.raise_exposure(run_id, 2)
    assert (raised["stage"], raised["percent"]) == (2, 50.0)
    assert world.published().percent == 50.0


def test_harm_drops_exposure_at_the_very_first_look(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, WORSE)
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "guardrail_breached")
    assert is_over(world, run_id)
    recorded = world.verdicts(run_id, "stage_1")
    assert [(item.decision, item.verdict.outcome) for item in recorded] == [("ROLL_BACK", Outcome.FAIL)]
    assert recorded[0].evidence is not None
    assert recorded[0].evidence["quality"]["challenger"]["units"] > 500
    with pytest.raises(StepNotPassed, match="worse by at least"):
        lifecycle.conclude_stage(run_id, 1)
    with pytest.raises(StaleGeneration):
        lifecycle.raise_exposure(run_id, 1)
    assert is_over(world, run_id)


def test_a_guardrail_acts_before_any_outcome_is_known(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, BETTER, errors=0.3)
    for path in (world.settings.events_dir / world.model / "outcomes").iterdir():
        path.unlink()
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["metric"]) == ("ROLL_BACK", "errors")
    assert is_over(world, run_id)


def test_without_events_the_lease_is_not_renewed_and_lapses(world: World) -> None:
    run_id = world.exposed_run()
    lease = world.published().lease_expires_at
    for _ in range(3):
        world.clock.now += 9
        answer = lifecycle.look(run_id, 1)
        assert (answer["decision"], answer["verdict"]["outcome"]) == ("HOLD", "ERROR")
        assert world.published().lease_expires_at == lease
    world.clock.now += 3
    assert not world.published().live(world.clock())
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "lease_lapsed")
    assert is_over(world, run_id)


def test_fresh_and_good_evidence_does_not_revive_a_lease_that_lapsed(world: World) -> None:
    run_id = world.exposed_run()
    world.clock.now += 31
    exposure = world.exposure()
    assert exposure is not None
    _with_lease(world, exposure.lease_expires_at or 0)
    answer = lifecycle.look(run_id, 1)
    assert answer["decision"] == "ROLL_BACK"
    assert is_over(world, run_id)


def _with_lease(world: World, lease: int) -> None:
    """Log good traffic that was routed before the lease lapsed."""
    world.clock.now = lease - 0.5
    traffic(world, str(world.exposure().run_id), BETTER)  # type: ignore[union-attr]
    world.clock.now = lease + 1


def test_an_exposure_taken_back_by_somebody_else_ends_the_stage(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, BETTER)
    with world.store.write() as connection:
        exposures.drop(connection, world.model, actor="Bob", reason="I saw something", at=world.clock())
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "lease_lapsed")
    assert is_over(world, run_id)


@pytest.mark.parametrize("stage", [2, 0])
def test_a_guard_of_another_stage_ends_and_touches_nothing(world: World, stage: int) -> None:
    run_id = world.exposed_run()
    before = world.published()
    answer = lifecycle.look(run_id, stage)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "run_not_exposed")
    assert world.published() == before


def test_a_look_after_the_end_is_harmless(world: World) -> None:
    run_id = world.exposed_run()
    traffic(world, run_id, WORSE)
    lifecycle.look(run_id, 1)
    before = world.actions()
    assert lifecycle.look(run_id, 1)["verdict"]["reason"] == "run_not_exposed"
    assert world.actions() == before


def test_a_stage_that_cannot_be_decided_in_time_is_taken_back(world: World) -> None:
    run_id = world.exposed_run()
    for _ in range(12):
        world.clock.now += 25
        traffic(world, run_id, 0.5, units=100)
        assert lifecycle.look(run_id, 1)["decision"] == "HOLD"
    world.clock.now += 5
    traffic(world, run_id, 0.5, units=100)
    answer = lifecycle.look(run_id, 1)
    assert (answer["decision"], answer["verdict"]["reason"]) == ("ROLL_BACK", "stage_timed_out")
    assert is_over(world, run_id)


@pytest.mark.parametrize("missing", STEPS_BEFORE_EXPOSURE)
def test_nobody_is_exposed_before_every_step_has_passed(world: World, missing: str) -> None:
    run_id = world.begin("2")["run_id"]
    world.record(run_id, *STEPS_BEFORE_EXPOSURE)
    world.record(run_id, missing, outcome=Outcome.INCONCLUSIVE)
    with pytest.raises(StaleGeneration, match=f"{missing} has INCONCLUSIVE"):
        lifecycle.raise_exposure(run_id, 1)
    assert not world.published().exposed


def test_a_stage_that_the_ladder_does_not_have_is_named_and_exposure_stays(world: World) -> None:
    run_id = world.exposed_run(stage=2)
    world.record(run_id, "stage_2")
    before = world.exposure()
    for stage in (-1, 0, 3):
        with pytest.raises(BadParameter, match=f"has stages 1 to 2, and {stage} is none"):
            lifecycle.raise_exposure(run_id, stage)
    assert world.exposure() == before


def test_a_stage_that_was_never_looked_at_does_not_pass(world: World) -> None:
    run_id = world.exposed_run()
    with pytest.raises(StepNotPassed, match="without a single look") as caught:
        lifecycle.conclude_stage(run_id, 1)
    assert caught.value.verdict["outcome"] == "ERROR"


def test_a_stage_that_was_only_held_does_not_pass(world: World) -> None:
    run_id = world.exposed_run()
    lifecycle.look(run_id, 1)
    with pytest.raises(StepNotPassed):
        lifecycle.conclude_stage(run_id, 1)


def test_nobody_is_exposed_before_every_gateway_has_loaded_the_challenger(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.begin("2")["run_id"]
    world.record(run_id, *STEPS_BEFORE_EXPOSURE)
    world.session.settings = replace(world.settings, gateway_urls=(f"http://127.0.0.1:{free_port()}",))
    quickly = partial(gateways.wait_until_followed, deadline=0.3)
    monkeypatch.setattr(gateways, "wait_until_followed", quickly)
    with pytest.raises(Unreachable):
        lifecycle.raise_exposure(run_id, 1)
    assert "exposure.raised" not in world.actions()
    exposure = world.exposure()
    assert exposure is not None
    assert (exposure.challenger, world.published().challenger) == (None, None)
    assert lifecycle.abort(run_id, "No gateway.")["rollback_needed"] is False
    assert world.run(run_id).state is RunState.FAILED


def test_a_gateway_that_does_not_follow_a_higher_stage_takes_exposure_back_to_zero(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = world.exposed_run()
    world.record(run_id, "stage_1")
    world.session.settings = replace(world.settings, gateway_urls=(f"http://127.0.0.1:{free_port()}",))
    quickly = partial(gateways.wait_until_followed, deadline=0.3)
    monkeypatch.setattr(gateways, "wait_until_followed", quickly)
    with pytest.raises(Unreachable):
        lifecycle.raise_exposure(run_id, 2)
    assert is_over(world, run_id)


def _prepared(world: World) -> str:
    return str(world.begin("2", key="started-with")["run_id"])


ABORTED: list[tuple[Callable[[World], str], bool, RunState]] = [
    (_prepared, False, RunState.FAILED),
    (lambda world: world.exposed_run(), True, RunState.ROLLING_BACK),
]


@pytest.mark.parametrize(("bring", "needed", "state"), ABORTED, ids=["preparing", "exposed"])
def test_aborting_takes_exposure_to_zero_and_says_whether_a_rollback_is_needed(
    world: World, bring: Callable[[World], str], needed: bool, state: RunState
) -> None:
    run_id = bring(world)
    key = world.run(run_id).key
    for _ in range(2):
        for named in (key, run_id):
            answer: dict[str, Any] = lifecycle.abort(named, "stopped")
            assert (answer["rollback_needed"], answer["run_id"]) == (needed, run_id)
    assert world.run(run_id).state is state
    assert not world.published().exposed
    assert world.alias("challenger") == (None if not needed else "2")


def test_aborting_what_never_started_needs_nothing(world: World) -> None:
    assert lifecycle.abort("nobody", "stopped")["rollback_needed"] is False
