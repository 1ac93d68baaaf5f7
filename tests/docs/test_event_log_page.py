"""Everything that the page on the event log tells people to type is typed here, on a log that has something in it."""

from __future__ import annotations

import re
import shlex
import sqlite3
from pathlib import Path

import pandas as pd
import pytest

from tests.commands import answered, run
from tests.events.test_reader import request
from tests.logged import lines_of
from understudy.events.lines import encode
from understudy.events.sql import TABLES
from understudy.events.writer import EventWriter
from understudy.session import session
from understudy.spec import find
from understudy.store import exposures, runs

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "how-to" / "event-log.md").read_text()
MODEL, RUN = "flight-delay", "flight_delay"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def installation(home: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped experiment with a run, and for each of its arms twenty events, some of them in partitions."""
    monkeypatch.setenv("UNDERSTUDY_EXPERIMENTS", str(repo / "experiments"))
    doors = session()
    spec = find(repo / "experiments", RUN).frozen()
    with doors.store.write() as connection:
        at = doors.store.clock()
        exposures.adopt(connection, MODEL, "1", actor="tests", at=at)
        name = runs.create(
            connection, key="k", spec=spec, spec_digest="d", version="2", champion="1", actor="tests", reason="a test",
            airflow={}, at=at,
        ).run_id  # fmt: skip
    for part in range(2):
        events = [
            request(number, run=name, arm=("control", "challenger")[number % 2], received_at=at)
            for number in range(20 * part, 20 * part + 20)
        ]
        mirrored = [{**event, "version": "2", "prediction": 0.75} for event in events]
        told = [
            {"event_id": f"e{number}", "outcome": 1.0, "occurred_at": at, "received_at": at}
            for number in range(40)
        ]
        for kind, lines in (("requests", events), ("mirrors", mirrored), ("outcomes", told)):
            writer = EventWriter(doors.settings.events_dir, MODEL, kind)  # type: ignore[arg-type]
            writer.append(lines_of(kind, lines))
            writer.close()
        if not part:
            answered("events", "compact", MODEL, "--quiet", "0")
    landed = {"flight": ["e1", "e2"], "landed": [at, at], "late": [1, 0], "fare": [2.5, 3.0]}
    frame = pd.DataFrame(landed)
    frame.to_parquet(home / "landed.parquet")
    frame.to_csv(home / "landed.csv", index=False)
    with sqlite3.connect(home / "landed.db") as database:
        frame.to_sql("landed", database, index=False)
    monkeypatch.setenv("WAREHOUSE", f"sqlite:///{home / 'landed.db'}")
    monkeypatch.chdir(home)
    return home


def test_every_command_of_the_page_runs(installation: Path) -> None:
    commands = [line for block in blocks("shell") for line in block.splitlines()]
    assert len(commands) >= 5
    for command in commands:
        first, *rest = shlex.split(command)
        assert first == "understudy"
        done = run(*rest)
        assert done.exit_code == 0, (command, done.output)


def test_every_query_of_the_page_finds_something(installation: Path) -> None:
    queries = blocks("sql")
    assert len(queries) >= 4
    for query in queries:
        rows = answered("events", "query", RUN, query)["rows"]
        assert rows, query
        assert None not in rows[0].values(), (query, rows[0])


def test_the_partitions_can_be_read_as_the_page_says(
    installation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(session().settings.home)
    (code,) = blocks("python")
    exec(compile(code, "event-log.md", "exec"), {})
    assert "challenger" in capsys.readouterr().out


def test_the_page_names_every_table_and_every_column_of_a_line(installation: Path) -> None:
    for table in TABLES:
        assert f"| `{table}` |" in PAGE
    (row,) = answered("events", "query", RUN, "FROM requests LIMIT 1")["rows"]
    (line,) = blocks("json")
    written = encode(lines_of("requests", [request(1)])).decode()
    for name in row:
        assert f"`{name}`" in PAGE, name
    assert set(re.findall(r'"(\w+)":', line)) - {"origin"} == set(re.findall(r'"(\w+)":', written)) - {
        "origin"
    }
