"""The event loop scores only what it can wait for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from understudy.gateway.loading import Scored
from understudy.gateway.scoring import Scorer
from understudy.spec import Breaker


def champion(version: str = "1") -> Any:
    return SimpleNamespace(version=version)


def scored(rows: int, row_ms: float) -> Scored:
    return Scored([0.5] * rows, row_ms)


@pytest.fixture
def scorer() -> Scorer:
    return Scorer(60.0, 2.0, Breaker())


def test_a_champion_of_unknown_speed_gets_few_rows_at_once(scorer: Scorer) -> None:
    assert scorer.quick_enough(champion(), 20)
    assert not scorer.quick_enough(champion(), 100)


def test_a_quick_champion_gets_many_rows_and_never_more_than_a_thousand(scorer: Scorer) -> None:
    scorer.remember(champion(), scored(20, 0.001))
    assert scorer.quick_enough(champion(), 1000)
    assert not scorer.quick_enough(champion(), 1001)


def test_a_slow_champion_gets_as_many_rows_as_take_three_milliseconds(scorer: Scorer) -> None:
    scorer.remember(champion(), scored(20, 0.12))
    assert scorer.quick_enough(champion(), 25)
    assert not scorer.quick_enough(champion(), 26)


def test_the_largest_call_says_best_what_a_row_costs(scorer: Scorer) -> None:
    scorer.remember(champion(), scored(1, 0.2))
    assert not scorer.quick_enough(champion(), 100)
    scorer.remember(champion(), scored(100, 0.01))
    scorer.remember(champion(), scored(1, 0.2))
    assert scorer.quick_enough(champion(), 300)


def test_a_new_champion_has_its_own_speed(scorer: Scorer) -> None:
    scorer.remember(champion(), scored(100, 0.001))
    assert not scorer.quick_enough(champion("2"), 100)
    scorer.remember(champion("2"), scored(1, 5.0))
    assert not scorer.quick_enough(champion("2"), 1)


def test_an_answer_without_rows_says_nothing(scorer: Scorer) -> None:
    scorer.remember(champion(), scored(0, 0.0))
    assert not scorer.quick_enough(champion(), 100)
