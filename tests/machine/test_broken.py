"""The machine sees each way in which the product could be broken, so it proves something where it sees none."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.machine.installation import stage
from tests.machine.machine import Machine
from tests.machine.test_machine import on_sqlite
from understudy.errors import StaleGeneration
from understudy.exposure import Exposure
from understudy.lifecycle import expose, guard
from understudy.registry import Registry
from understudy.rollback import engine
from understudy.session import Passage
from understudy.store import exposures, runs, schema

Patch = pytest.MonkeyPatch
promote = importlib.import_module("understudy.lifecycle.promote")  # the room has a function of that name


def raises_without_a_pass(patch: Patch) -> None:
    patch.setattr(expose, "_refuse_without_pass", lambda *_: None)


def keeps_the_generation(patch: Patch) -> None:
    real = exposures._after

    def after(current: Exposure, **changes: Any) -> Exposure:
        return replace(real(current, **changes), generation=current.generation)

    patch.setattr(exposures, "_after", after)


def ignores_that_a_run_is_on_its_way_back(patch: Patch) -> None:
    patch.setattr(runs.RunState, "may_expose", property(lambda _: True))


def revives_an_ended_run(patch: Patch) -> None:
    def set_state(connection: Any, run_id: str, state: runs.RunState, at: float) -> None:
        mine = schema.runs.c.run_id == run_id
        connection.execute(schema.runs.update().where(mine).values(state=state.value, updated_at=at))

    patch.setattr(runs, "set_state", set_state)


def renews_a_lease_that_lapsed(patch: Patch) -> None:
    patch.setattr(exposures, "_exposed_by", _exposed_by)


def _exposed_by(connection: Any, run_id: str, at: float) -> Exposure | None:
    run = runs.get(connection, run_id)
    current = exposures.find(connection, run.model)
    exposed = current is not None and current.run_id == run_id and run.state is runs.RunState.EXPOSED
    return current if exposed else None


def renews_without_evidence(patch: Patch) -> None:
    real = guard._keep_exposed
    patch.setattr(
        guard,
        "_keep_exposed",
        lambda passage, decision, now: real(passage, replace(decision, renew_lease=True), now),
    )


def promotes_although_a_rollback_was_faster(patch: Patch) -> None:
    patch.setattr(promote, "_seal", _sealed(promote._seal))


def _sealed(real: Callable[..., None]) -> Callable[..., None]:
    def seal(passage: Passage, *rest: Any) -> None:
        with suppress(StaleGeneration):
            real(passage, *rest)

    return seal


def promotes_and_leaves_the_registry_behind(patch: Patch) -> None:
    patch.setattr(Registry, "make_champion", lambda *_, **__: None)


def publishes_what_was_read_before(patch: Patch) -> None:
    real = exposures.publish_flags

    def publish_flags(store: Any, settings: Any) -> None:
        with store.read() as connection:
            before = exposures.every(connection)
        store.interruptions.reached("between reading and publishing")
        with patch.context() as inside:
            inside.setattr(exposures, "every", lambda _: before)
            real(store, settings)

    patch.setattr(exposures, "publish_flags", publish_flags)


def finishes_without_ending_the_run(patch: Patch) -> None:
    patch.setattr(engine.runs, "end", lambda *_, **__: None)


Play = Callable[[Machine], None]


def exposed(machine: Machine) -> str:
    run = machine._run()
    assert run is not None
    return run.run_id


PLAYS: list[tuple[Callable[[Patch], None], int, Play]] = [
    (raises_without_a_pass, 1, lambda it: it.act("raise at once")),
    (keeps_the_generation, 6, lambda it: it.act("go on")),
    (ignores_that_a_run_is_on_its_way_back, 6, lambda it: (it.act("abort"), it.act("raise at once"))),
    (revives_an_ended_run, 5, lambda it: it.looks(kind="fails", late=0, how=(0, "roll back"), who=0)),
    (renews_a_lease_that_lapsed, 5, lambda it: it.looks(kind="holds", late=31, how=None, who=0)),
    (renews_without_evidence, 5, lambda it: it.looks(kind="holds on an error", late=7, how=None, who=0)),
    (
        promotes_although_a_rollback_was_faster,
        9,
        lambda it: it.interrupted((1, "roll back"), "promote", exposed(it)),
    ),
    (promotes_and_leaves_the_registry_behind, 9, lambda it: it.act("go on")),
    (publishes_what_was_read_before, 5, lambda it: it.interrupted((0, "roll back"), "publish")),
    (finishes_without_ending_the_run, 5, lambda it: it.act("roll back")),
]
"""What is broken, how many regular steps lead there, and what shows it."""


@pytest.mark.parametrize(("broken", "steps", "play"), PLAYS, ids=[broken.__name__ for broken, *_ in PLAYS])
def test_it_is_seen_when_it_is_broken_and_only_then(
    tmp_path: Path, broken: Callable[[Patch], None], steps: int, play: Play
) -> None:
    def played() -> None:
        machine = made()
        try:
            machine.begin_somewhere(steps=steps)
            machine.every_law_holds()
            play(machine)
            machine.every_law_holds()
            machine.a_way_back_is_there()
        finally:
            machine.place.close()

    with Patch.context() as patch:
        made = on_sqlite(tmp_path, patch)
        with stage():
            played()
            broken(patch)
            with pytest.raises(AssertionError):
                played()
