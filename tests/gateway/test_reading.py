from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from understudy.exposure import CHALLENGER, UNEXPOSED, Exposure
from understudy.gateway.answers import logged_number, problem_with, row_shape
from understudy.gateway.config import TrafficColumns
from understudy.gateway.documents import json_batch
from understudy.gateway.redaction import describe, redact
from understudy.gateway.routing import read_envelopes, route, secrets_in
from understudy.gateway.tables import csv_batch

TRAFFIC = TrafficColumns("tail", "id", "time", frozenset({"pilot", "tail"}), ("origin", "pilot"))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        (0.25, 0.25),
        (1, 1.0),
        (True, 1.0),
        (np.float32(0.5), 0.5),
        ([0.25], 0.25),
        ([0.75, 0.25], 0.25),
        ({"late": 0.25}, 0.25),
        ({"0": 0.75, "1": 0.25}, 0.25),
        ([0.1, 0.2, 0.7], None),
        ("late", None),
        (None, None),
        (float("nan"), None),
        ([0.5, float("inf")], None),
        ([], None),
    ],
)
def test_the_logged_number_is_the_answer_or_its_positive_class(answer: Any, number: float | None) -> None:
    assert logged_number(answer) == number


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        ([[0.5, 0.5]], None),
        ([[0.5]], "WrongShape"),
        ([0.5], "WrongShape"),
        ([], "WrongShape: 0 answers for 1 row"),
        (0.5, "WrongShape: a float"),
        ([[0.5, float("nan")]], "NotFinite"),
        ([[0.5, None]], "NotFinite"),
        ([None], "NotFinite"),
    ],
)
def test_a_challengers_answers_must_have_the_champions_shape_and_be_numbers(
    answers: Any, problem: str | None
) -> None:
    found = problem_with(answers, 1, row_shape([0.1, 0.9]))
    assert (found or "").startswith(problem or "")
    assert (found is None) is (problem is None)


def test_a_csv_unit_keeps_its_leading_zeros() -> None:
    batch = csv_batch("tail,id,time,origin,distance\n007,1,5.5,JFK,10\n,2,,LGA,20\n")
    told = read_envelopes(batch, TRAFFIC, {}, 9.0, "r")
    assert (told.units, told.event_ids, told.event_times) == (["007", ""], ["1", "2"], [5.5, 9.0])
    assert told.cohorts[0] == {"origin": "JFK"}


def test_a_private_column_is_no_cohort_and_a_number_is_a_unit() -> None:
    batch = json_batch({"dataframe_records": [{"tail": 7, "pilot": "Ann", "origin": None}]})
    told = read_envelopes(batch, TRAFFIC, {}, 9.0, "r")
    assert (told.units, told.cohorts) == (["7"], [{"origin": ""}])
    assert {"7", "Ann"} <= secrets_in(batch, TRAFFIC, {})


@pytest.mark.parametrize(
    ("contained", "exposed"),
    [
        ((), "JFK LGA null empty absent 7 7.0"),
        (("origin=JFK",), "LGA 7 7.0"),
        (("origin=7",), "JFK LGA 7.0"),
        (("origin=(missing)",), "JFK LGA 7 7.0"),
        (("origin=",), "JFK LGA 7 7.0"),
        (("origin=JFK", "origin=LGA"), "7 7.0"),
        (("carrier=AA",), ""),
        (("pilot=Ann",), ""),
    ],
)
def test_contained_rows_and_rows_that_name_no_cohort_go_to_the_champion(
    contained: tuple[str, ...], exposed: str
) -> None:
    origins = {"JFK": "JFK", "LGA": "LGA", "null": None, "empty": "", "absent": ..., "7": 7, "7.0": 7.0}
    found = []
    for name, origin in origins.items():
        # The unit is one that sees the challenger.
        record = {"tail": "N7500AA", "pilot": "Bob"} | ({} if origin is ... else {"origin": origin})
        envelopes = read_envelopes(json_batch({"dataframe_records": [record]}), TRAFFIC, {}, 9.0, "r")
        exposure = Exposure("flight-delay", 7, "1", "2", "run", 1, 50.0, 2_000_000_000, contained=contained)
        (arm,) = route(exposure, envelopes, 9.0, counted=True).arms
        assert arm in (CHALLENGER, UNEXPOSED)
        found += [name] if arm == CHALLENGER else []
    assert " ".join(found) == exposed


@pytest.mark.parametrize(
    "content",
    [
        {"inputs": [1.0, 2.0]},
        {"instances": [[1.0], [2.0]]},
        {"inputs": {"a": [1, 2]}},
        {"inputs": [{"a": 1}, {"a": 2}]},
        {"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}},
    ],
)
def test_rows_are_counted_in_every_form(content: dict[str, Any]) -> None:
    assert json_batch(content).size == 2


@pytest.mark.parametrize(
    "content",
    [{"inputs": 1}, {"messages": [{"role": "user"}]}, {"inputs": {"a": [1], "b": [1, 2]}}],
)
def test_what_cannot_be_told_apart_into_rows_is_one_event_of_the_champion(content: dict[str, Any]) -> None:
    batch = json_batch(content)
    assert (batch.size, batch.splittable, batch.features(())) == (1, False, [{}])


def test_a_list_without_rows_is_no_event() -> None:
    batch = json_batch({"inputs": []})
    assert (batch.size, batch.splittable, batch.features(())) == (0, False, [])


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("no tail N14228 here", "N14228"),
        ("{'pilot': 'O\\'Neil \\\\ x'}", "O'Neil \\ x"),
        ('{"pilot": "J\\u00f6rg"}', "Jörg"),
        ("row 7 of 77", "7"),
        ("Failed to enforce schema of data 'a  b\n0 N1 2' with schema 'x'. Error: y", "N1"),
    ],
)
def test_messages_never_quote_private_values(text: str, secret: str) -> None:
    cleaned = redact(text, [secret])
    assert secret not in cleaned.replace("77", "")


def test_errors_become_one_short_line() -> None:
    described = describe(ValueError("a\n  b " + "x" * 1000), ())
    assert described.startswith("ValueError: a b x")
    assert len(described) == 500
