from __future__ import annotations

import asyncio
import importlib
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from understudy.errors import Unreachable
from understudy.orchestration import triggers
from understudy.orchestration.triggers import GuardTrigger, RegistryTrigger


def events(trigger: Any) -> list[Any]:
    """Run a trigger to its end and return what it fired."""

    async def collect() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    return asyncio.run(asyncio.wait_for(collect(), 20))


def guard() -> GuardTrigger:
    return GuardTrigger(run_id="demo-v2-1", stage=2, look_every=0.001)


@pytest.mark.parametrize(
    "trigger", [GuardTrigger("demo-v2-1", 2, 1.5, patience=4), RegistryTrigger(poll_every=3, repeat_after=7)]
)
def test_a_trigger_can_be_built_again_from_what_it_serializes(trigger: Any) -> None:
    path, arguments = trigger.serialize()
    module, name = path.rsplit(".", 1)
    again = getattr(importlib.import_module(module), name)(**arguments)
    assert again.serialize() == trigger.serialize()


@pytest.mark.parametrize("decision", ["ADVANCE", "ROLL_BACK"])
def test_the_guard_looks_until_the_stage_is_decided_and_fires_once(
    lifecycle: Any, looks: Any, decision: str
) -> None:
    lifecycle.answers["look"] = [looks("HOLD"), looks("HOLD"), looks(decision)]
    assert events(guard()) == [looks(decision)]
    assert lifecycle.calls == [("look", "demo-v2-1", 2)] * 3


def test_failed_looks_are_forgotten_after_one_that_works(lifecycle: Any, looks: Any) -> None:
    down = Unreachable("The store does not answer.")
    lifecycle.answers["look"] = [down, down, looks("HOLD"), down, down, looks("ADVANCE")]
    assert events(guard()) == [looks("ADVANCE")]
    assert not lifecycle.called("abort")


def test_looks_that_keep_failing_end_the_exposure(lifecycle: Any) -> None:
    lifecycle.answers = {"look": Unreachable("The store does not answer."), "abort": {}}
    (event,) = events(guard())
    assert event["decision"] == "ROLL_BACK"
    assert event["verdict"]["outcome"] == "ERROR"
    assert event["verdict"]["reason"] == "guard_lost"
    assert "3 looks in a row failed" in event["sentence"]
    assert "The store does not answer." in event["sentence"]
    assert lifecycle.called("look") == 3
    assert lifecycle.called("abort") == 1


def test_a_guard_that_cannot_even_end_the_exposure_says_that_the_lease_lapses(lifecycle: Any) -> None:
    lifecycle.answers = {"look": OSError("disk"), "abort": OSError("disk")}
    (event,) = events(guard())
    assert event["decision"] == "ROLL_BACK"
    assert event["sentence"].endswith("its lease lapses unrenewed.")


def test_a_decision_that_nobody_knows_is_never_an_advance(lifecycle: Any, looks: Any) -> None:
    lifecycle.answers = {"look": looks("PROMOTE"), "abort": {}}
    (event,) = events(guard())
    assert event["decision"] == "ROLL_BACK"


def test_an_answer_without_a_decision_is_never_an_advance(lifecycle: Any) -> None:
    lifecycle.answers = {"look": {}, "abort": {}}
    (event,) = events(guard())
    assert event["decision"] == "ROLL_BACK"


def test_a_look_that_hangs_counts_as_failed(lifecycle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(triggers, "LOOK_LIMIT", 0.05)
    lifecycle.answers = {"look": lambda: released.wait(10), "abort": {}}

    async def first() -> Any:
        stream = guard().run()
        try:
            return (await anext(stream)).payload
        finally:
            released.set()

    assert asyncio.run(first())["decision"] == "ROLL_BACK"
    assert lifecycle.called("abort") == 1


def test_two_triggerers_may_guard_the_same_stage(lifecycle: Any, looks: Any) -> None:
    lifecycle.answers["look"] = [looks("HOLD"), looks("HOLD"), looks("HOLD"), looks("ADVANCE")]

    async def both() -> list[Any]:
        async def one() -> Any:
            return (await anext(guard().run())).payload

        return await asyncio.gather(one(), one())

    assert asyncio.run(both()) == [looks("ADVANCE")] * 2


def test_a_guard_that_a_person_stops_ends_the_exposure(lifecycle: Any) -> None:
    lifecycle.answers["abort"] = {}
    asyncio.run(guard().on_kill())
    assert lifecycle.calls == [("abort", "demo-v2-1", "The guard was stopped by hand in Airflow.")]


def start(key: str) -> dict[str, Any]:
    model, version = key.split(":")
    return {"key": key, "model": model, "version": version, "signal": "alias", "experiments": ["demo"]}


def fired(answers: list[Any], wanted: int, lifecycle: Any, repeat_after: float = 60.0) -> list[Any]:
    """Let the watch run until it has fired so often and has used up the answers."""
    lifecycle.answers["pending_starts"] = answers
    used_up = len(answers)

    async def collect() -> list[Any]:
        seen: list[Any] = []
        stream: AsyncIterator[Any] = RegistryTrigger(poll_every=0.001, repeat_after=repeat_after).run()

        async def listen() -> None:
            async for event in stream:
                seen.append(event.payload)  # noqa: PERF401  (the list is watched while it grows)

        task = asyncio.create_task(listen())
        while len(seen) < wanted or lifecycle.called("pending_starts") <= used_up:
            assert not task.done(), task
            await asyncio.sleep(0.001)
        task.cancel()
        return seen

    return asyncio.run(asyncio.wait_for(collect(), 20))


def test_the_watch_fires_when_a_start_appears_and_stays_quiet_until_it_is_accepted(lifecycle: Any) -> None:
    pending = [start("flights:2")]
    assert fired([[], [], pending, pending, pending, []], 1, lifecycle) == [{"keys": ["flights:2"]}]


def test_the_watch_repeats_itself_while_a_start_is_not_accepted(lifecycle: Any) -> None:
    seen = fired([[start("flights:2")]], 3, lifecycle, repeat_after=0.01)
    assert seen[:3] == [{"keys": ["flights:2"]}] * 3


def test_another_start_fires_at_once(lifecycle: Any) -> None:
    both = [start("flights:2"), start("flights:3")]
    seen = fired([both[:1], both, both], 2, lifecycle)
    assert seen == [{"keys": ["flights:2"]}, {"keys": ["flights:2", "flights:3"]}]


def test_the_watch_survives_a_registry_that_does_not_answer(lifecycle: Any) -> None:
    down = Unreachable("MLflow does not answer.")
    assert fired([down, down, [start("flights:2")]], 1, lifecycle) == [{"keys": ["flights:2"]}]
