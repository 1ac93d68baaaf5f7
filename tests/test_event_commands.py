"""The commands about events: exit codes, JSON shapes, errors without tracebacks, and no password anywhere."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests import declared
from tests.commands import answered, exposed_run, run
from tests.logged import lines_of
from understudy.events.lookups import recent_requests
from understudy.events.writer import EventWriter
from understudy.session import session
from understudy.store import runs

MODEL = declared.MODEL


@pytest.fixture
def events(home: Path) -> Path:
    """An installation with an experiment and three requests, one of which is a year old."""
    declared.write(home / "experiments")
    log = session().settings.events_dir
    now = session().store.clock()
    writer = EventWriter(log, MODEL, "requests")
    for number, received_at in enumerate((now - 365 * 86400, now - 60, now)):
        event = {
            "event_id": f"e{number}", "request_id": f"r{number}", "received_at": received_at, "event_time": received_at,
            "model": MODEL, "run": None, "stage": 0, "generation": 1, "arm": "unexposed", "version": "1",
            "fallback": False, "unit": "u", "cohorts": {}, "features": {"hour": 5, "pilot": "Ann", "tailnum": "N1"},
            "prediction": 0.5, "error": None, "latency_ms": 1.0,
        }  # fmt: skip
        writer.append(lines_of("requests", [event]))
    writer.close()
    return log


def test_segments_become_partitions_without_what_is_private(events: Path) -> None:
    assert answered("events", "compact", MODEL)["segments"] == 0
    found = answered("events", "compact", MODEL, "--quiet", "0")
    assert (found["segments"], found["events"], found["left"]) == (1, 3, {})
    assert not list((events / MODEL / "requests").glob("*.jsonl"))
    frame = recent_requests(events, MODEL, 9)
    assert frame.attrs["features"] == ["hour"]
    shown = answered("events", "show", MODEL)
    assert shown["kinds"]["requests"]["events"] == 3
    assert shown["partitions_go_to"] == str(events / MODEL)
    assert "kept for good" in run("events", "show", MODEL).stdout


def test_a_segment_that_stays_is_named(events: Path) -> None:
    (events / MODEL / "requests" / "odd.jsonl").write_text("garbage\n")
    found = run("events", "compact", MODEL, "--quiet", "0")
    assert found.exit_code == 0
    assert "1 segments with 3 events" in found.stdout
    assert "requests/odd.jsonl stays as it is" in found.stderr


def test_partitions_go_where_the_setting_says(
    events: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_EVENTS", str(home / "elsewhere"))
    answered("events", "compact", MODEL, "--quiet", "0")
    assert len(list((home / "elsewhere" / MODEL / "requests").rglob("*.parquet"))) > 1
    assert len(recent_requests(events, MODEL, 9)) == 3


def test_events_are_removed_by_age_and_never_without_one(
    events: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered("events", "compact", MODEL, "--quiet", "0")
    assert answered("events", "retain", MODEL, code=1)["error"]["code"] == "SETTING_MISSING"
    assert "--days" in run("events", "retain", MODEL).stderr
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "90")
    assert "removed after 90 days" in run("events", "show", MODEL).stdout
    found = answered("events", "retain", MODEL)
    assert (found["days"], found["events"], found["kept_for_run"]) == (90, 1, None)
    assert list(recent_requests(events, MODEL, 9)["event_id"]) == ["e1", "e2"]


def test_what_a_run_counts_is_kept(events: Path) -> None:
    exposed_run()
    answered("events", "compact", MODEL, "--quiet", "0")
    found = answered("events", "retain", MODEL, "--days", "0")
    assert found["events"] == 3  # all of them came before the run
    assert found["kept_for_run"]
    assert "stays until it ends" in run("events", "retain", MODEL, "--days", "0").stdout


def test_a_model_that_no_experiment_is_about_is_not_touched(events: Path, tmp_path: Path) -> None:
    (tmp_path / "told.csv").write_text("event_id,occurred_at,outcome\ne0,5,1\n")
    for path in (events.parent.parent / "experiments").iterdir():
        path.unlink()
    for command in (("events", "compact", MODEL), ("outcomes", "import", MODEL, str(tmp_path / "told.csv"))):
        assert answered(*command, code=1)["error"]["code"] == "NO_SUCH_EXPERIMENT"
    assert "nobody knows which of its columns are private" in run("events", "compact", MODEL).stderr
    assert list((events / MODEL / "requests").glob("*.jsonl"))


def test_a_file_is_imported_once(events: Path, tmp_path: Path) -> None:
    path = tmp_path / "told.csv"
    path.write_text("flight,landed,late,fare\ne0,5,1,2.5\ne1,6,0,\n")
    arguments = (
        "outcomes", "import", MODEL, str(path), "--event-id", "flight", "--occurred-at", "landed",
        "--outcome", "late", "--value", "fare", "--value", "again=fare",
    )  # fmt: skip
    assert answered(*arguments) == {"model": MODEL, "outcomes": 2, "repeated": False}
    assert answered(*arguments) == {"model": MODEL, "outcomes": 2, "repeated": True}
    assert "nothing was written" in run(*arguments).stdout
    (segment,) = (events / MODEL / "outcomes").glob("*.jsonl")
    first = json.loads(segment.read_text().splitlines()[0])
    assert (first["event_id"], first["outcome"], first["values"]) == ("e0", 1.0, {"fare": 2.5, "again": 2.5})


def test_bad_rows_are_listed_and_nothing_is_imported(events: Path, tmp_path: Path) -> None:
    path = tmp_path / "told.csv"
    path.write_text("event_id,occurred_at,outcome\ne0,5,1\ne1,secret,0\n,5,1\n")
    found = answered("outcomes", "import", MODEL, str(path), code=1)
    assert found["error"]["code"] == "OUTCOMES_INVALID"
    assert [(problem["line"], problem["column"]) for problem in found["problems"]] == [
        (3, "occurred_at"),
        (4, "event_id"),
    ]
    shown = run("outcomes", "import", MODEL, str(path))
    assert shown.exit_code == 1
    assert "occurred_at" in shown.stderr
    assert "2 of 3 rows" in shown.stderr
    assert "secret" not in shown.output + json.dumps(found)
    assert not (events / MODEL / "outcomes").exists()


def test_a_table_is_imported_through_a_name(
    events: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "told.db") as connection:
        connection.execute("CREATE TABLE told (event_id TEXT, occurred_at REAL, outcome REAL)")
        connection.execute("INSERT INTO told VALUES ('e0', 5, 1), ('e1', 6, 0)")
    monkeypatch.setenv("WAREHOUSE", f"sqlite:///{tmp_path / 'told.db'}")
    assert answered("outcomes", "import", MODEL, "WAREHOUSE", "--table", "told")["outcomes"] == 2
    query = "SELECT * FROM told WHERE outcome = 1"
    assert answered("outcomes", "import", MODEL, "WAREHOUSE", "--query", query)["outcomes"] == 1
    both = answered("outcomes", "import", MODEL, "WAREHOUSE", "--query", query, "--table", "told", code=1)
    assert both["error"]["code"] == "BAD_PARAMETER"


def test_a_password_on_the_command_line_is_refused_and_not_repeated(events: Path) -> None:
    for source, more in (
        ("postgresql://ann:hunter2@db/x", ("--table", "t")),
        ("ftp://ann:hunter2@h/x.csv", ()),
    ):
        found = run("outcomes", "import", MODEL, source, *more)
        assert found.exit_code == 1
        assert "lists processes" in found.stderr.replace("\n", " ")
        assert "hunter2" not in found.output


def test_lines_that_a_killed_process_left_are_counted_before_and_after_they_are_cut(events: Path) -> None:
    (segment,) = (events / MODEL / "requests").glob("*.jsonl")
    with segment.open("ab") as stream:
        stream.write(b'{"request_id": "torn')
    assert answered("events", "show", MODEL)["torn_lines"] == 1
    assert answered("events", "compact", MODEL, "--quiet", "0")["torn_lines"] == 1
    assert answered("events", "show", MODEL)["torn_lines"] == 1
    assert "1 torn lines" in run("events", "show", MODEL).stdout


def served_in_a_run(events: Path) -> str:
    """Log two events of a run and return its name."""
    store = exposed_run()
    with store.read() as connection:
        name = runs.latest(connection, MODEL)[0].run_id
    writer = EventWriter(events, MODEL, "requests")
    for number, arm in enumerate(("control", "challenger")):
        event = {
            "event_id": f"x{number}", "request_id": "r", "received_at": store.clock(), "event_time": 5.0, "model": MODEL,
            "run": name, "stage": 1, "generation": 2, "arm": arm, "version": str(number + 1), "fallback": False,
            "unit": f"u{number}", "cohorts": {"origin": "JFK"}, "features": {"hour": 5}, "prediction": 0.5, "error": None,
            "latency_ms": 1.0,
        }  # fmt: skip
        writer.append(lines_of("requests", [event]))
    writer.close()
    return name


def test_the_log_of_an_experiment_or_a_run_can_be_asked(events: Path) -> None:
    name = served_in_a_run(events)
    for wanted in (name, declared.NAME):
        query = "SELECT arm, count(*) AS events FROM requests GROUP BY arm ORDER BY arm"
        assert answered("events", "query", wanted, query)["rows"] == [
            {"arm": "challenger", "events": 1},
            {"arm": "control", "events": 1},
        ]
    found = answered("events", "query", declared.NAME)
    assert [item["run"] for item in found["runs"]] == [name]
    assert {item["name"] for item in found["features"]} == {"hour"}
    assert {(item["cohort"], item["value"], item["arm"]) for item in found["slices"]} == {
        ("origin", "JFK", "control"),
        ("origin", "JFK", "challenger"),
    }
    assert {"run.started", "exposure.raised"} <= {item["action"] for item in found["context"]}
    spec = answered("events", "query", name, "SELECT spec ->> 'name' AS name FROM runs")
    assert spec["rows"] == [{"name": declared.NAME}]
    shown = run("events", "query", name).stdout
    assert "origin" in shown
    assert "exposure.raised" in shown


def test_a_query_that_cannot_be_answered_says_why(events: Path) -> None:
    name = served_in_a_run(events)
    refused = answered("events", "query", name, "FROM nowhere", code=1)["error"]
    assert (refused["code"], "requests, mirrors" in refused["message"]) == ("BAD_PARAMETER", True)
    unknown = answered("events", "query", "nobody", code=1)["error"]
    assert (unknown["code"], declared.NAME in unknown["message"]) == ("NO_SUCH_RUN", True)
