"""The change log of a model says which version came and went, on which data, with which numbers, and who decided."""

from __future__ import annotations

import pytest

from tests.lifecycle.conftest import World
from tests.lifecycle.served import WORSE, traffic
from understudy import lifecycle, rollback
from understudy.errors import NoSuchVersion
from understudy.lifecycle.change_log import change_log, write


def test_a_run_that_was_taken_back_and_one_that_is_on(world: World) -> None:
    first = world.exposed_run()
    traffic(world, first, WORSE)
    lifecycle.look(first, 1)
    rollback.execute(world.model, "it hurts | really", "Ada", "r")
    world.clock.now += 60
    second = world.started(world.versions["good"])
    newest, oldest, adopted = change_log(world.session, world.model)
    assert (newest.run_id, oldest.run_id, adopted.run_id) == (second, first, None)
    assert oldest.title == "Rolled back: version 2"
    assert (oldest.version, oldest.before, oldest.who) == ("2", "1", "Ada")
    assert set(oldest.data) == {"reference.parquet", "holdout.parquet"}
    assert any(sentence.startswith("brier") for sentence in oldest.metrics)
    decisions = [sentence.partition(" ")[0] for sentence in oldest.decisions]
    assert decisions[0] == "exposure.raised"
    assert decisions[-1] == "rollback.finished"
    assert "preparing" in newest.outcome
    assert adopted.title == "champion.adopted: version 1"
    page = write(world.session, world.model)
    assert page.count("\n## ") == 3
    assert f"- run: `{first}`" in page


def test_an_unknown_model_is_named_with_the_known_ones(world: World) -> None:
    world.started(world.versions["good"])
    with pytest.raises(NoSuchVersion, match=f"Known models: {world.model}"):
        change_log(world.session, "nobody")
