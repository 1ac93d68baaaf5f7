"""Outcomes from files and tables: the rules of POST /outcomes, all of a table or nothing, and never twice."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from tests.events.compacted import look, squeeze
from tests.events.test_reader import MODEL, count, request, write
from tests.logged import logged_events
from understudy.errors import DataMissing, EventsBusy, OutcomesInvalid
from understudy.events.imports import Columns, Imported, import_outcomes
from understudy.events.reader import EventLog
from understudy.events.tables import opened_file, opened_query
from understudy.events.upkeep import Upkeep
from understudy.events.writer import EventsUnwritable

NOW = 5000.0
SECRET = "N-SECRET-12345"


def silent(done: float, what: str) -> None:
    assert 0 <= done <= 1


def bring(root: Path, address: object, received_at: float = NOW, **more: Any) -> Imported:
    sizes = {"segment_bytes": more.pop("segment_bytes")} if "segment_bytes" in more else {}
    with opened_file(str(address), silent) as rows:
        return import_outcomes(root / MODEL, rows, Columns(**more), received_at, **sizes)


def file_of(root: Path, kind: str, frame: dict[str, list[Any]]) -> Path:
    path = root / f"told.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(frame), path)
    else:
        text = pd.DataFrame(frame).to_csv(index=False)
        path.write_bytes(gzip.compress(text.encode()) if kind == "csv.gz" else text.encode())
    return path


def logged(root: Path) -> list[dict[str, Any]]:
    return logged_events(root, MODEL, "outcomes")


@pytest.mark.parametrize("kind", ["parquet", "csv", "csv.gz"])
def test_a_file_becomes_outcomes_as_if_they_had_been_posted(tmp_path: Path, kind: str) -> None:
    frame = {
        "flight": ["e1", "e2", "e3"],
        "late": [1.0, 0.0, None],
        "at": [1370003600.5, 1370003601, 1370003602],
        "fare": [12.5, None, 3.0],
        "ignored": [SECRET] * 3,
    }
    columns = {"event_id": "flight", "outcome": "late", "occurred_at": "at", "values": {"revenue": "fare"}}
    assert bring(tmp_path, file_of(tmp_path, kind, frame), **columns) == Imported(3, repeated=False)
    assert logged(tmp_path) == [
        {"event_id": "e1", "outcome": 1.0, "values": {"revenue": 12.5}, "occurred_at": 1370003600.5, "received_at": NOW},
        {"event_id": "e2", "outcome": 0.0, "values": None, "occurred_at": 1370003601.0, "received_at": NOW},
        {"event_id": "e3", "outcome": None, "values": {"revenue": 3.0}, "occurred_at": 1370003602.0, "received_at": NOW},
    ]  # fmt: skip
    assert not any(SECRET.encode() in path.read_bytes() for path in (tmp_path / MODEL).rglob("*.jsonl"))


def test_the_column_called_outcome_is_the_label_unless_another_is_named(tmp_path: Path) -> None:
    path = file_of(tmp_path, "csv", {"event_id": ["e1"], "occurred_at": [5], "outcome": [1], "other": [0]})
    bring(tmp_path, path)
    assert [line["outcome"] for line in logged(tmp_path)] == [1.0]
    bring(tmp_path, path, outcome="other")
    assert sorted(line["outcome"] for line in logged(tmp_path)) == [0.0, 1.0]


def test_names_that_are_numbers_and_times_with_a_zone_are_taken(tmp_path: Path) -> None:
    at = datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
    table = pa.table(
        {"event_id": [7], "occurred_at": [at], "outcome": pa.array([Decimal("0.25")], pa.decimal128(5, 2))}
    )
    pq.write_table(table, tmp_path / "told.parquet")
    bring(tmp_path, tmp_path / "told.parquet")
    text = "event_id,occurred_at,outcome,won\n007,2023-11-14T23:13:20+01:00,0.25,TRUE\n"
    (tmp_path / "told.csv").write_text("\ufeff" + text)
    bring(tmp_path, tmp_path / "told.csv", values={"won": "won"})
    found = {line["event_id"]: line for line in logged(tmp_path)}
    assert found.keys() == {"7", "007"}
    assert {line["occurred_at"] for line in found.values()} == {1_700_000_000.0}
    assert {line["outcome"] for line in found.values()} == {0.25}
    assert found["007"]["values"] == {"won": 1.0}


@pytest.mark.parametrize(
    ("cells", "column", "rule"),
    [
        (",5,1,2", "flight", "must be the text that named the request"),
        ("e\tx,5,1,2", "flight", "must be the text that named the request"),
        ("e,,1,2", "at", "must be Unix seconds, or a time with its zone"),
        ("e,2023-11-14T23:13:20,1,2", "at", "must be Unix seconds, or a time with its zone"),
        ("e,soon,1,2", "at", "must be Unix seconds"),
        ("e,inf,1,2", "at", "must be Unix seconds"),
        ("e,1_0,1,2", "at", "must be Unix seconds"),
        (f"e,5,{SECRET},2", "late", "must be a finite number"),
        ("e,5,nan,2", "late", "must be a finite number"),
        ("e,5,true,2", "late", "must be a finite number"),
        ("e,5,,", "late", "must be a finite number"),
        (f"e,5,1,{SECRET}", "fare", "must be a finite number, true or false"),
        ("e,5,1,1e999", "fare", "must be a finite number, true or false"),
        ("e,5,1", "", "has 3 cells, but there are 4 columns"),
        ("e,5,1,2,3", "", "has 5 cells, but there are 4 columns"),
    ],
)
def test_one_bad_row_refuses_the_whole_file_and_is_named_without_its_value(
    tmp_path: Path, cells: str, column: str, rule: str
) -> None:
    path = tmp_path / "told.csv"
    path.write_text(f"flight,at,late,fare\nf1,5,1,2\n\n{cells}\nf3,5,1,2\n")
    with pytest.raises(OutcomesInvalid) as caught:
        bring(tmp_path, path, event_id="flight", occurred_at="at", outcome="late", values={"revenue": "fare"})
    (problem,) = caught.value.problems
    assert (problem["line"], problem["column"]) == (4, column)
    assert problem["rule"].startswith(rule)
    assert "1 of 3 rows of told.csv" in caught.value.message
    assert SECRET not in caught.value.message + json.dumps(caught.value.problems)
    assert logged(tmp_path) == []


def test_a_time_without_its_zone_in_a_typed_file_is_refused(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        "parquet",
        {"event_id": ["e1"], "occurred_at": [datetime(2023, 1, 1)], "outcome": [1]},  # noqa: DTZ001
    )
    with pytest.raises(OutcomesInvalid, match="a time with its zone"):
        bring(tmp_path, path)


def test_many_bad_rows_are_counted_and_the_first_hundred_listed(tmp_path: Path) -> None:
    path = file_of(
        tmp_path, "parquet", {"event_id": ["e"] * 300, "occurred_at": [5] * 300, "outcome": [None] * 300}
    )
    with pytest.raises(OutcomesInvalid, match="300 of 300 rows") as caught:
        bring(tmp_path, path)
    assert [problem["row"] for problem in caught.value.problems] == list(range(1, 101))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"event_id": "nowhere", "outcome": "x"},
            "no column 'nowhere'; it has 'event_id', 'occurred_at', 'x', 'x'",
        ),
        ({"values": {"sales": "x"}}, "two columns 'x'"),
        ({}, "--outcome"),
    ],
)
def test_columns_that_are_not_there_once_are_named(
    tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    (tmp_path / "told.csv").write_text("event_id,occurred_at,x,x\ne1,5,1,1\n")
    with pytest.raises(OutcomesInvalid, match=says):
        bring(tmp_path, tmp_path / "told.csv", **changes)


@pytest.mark.parametrize("name", ["Revenue", "a-b", "", "2nd"])
def test_named_numbers_are_named_as_in_a_request(tmp_path: Path, name: str) -> None:
    (tmp_path / "told.csv").write_text("event_id,occurred_at,x\ne1,5,1\n")
    with pytest.raises(OutcomesInvalid, match="a name starts with a small letter"):
        bring(tmp_path, tmp_path / "told.csv", values={name: "x"})


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("told.parquet", b"garbage", OutcomesInvalid), ("told.parquet", b"", OutcomesInvalid),
        ("told.csv", b"", OutcomesInvalid), ("told.csv", b"event_id,occurred_at,outcome\n\xff,5,1\n", OutcomesInvalid),
        ("told.csv.gz", b"garbage", OutcomesInvalid), ("told.txt", b"", OutcomesInvalid), ("told", b"", OutcomesInvalid),
        ("told.csv", b'event_id,occurred_at,outcome\n"e1,5,1\n', OutcomesInvalid), ("other.csv", None, DataMissing),
    ],
)  # fmt: skip
def test_a_file_that_is_none_is_a_clear_error(
    tmp_path: Path, name: str, content: bytes | None, error: type[Exception]
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=name):
        bring(tmp_path, tmp_path / name)
    assert logged(tmp_path) == []


@pytest.mark.parametrize("address", ["ftp://user:hunter2@host/told.csv", "nosuch://host/told.csv"])
def test_an_address_that_cannot_be_used_never_shows_a_password(tmp_path: Path, address: str) -> None:
    with pytest.raises((OutcomesInvalid, DataMissing)) as caught:
        bring(tmp_path, address)
    assert "hunter2" not in str(caught.value)


def test_a_file_may_be_anywhere_that_fsspec_reaches(tmp_path: Path) -> None:
    import fsspec

    fsspec.filesystem("memory").pipe_file(
        f"/{tmp_path.name}/told.csv", b"event_id,occurred_at,outcome\ne1,5,1\n"
    )
    assert bring(tmp_path, f"memory://{tmp_path.name}/told.csv").outcomes == 1


def test_the_same_import_again_writes_nothing_even_after_a_compaction(tmp_path: Path) -> None:
    frame = {"event_id": [f"e{n}" for n in range(100)], "occurred_at": [5.0] * 100, "outcome": [1.0] * 100}
    path = file_of(tmp_path, "csv", frame)
    assert bring(tmp_path, path, segment_bytes=2000) == Imported(100, repeated=False)
    assert len(list((tmp_path / MODEL / "outcomes").glob("*.jsonl"))) > 2
    assert bring(tmp_path, path, NOW + 60, segment_bytes=2000) == Imported(100, repeated=True)
    squeeze(tmp_path)
    assert bring(tmp_path, path, NOW + 99, segment_bytes=2000).repeated
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    assert count(log, "outcomes") == 100


def test_an_import_that_was_killed_half_way_is_finished_by_the_next(tmp_path: Path) -> None:
    frame = {"event_id": [f"e{n}" for n in range(100)], "occurred_at": [5.0] * 100, "outcome": [1.0] * 100}
    path = file_of(tmp_path, "csv", frame)
    bring(tmp_path, path, segment_bytes=2000)
    parts = sorted((tmp_path / MODEL / "outcomes").glob("*.jsonl"))
    for part in parts[2:]:
        part.unlink()
    assert bring(tmp_path, path, segment_bytes=2000) == Imported(100, repeated=False)
    assert sorted(line["event_id"] for line in logged(tmp_path)) == sorted(frame["event_id"])


def test_a_longer_table_adds_what_is_new_and_the_first_word_stands(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(40)))
    for rows, label in ((20, 1.0), (30, 0.0)):
        frame = {
            "event_id": [f"e{n}" for n in range(rows)],
            "occurred_at": [50.0] * rows,
            "outcome": [label] * rows,
        }
        bring(tmp_path, file_of(tmp_path, "csv", frame), NOW + rows)
    found = look(tmp_path)
    assert found.quality.control.labelled == 30
    assert found.quality.repeated_outcomes == 20
    losses = float(found.cell("brier").control.sum_n.sum())
    assert losses == pytest.approx(20 * 0.75**2 + 10 * 0.25**2)


def test_an_import_and_a_compaction_do_not_meet(tmp_path: Path) -> None:
    path = file_of(tmp_path, "csv", {"event_id": ["e1"], "occurred_at": [5], "outcome": [1]})
    (tmp_path / MODEL).mkdir()
    with Upkeep(tmp_path / MODEL), pytest.raises(EventsBusy):
        bring(tmp_path, path)


def test_a_disk_that_refuses_leaves_nothing_half_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = file_of(tmp_path, "csv", {"event_id": ["e1"], "occurred_at": [5], "outcome": [1]})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(EventsUnwritable, match="No space left"):
            bring(tmp_path, path)
    assert logged(tmp_path) == []
    assert bring(tmp_path, path) == Imported(1, repeated=False)


# --- SQL


Ask = Callable[..., Imported]


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    """A database with a table of outcomes, one of which has no label."""
    url = sa.make_url(
        f"sqlite:///{tmp_path / 'told.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("server")
    )
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE IF EXISTS told"))
        connection.execute(
            sa.text(
                "CREATE TABLE told (event_id integer, late numeric(5,2), seen double precision, fare numeric(9,2))"
            )
        )
        for row in ("(1, 1, 50.5, 2.5)", "(2, 0, 51, NULL)", "(3, NULL, 52, 7)"):
            connection.execute(sa.text(f"INSERT INTO told VALUES {row}"))
    engine.dispose()
    return url


def ask(root: Path, url: sa.URL, columns: Columns, **which: Any) -> Imported:
    with opened_query(url, report=silent, **which) as rows:
        return import_outcomes(root / MODEL, rows, columns, NOW)


def test_a_table_and_a_query_are_imported_like_a_file(tmp_path: Path, database: sa.URL) -> None:
    columns = Columns(outcome="late", occurred_at="seen", values={"revenue": "fare"})
    assert ask(tmp_path, database, columns, table="told").outcomes == 3
    assert [(line["event_id"], line["outcome"], line["values"]) for line in logged(tmp_path)] == [
        ("1", 1.0, {"revenue": 2.5}),
        ("2", 0.0, None),
        ("3", None, {"revenue": 7.0}),
    ]
    query = "SELECT event_id, late AS outcome, seen AS occurred_at FROM told WHERE late IS NOT NULL"
    assert ask(tmp_path, database, Columns(), query=query).outcomes == 2


def test_what_a_query_changes_is_taken_back(tmp_path: Path, database: sa.URL) -> None:
    with pytest.raises((DataMissing, OutcomesInvalid)):
        ask(tmp_path, database, Columns(), query="DELETE FROM told")
    columns = Columns(outcome="late", occurred_at="seen", values={"revenue": "fare"})
    assert ask(tmp_path, database, columns, table="told").outcomes == 3


def test_a_row_of_a_table_is_named_by_its_number(tmp_path: Path, database: sa.URL) -> None:
    with pytest.raises(OutcomesInvalid) as caught:
        ask(tmp_path, database, Columns(outcome="late", occurred_at="seen"), table="told")
    assert [problem["row"] for problem in caught.value.problems] == [3]


@pytest.mark.parametrize(
    "which", [{"table": "nowhere"}, {"table": 'told"; DROP TABLE told; --'}, {"query": "SELECT nonsense"}]
)
def test_a_database_that_refuses_is_a_clear_error(
    tmp_path: Path, database: sa.URL, which: dict[str, str]
) -> None:
    with pytest.raises(DataMissing, match="Check the connection"):
        ask(tmp_path, database, Columns(), **which)
    columns = Columns(outcome="late", occurred_at="seen", values={"revenue": "fare"})
    assert ask(tmp_path, database, columns, table="told").outcomes == 3


@pytest.mark.parametrize(
    "text",
    [
        "postgresql+psycopg2://someone:hunter2@127.0.0.1:9/nowhere", "nosuchdialect://someone:hunter2@host/db",
        "mssql+pymssql://someone:hunter2@host/db", "sqlite:////nowhere/at/all.db",
    ],
)  # fmt: skip
def test_a_database_that_does_not_answer_is_an_error_without_its_password(tmp_path: Path, text: str) -> None:
    with pytest.raises(DataMissing, match="told cannot be read") as caught:
        ask(tmp_path, sa.make_url(text), Columns(), table="told")
    assert "hunter2" not in str(caught.value)
