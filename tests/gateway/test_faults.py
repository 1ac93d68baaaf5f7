"""Every fault once and for a second or two, under load; `make faults` has the long versions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import challenger, control, serving
from tests.faults.stage import GOOD, Found, Stage, start_stage
from tests.gateway.conftest import Registered
from tests.servers import start_gateway

REASONS = {
    "sleeps": "Timeout",
    "raises": "ValueError",
    "raises SystemExit": "SystemExit",
    "answers too often": "WrongShape",
    "answers too seldom": "WrongShape",
    "answers with one number": "WrongShape",
    "answers NaN": "NotFinite",
    "answers with text": "WrongShape",
    "answers with an object": "WrongType",
    "floods its output": None,
    "burns the processor": "Timeout",
    "exits": "ProcessEnded",
    "kills itself": "ProcessEnded",
    "crashes": "ProcessEnded",
    "leaves a child behind": "ProcessEnded",
    "eats memory": "",  # in time it is a memory error, or else the champion has answered already
    "hangs": "Timeout",
    "holds the interpreter": "Timeout",
}


@pytest.fixture(scope="module")
def module_stage(
    registered: Registered, moody: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    options = ("--challenger-timeout", "0.5", "--challenger-memory", "2048")
    breaker = "{calls: 5, rest: 0.5s}"
    with start_stage(folder, registered, *moody, *options, breaker=breaker, forked=True) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: Stage) -> Iterator[Stage]:
    module_stage.mood.write_text(GOOD)
    yield module_stage
    module_stage.mood.write_text(GOOD)


def nothing_lost(found: Found) -> None:
    assert found.held, found


def test_every_trouble_has_a_reason() -> None:
    assert set(REASONS) == set(challenger.TROUBLES)


@pytest.mark.parametrize("mood", [one for one in REASONS if one not in challenger.PROCESS_LOST])
def test_a_challenger_in_trouble_costs_no_answer_and_is_asked_again_when_it_is_over(
    stage: Stage, mood: str
) -> None:
    found = challenger.exposed_trouble(stage, mood, 0.7, recovery=60)
    nothing_lost(found)
    reason = REASONS[mood]
    if reason is None:
        assert not found.fallbacks
    else:
        assert found.fallbacks[reason] > 0
        assert found.fallbacks["BreakerOpen"] > 0


@pytest.mark.parametrize("mood", challenger.PROCESS_LOST)
def test_a_challenger_that_loses_its_process_costs_no_answer(stage: Stage, mood: str) -> None:
    found = challenger.exposed_trouble(stage, mood, 0.7, recovery=90 if mood == "eats memory" else None)
    nothing_lost(found)
    assert found.fallbacks[str(REASONS[mood])] > 0 or mood == "eats memory"
    assert found.fallbacks.total() > 0
    # The next challenger does not wait until this one is killed for hanging, or until it is started again.
    stage.mood.write_text(GOOD)
    stage.publish()


@pytest.mark.parametrize("mood", [GOOD, "sleeps", "exits"])
def test_the_mirror_costs_no_answer_whatever_the_challenger_does(stage: Stage, mood: str) -> None:
    nothing_lost(challenger.mirrored_trouble(stage, mood, 0.7))


def test_a_mirror_that_is_behind_drops_and_counts_every_row(stage: Stage) -> None:
    nothing_lost(challenger.mirror_overrun(stage, 0.7, rate=600.0))


def test_a_challenger_that_hangs_at_load_holds_up_nobody(stage: Stage) -> None:
    found = challenger.hanging_load(stage, 0.7)
    nothing_lost(found)
    assert found.notes == "nobody was exposed meanwhile"


def test_no_request_is_lost_and_no_half_loaded_model_answers_while_champions_change(stage: Stage) -> None:
    nothing_lost(serving.swaps(stage, 0.5))


def test_files_that_changed_since_they_were_recorded_are_refused_and_the_champion_goes_on(
    stage: Stage, changed: str
) -> None:
    nothing_lost(serving.changed_files(stage, changed, 0.5))


def test_exposure_is_over_in_every_gateway_when_it_is_taken_back_or_nobody_renews_it(
    stage: Stage, registered: Registered
) -> None:
    home = stage.gateway.home
    with start_gateway(home, "delay", registered.uri, home.parent / "experiments") as other:
        nothing_lost(control.flips_to_zero(stage, [other], 3, rate=100.0))
        nothing_lost(control.lost_control_plane(stage, [other], 0.5, lease=3))


def test_no_bad_document_raises_the_exposure(stage: Stage) -> None:
    nothing_lost(control.bad_documents(stage, 0.1))


def test_nothing_that_was_acknowledged_is_lost_when_the_gateway_is_killed(
    gateway_with: Callable[..., Any], tmp_path: Path
) -> None:
    nothing_lost(serving.killed_gateway(lambda: gateway_with(home=tmp_path), 0.5, 2))


def test_with_a_full_disk_the_champion_alone_answers_and_nobody_is_exposed_unseen(stage: Stage) -> None:
    nothing_lost(serving.full_disk(stage, 0.5, serving.limited_file_size))


def test_slow_clients_hold_up_nobody(stage: Stage) -> None:
    nothing_lost(serving.slow_clients(stage, 0.7, 50))
