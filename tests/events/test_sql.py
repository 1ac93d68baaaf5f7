"""SQL about the events of some runs: the same answers from lines and partitions, and nothing beyond them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.events.compacted import squeeze
from tests.events.test_reader import MODEL, request, write
from understudy.errors import BadParameter
from understudy.events.sql import OVERVIEW, TABLES, ask

RUN = {"run": "x-v2-1", "spec": {"model": MODEL}}
ENTRY = {"seq": 1, "run": "x-v2-1", "body": {"percent": 5}}


def found(root: Path, query: str) -> list[tuple[Any, ...]]:
    (answer,) = ask(root / MODEL, [RUN], [ENTRY], [query])
    return list(answer.rows)


@pytest.fixture(params=[False, True], ids=["lines", "partitions"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Four events of the run, one of another, mirrored rows and outcomes; all of them told twice."""
    for part in range(2):
        name = f"w-{part}"
        for number in range(4):
            arm = ("control", "challenger")[number % 2]
            write(tmp_path, "requests", name, event(number, arm, f"{part + 1}"))
        write(tmp_path, "requests", name, event(9, "unexposed", "1") | {"run": "other-v3-1"})
        mirrored = {
            "request_id": "r0",
            "run": RUN["run"],
            "version": "2",
            "prediction": 0.5,
            "received_at": 1.0,
        }
        write(
            tmp_path,
            "mirrors",
            name,
            {"event_id": "e0"} | mirrored,
            {"event_id": "e8", "run": "z", "received_at": 1.0},
        )
        for number in (0, 1, 9):
            told = {"outcome": 1.0, "values": {"sales": 2.5 + part}, "occurred_at": 5.0}
            write(tmp_path, "outcomes", name, {"event_id": f"e{number}", "received_at": 2000.0 + part} | told)
        if request.param and not part:
            squeeze(tmp_path)
    if request.param:
        squeeze(tmp_path)
    return tmp_path


def event(number: int, arm: str, version: str) -> dict[str, Any]:
    cohorts = {"origin": ("JFK", "LGA")[number // 2 % 2]}
    features = {"distance": number, 'o"k': None if number else "x"}
    at = 1000.0 + number + 10 * int(version)
    return request(number, arm=arm, version=version, cohorts=cohorts, features=features, received_at=at)


def test_every_event_of_the_runs_is_there_once_and_no_other(log: Path) -> None:
    rows = found(log, "SELECT event_id, arm, version FROM requests ORDER BY event_id")
    assert rows == [
        ("e0", "control", "1"),
        ("e1", "challenger", "1"),
        ("e2", "control", "1"),
        ("e3", "challenger", "1"),
    ]


def test_a_mirrored_row_stands_beside_what_is_known_of_its_request(log: Path) -> None:
    query = "SELECT event_id, version, prediction, unit, cohorts, stage, generation FROM mirrors"
    assert found(log, query) == [("e0", "2", 0.5, "u0", {"origin": "JFK"}, 1, 3)]


def test_of_every_number_what_was_told_first_counts(log: Path) -> None:
    assert found(log, "SELECT event_id, name, value FROM outcomes ORDER BY ALL") == [
        ("e0", "outcome", 1.0),
        ("e0", "values.sales", 2.5),
        ("e1", "outcome", 1.0),
        ("e1", "values.sales", 2.5),
    ]


def test_features_slices_runs_and_context_can_be_asked(log: Path) -> None:
    assert found(log, "FROM features") == [
        (RUN["run"], "1", "distance", 4, 4, ["UBIGINT"]),
        (RUN["run"], "1", 'o"k', 4, 1, ["VARCHAR"]),
    ]
    assert found(
        log, "SELECT arm, cohort, value, events, units, errors, prediction FROM slices WHERE stage = 1"
    ) == [
        ("challenger", "origin", "JFK", 1, 1, 0, 0.25),
        ("challenger", "origin", "LGA", 1, 1, 0, 0.25),
        ("control", "origin", "JFK", 1, 1, 0, 0.25),
        ("control", "origin", "LGA", 1, 1, 0, 0.25),
    ]
    assert found(log, "SELECT spec ->> 'model' FROM runs") == [(MODEL,)]
    assert json.loads(found(log, "SELECT body FROM context")[0][0]) == ENTRY["body"]


def test_every_table_is_there_even_without_an_event_or_an_entry(tmp_path: Path) -> None:
    for table in TABLES:
        (answer,) = ask(tmp_path / MODEL, [RUN], [], [f"FROM {table}"])
        assert len(answer.rows) == (table == "runs")
        assert answer.columns
    assert OVERVIEW.keys() <= TABLES.keys()


REFUSED: list[Callable[[Path], str]] = [
    lambda root: "SELECT nonsense",
    lambda root: "FROM nowhere",
    lambda root: f"FROM read_text('{root}/secret')",
    lambda root: f"COPY requests TO '{root}/copied.csv'",
    lambda root: f"ATTACH '{root}/other.duckdb'",
    lambda root: "SET enable_external_access = true",
]


@pytest.mark.parametrize("query", REFUSED)
def test_a_query_that_is_wrong_or_reaches_beyond_the_log_is_refused(
    tmp_path: Path, query: Callable[[Path], str]
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    with pytest.raises(BadParameter, match="It may read runs, requests") as caught:
        found(tmp_path, query(tmp_path))
    assert "hunter2" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["secret"]
