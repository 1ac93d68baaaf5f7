"""What the tests of the way back share: asking for one, and telling how things stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.lifecycle.conftest import World
from understudy import lifecycle, rollback
from understudy.store import ledger


def back(world: World, key: str = "r1", **options: Any) -> dict[str, Any]:
    return rollback.execute(world.model, options.pop("reason", "it hurts"), "Ada", key, **options)


def promote(world: World, name: str = "good") -> str:
    """Bring a run all the way up without looking, and promote it."""
    run_id = world.exposed_run(stage=2, version=world.versions[name])
    world.record(run_id, "stage_2", "compare")
    lifecycle.promote(run_id)
    world.clock.now += 60
    return run_id


def serves(world: World, version: str) -> bool:
    """Tell whether registry, store and document agree that everybody gets a version."""
    exposure = world.exposure()
    assert exposure is not None
    return (
        world.alias() == exposure.champion == world.published().champion == version
        and not exposure.exposed
        and not world.published().exposed
    )


def entries(world: World, *actions: str) -> list[ledger.Entry]:
    with world.store.read() as connection:
        return ledger.entries(connection, model=world.model, actions=actions)


def killed_at(room: Any, name: str, number: int, after: bool) -> Callable[..., Any]:
    """Return a stand-in for a function that dies before or after its so-manieth call, once."""
    real, calls = getattr(room, name), iter(range(1_000_000))

    def stand_in(*arguments: Any, **named: Any) -> Any:
        mine = next(calls) == number
        if mine and not after:
            raise Killed(f"before call {number} of {name}")
        answer = real(*arguments, **named)
        if mine:
            raise Killed(f"after call {number} of {name}")
        return answer

    return stand_in


class Killed(BaseException):
    """Stands for a process that is gone: no handler of errors sees it."""
