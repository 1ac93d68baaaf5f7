"""What a drill sends, and what it makes of the answers."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from tests import declared
from understudy.drill.traffic import Answer, Rows, harmed, taken_back

FRAME = pd.DataFrame(
    {
        "tailnum": ["N1", "N2"],
        "pilot": ["Ada", "Ben"],
        "event_id": ["a", "b"],
        "event_time": [1.0, 2.0],
        "origin": ["JFK", None],
        "hour": [5, 6],
        "wind": [0.5, None],
        "late": [1, 0],
    }
)


def sent(rows: Rows) -> list[list[object]]:
    return [json.loads(f"[{values}]") for values in rows.values]


def test_neither_label_nor_unit_nor_what_is_private_is_among_the_features() -> None:
    rows = Rows(FRAME, declared.experiment())
    assert rows.columns == ["origin", "hour", "wind"]
    assert sent(rows) == [["JFK", 5, 0.5], [None, 6, None]]
    assert rows.labels == [1.0, 0.0]
    assert json.loads(rows.head)[-3:] == ["tailnum", "event_id", "event_time"]


def test_only_what_is_sent_drifts() -> None:
    rows = Rows(
        FRAME, declared.experiment(), {"hour": FRAME["hour"] + 10**6, "event_time": FRAME["event_time"] + 9}
    )
    assert rows.columns == ["origin", "hour", "wind"]
    assert sent(rows) == [["JFK", 1_000_005, 0.5], [None, 1_000_006, None]]


ANSWERS = {
    "while it is exposed": (Answer("challenger", 5, 0.0, 200, "2", "challenger"), False),
    "the champion helps out": (Answer("challenger", 5, 0.0, 200, "1", "challenger"), False),
    "afterwards": (Answer("challenger", 5, 0.0, 200, "1", "unexposed"), True),
    "who was never exposed": (Answer("control", 5, 0.0, 200, "1", "unexposed"), False),
    "no answer at all": (Answer("challenger", 5, 0.0, 0), False),
}


@pytest.mark.parametrize(("answer", "wanted"), ANSWERS.values(), ids=ANSWERS.keys())
def test_exposure_has_ended_when_the_gateway_gives_the_units_another_arm(
    answer: Answer, wanted: bool
) -> None:
    assert taken_back(answer) is wanted


def test_harmed_are_the_units_that_a_version_answered() -> None:
    found = [answer for answer, _ in ANSWERS.values()]
    assert harmed(found, "2") == 5
    assert harmed([], "2") == 0
