"""The review of an incident is what the record says of it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands import answered, run
from tests.lifecycle.conftest import World
from tests.lifecycle.served import WORSE, traffic
from understudy import lifecycle, rollback
from understudy.errors import NoSuchId, Unreachable
from understudy.lifecycle.incident import draft, write


def caught(world: World) -> str:
    """Expose a version that does harm until the guard takes it back, and carry the rollback out."""
    run_id = world.exposed_run(version=world.versions["good"])
    traffic(world, run_id, WORSE)
    world.clock.now += 5
    assert lifecycle.look(run_id, 1)["decision"] == "ROLL_BACK"
    rollback.execute(world.model, "the guard took it back", "Ada", "r")
    return run_id


def test_a_review_says_who_found_what_how_fast_and_who_was_affected(world: World) -> None:
    world.declare(consumers=[{"name": "billing", "contact": "#billing"}])
    run_id = caught(world)
    found = draft(world.session, world.model)
    assert (found.run_id, found.actor, found.reason) == (run_id, "Ada", "the guard took it back")
    assert found.detection.startswith("The guard found it at look 1, at stage 1: brier")
    assert found.found_after == 5
    assert "zero_exposure" in found.recovery
    assert all(one["met"] for one in found.objectives.values())
    exposed, seen = (
        int(word.replace(",", "")) for word in found.affected.split(" units that were seen")[0].split(" of ")
    )
    assert 0 < exposed < seen
    assert any(sentence.startswith("brier") for sentence in found.guarded)
    assert any("errors" in sentence for sentence in found.silent)
    actions = [action for _, _, action, _ in found.timeline]
    assert actions[0] == "run.started"
    assert (
        actions.index("exposure.raised")
        < actions.index("exposure.dropped")
        < actions.index("rollback.finished")
    )
    assert "consumer.notified" in actions


def test_the_page_has_every_part_and_is_the_same_each_time(world: World) -> None:
    caught(world)
    page = write(world.session, world.model)
    assert page == write(world.session, world.model)
    for heading in (
        "Detection",
        "Recovery",
        "Who was affected",
        "What guarded",
        "What did not",
        "Timeline",
        "Open questions",
    ):
        assert f"\n## {heading}\n" in page
    assert "- [ ] What was the cause" in page


def test_a_person_who_was_faster_than_the_guard_is_a_question(world: World) -> None:
    run_id = world.exposed_run()
    rollback.execute(world.model, "users complain", "Ada", "r")
    found = draft(world.session, world.model)
    assert found.run_id == run_id
    assert found.detection == "Ada asked for it; no look at live evidence is on record."
    assert any("Nothing on record spoke against the version" in question for question in found.questions)


def test_a_rollback_that_is_on_says_so_and_asks_what_it_waits_for(world: World) -> None:
    world.exposed_run()
    with (
        world.mlflow_down(),
        pytest.raises(Unreachable, match=r"is not finished; nobody .* goes on by itself"),
    ):
        rollback.execute(world.model, "it hurts [/red]", "Ada", "r")
    assert answered("status")["models"][0]["rollback"] == "it hurts [/red]"
    assert "not ended: it hurts [/red]" in run("status").stdout
    with pytest.raises(NoSuchId):
        draft(world.session, world.model)
    rollback.resume()
    assert answered("status")["models"][0]["rollback"] is None
    assert "[/red]" in run("ledger", "show").stdout
    found = draft(world.session, world.model)
    assert any("A server did not answer" in question for question in found.questions)


def test_of_several_rollbacks_the_newest_is_reviewed_unless_one_is_named(world: World) -> None:
    first = caught(world)
    older = draft(world.session, world.model).rollback
    world.clock.now += 60
    second = world.exposed_run()
    rollback.execute(world.model, "again", "Ben", "r2")
    assert draft(world.session, world.model).run_id == second
    again = draft(world.session, world.model, older)
    assert (again.run_id, again.actor) == (first, "Ada")
    assert "Ben" not in {who for _, who, _, _ in again.timeline}


def test_a_rollback_soon_after_another_is_reviewed_by_its_own_record(world: World) -> None:
    world.exposed_run()
    rollback.execute(world.model, "it hurts", "Ada", "r")
    world.clock.now += 60
    rollback.execute(world.model, "the other one", "Ben", "r2", target_version="2")
    found = draft(world.session, world.model)
    assert (found.reason, found.result["key"], found.result["target"]) == ("the other one", "r2", "2")
    assert (found.found_after, {who for _, who, _, _ in found.timeline} & {"Ada", "Ben"}) == (None, {"Ben"})


def test_a_review_that_cannot_be_written_is_an_error_not_a_traceback(world: World, tmp_path: Path) -> None:
    world.exposed_run()
    rollback.execute(world.model, "it hurts", "Ada", "r")
    for place in (tmp_path, tmp_path / "no" / "such" / "folder.md"):
        told = run("incident", world.model, "--file", str(place))
        assert (told.exit_code, told.stderr.startswith("[BAD_PARAMETER] The review cannot")) == (1, True)


@pytest.mark.parametrize(
    ("number", "named"), [(None, "no rollback of"), (0, "no rollback 0 of"), (10_000, "no rollback 10000 of")]
)
def test_a_rollback_that_was_not_is_named_with_those_that_were(
    world: World, number: int | None, named: str
) -> None:
    world.exposed_run()
    with pytest.raises(NoSuchId, match=rf"{named} .*Entries that began one: none"):
        draft(world.session, world.model, number)


def test_what_people_wrote_cannot_break_the_page(world: World) -> None:
    world.exposed_run()
    rollback.execute(world.model, "a | pipe\nand a line <b>", "Ada", "r")
    page = write(world.session, world.model)
    assert "a \\| pipe and a line <b>" in page
