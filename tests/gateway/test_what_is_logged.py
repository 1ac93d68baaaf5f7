"""What a gateway leaves behind: everything that must be known of an answer, nothing private, every outcome once."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.events.stores import store_of
from tests.gateway.conftest import MODEL, Registered, logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.events.compaction import compact
from understudy.events.evidence import EvidenceQuery, MetricQuery, collect
from understudy.events.imports import Columns, import_outcomes
from understudy.events.sql import ask
from understudy.events.tables import opened_file
from understudy.exposure import Exposure
from understudy.telemetry import TraceContext

RUN = "delay_test-v2-1"


def test_an_answer_is_logged_with_all_that_must_be_known_of_it(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    exposure = expose(challenger=registered.better, percent=30.0, mirror=True)
    caller = TraceContext.new()
    before = len(logged(gateway))
    answer = gateway.client.post(
        "/invocations",
        json=split([row(number) for number in range(30)]),
        headers={"traceparent": caller.traceparent},
    )
    events = logged(gateway)[before:]
    assert {event["arm"] for event in events} == {"challenger", "control", "unexposed"}
    for number, event in enumerate(events):
        assert event["event_id"] == f"flight-{number}"
        assert (event["request_id"], event["trace_id"]) == (answer.headers["x-request-id"], caller.trace_id)
        assert re.fullmatch("[0-9a-f]{32}", event["unit"])
        version = registered.better if event["arm"] == "challenger" else registered.good
        assert (event["run"], event["version"], event["stage"]) == (RUN, version, 1)
        assert event["generation"] == exposure.generation
        assert event["cohorts"] == {"origin": row(number)["origin"]}
        assert event["prediction"] == pytest.approx(answer.json()["predictions"][number][1])
        assert event["latency_ms"] > 0
        assert (event["error"], event["fallback"]) == (None, False)
    copied = {event["event_id"] for event in events if event["arm"] != "challenger"}
    wait_until(lambda: copied <= {event["event_id"] for event in logged(gateway, "mirrors")}, "the mirror")
    folder = gateway.home / "events" / MODEL
    (mirrored,) = ask(folder, [{"run": RUN}], [], ["FROM mirrors"])
    for values in mirrored.rows:
        found = dict(zip(mirrored.columns, values, strict=True))
        (event,) = (event for event in events if event["event_id"] == found["event_id"])
        for name in ("request_id", "trace_id", "run", "unit", "cohorts", "stage", "generation", "model"):
            assert found[name] == event[name]
        assert found["version"] == registered.better
        assert 0 <= found["prediction"] <= 1
        assert (found["latency_ms"] > 0, found["error"]) == (True, None)


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


FORMATS: dict[str, Callable[[list[dict[str, Any]]], tuple[str, str]]] = {
    "dataframe_split": lambda rows: ("application/json", json.dumps(split(rows))),
    "dataframe_records": lambda rows: ("application/json", json.dumps({"dataframe_records": rows})),
    "instances": lambda rows: ("application/json", json.dumps({"instances": rows})),
    "inputs": lambda rows: (
        "application/json",
        json.dumps({"inputs": {name: [one[name] for one in rows] for name in rows[0]}}),
    ),
    "csv": lambda rows: ("text/csv", as_csv(rows)),
}


def test_nothing_private_is_in_a_line_or_a_partition_whatever_the_format(
    gateway_with: Callable[..., Any], registered: Registered, tmp_path: Path
) -> None:
    from tests.events.test_reader import count
    from understudy.events.reader import EventLog
    from understudy.exposure import publish

    with gateway_with(home=tmp_path) as running:
        exposure = Exposure(
            model=MODEL, generation=running.status()["generation"] + 1, champion=registered.good,
            challenger=registered.better, percent=20.0, mirror=True, run_id=RUN, stage=1, lease_expires_at=int(time.time()) + 600,
        )  # fmt: skip
        publish(tmp_path / "flags.json", [exposure])
        running.wait_for_generation(exposure.generation)
        wait_until(lambda: registered.better in running.status()["loaded"], "the challenger")
        for number, (name, form) in enumerate(FORMATS.items()):
            kind, body = form([row(100 * number + part) for part in range(20)])
            answer = running.client.post("/invocations", content=body, headers={"content-type": kind})
            assert answer.status_code == 200, (name, answer.text)
        wait_until(lambda: logged(running, "mirrors"), "the mirror")
        assert len(logged(running)) == 20 * len(FORMATS)
        assert {tuple(event["features"]) for event in logged(running)} == {("origin", "distance", "hour")}
    folder = tmp_path / "events"
    private = re.compile(rb"N00\d\d\d|Captain|tailnum|pilot")
    for path in folder.rglob("*.jsonl"):
        assert not private.search(path.read_bytes()), path
    assert compact(folder / MODEL, now=4e9, quiet=0).partitions >= 2
    for path in folder.rglob("*.parquet"):
        assert not private.search(repr(duckdb.sql(f"FROM '{path}'").fetchall()).encode()), path
        assert not private.search(path.read_bytes()), path
    log = EventLog(folder / MODEL)
    log.refresh()
    assert count(log) == 20 * len(FORMATS)


def test_an_outcome_that_is_told_by_request_and_by_file_counts_once(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered, tmp_path: Path
) -> None:
    run = "delay_test-v2-2"
    expose(challenger=registered.better, percent=50.0, run_id=run)
    rows = [row(number, event_id=f"once-{number}") for number in range(40)]
    later = [
        row(number, event_id=f"later-{number}") for number in range(40, 60)
    ]  # time goes on, so all of them are ripe
    gateway.client.post("/invocations", json=split(rows + later))
    told = [{"event_id": one["event_id"], "outcome": 1, "occurred_at": one["event_time"] + 5} for one in rows]
    assert gateway.client.post("/outcomes", json={"outcomes": told[:25]}).json() == {"accepted": 25}
    wrong = [one | {"outcome": 0} for one in told[:25]]
    (tmp_path / "told.csv").write_text(as_csv([*wrong, *told[25:]]))
    query = EvidenceQuery(
        MODEL, (MetricQuery("brier", "brier"),), shares={1: {"control": 0.5, "challenger": 0.5}}
    )
    events_dir, answers = gateway.home / "events", []
    for _ in range(2):
        with opened_file(str(tmp_path / "told.csv"), lambda done, what: None) as source:
            import_outcomes(events_dir / MODEL, source, Columns(), 3e9)
        answers.append(collect(store_of(tmp_path), events_dir, query, run, 4e9))
    first, second = answers
    assert (second.digest, second.quality) == (first.digest, first.quality)
    quality = first.quality
    assert quality.control.labelled + quality.challenger.labelled == 40
    assert quality.repeated_outcomes == 25
    losses = [(1 - one["prediction"]) ** 2 for one in logged(gateway) if one["event_id"].startswith("once-")]
    cell = first.cell("brier")
    # What was told first stands: not one zero of the file's is among them.
    assert float(cell.control.sum_n.sum() + cell.challenger.sum_n.sum()) == pytest.approx(sum(losses))


def test_the_unfinished_lines_of_a_killed_gateway_are_counted_by_the_next(
    gateway_with: Callable[..., Any], tmp_path: Path
) -> None:
    with gateway_with(home=tmp_path) as first:
        first.client.post("/invocations", json=split([row(1)]))
        assert first.status()["events"]["torn_lines"] == 0
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
    (segment,) = (tmp_path / "events" / MODEL / "requests").glob("*.jsonl")
    with segment.open("ab") as stream:
        stream.write(b'{"request_id": "torn')
    with gateway_with(home=tmp_path) as second:
        assert second.status()["events"]["torn_lines"] == 1
        assert "1 unfinished lines" in second.log.read_text()
    assert compact(tmp_path / "events" / MODEL, now=4e9, quiet=0).torn_lines == 1
    with gateway_with(home=tmp_path) as third:
        assert third.status()["events"]["torn_lines"] == 1
