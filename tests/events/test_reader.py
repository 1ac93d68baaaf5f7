"""Reading the log: real segments on disk, torn and broken lines, repeats, growth between looks."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.logged import line_of, lines_of
from understudy.events.lookups import exposed_units, mirrored_requests, recent_requests
from understudy.events.reader import EventLog
from understudy.events.writer import EventWriter

MODEL = "flight-delay"


def request(number: int, **changes: Any) -> dict[str, Any]:
    event = {
        "event_id": f"e{number}", "request_id": f"r{number}", "received_at": 1000.0 + number, "event_time": 10.0 + number,
        "model": MODEL, "run": "x-v2-1", "stage": 1, "generation": 3, "arm": "control", "version": "1", "fallback": False,
        "unit": f"u{number}", "cohorts": {"origin": "JFK"}, "features": {"distance": number, "origin": "JFK"},
        "prediction": 0.25, "error": None, "latency_ms": 3.0,
    }  # fmt: skip
    return event | changes


def write(root: Path, kind: str, name: str, *lines: dict[str, Any] | bytes) -> Path:
    path = root / MODEL / kind / f"{name}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as stream:
        for line in lines:
            if isinstance(line, bytes):
                stream.write(line)
            else:
                stream.write(json.dumps(line_of(line) if kind == "requests" else line).encode() + b"\n")
    return path


def count(log: EventLog, table: str = "requests") -> int:
    row = log.connection.execute(f"SELECT count(*) FROM {table}").fetchone()
    assert row is not None
    return int(row[0])


def test_no_folder_is_an_empty_log(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "nowhere")
    assert (log.refresh().segments, count(log)) == (0, 0)
    assert recent_requests(tmp_path, MODEL, 10).empty


@pytest.mark.parametrize(
    "broken",
    [
        b'{"event_id":"torn","rec\n', b"[1,2]\n", b"5\n", b"null\n", b"garbage\n",
        b'{"event_id":"\xff\xfe","received_at":4}\n',
        b'{"event_id":"x\x00","received_at":4}\n', b'{"event_id":"x"}\n', b'{"received_at":1}\n', b"{}\n",
        b'{"event_id":"tail"} x\n',
        json.dumps(line_of(request(9, received_at="soon"))).encode() + b"\n",
        json.dumps(line_of(request(9, event_time=None))).encode() + b"\n",
        json.dumps(line_of(request(9, stage="one"))).encode() + b"\n",
        json.dumps(line_of(request(9, received_at=float("nan")))).encode() + b"\n",
    ],
)  # fmt: skip
def test_a_broken_line_is_counted_and_its_neighbours_are_read(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path, "requests", "w-0", request(1), broken, request(2))
    log = EventLog(tmp_path / MODEL)
    state = log.refresh()
    assert (count(log), state.invalid_lines, state.torn_lines) == (2, 1, 0)


def test_blank_lines_are_nothing(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", b"\n\n\n", request(1), b"  \n", request(2), b"\n")
    log = EventLog(tmp_path / MODEL)
    assert (log.refresh().invalid_lines, count(log)) == (0, 2)


def test_an_unfinished_last_line_is_torn_until_it_is_complete(tmp_path: Path) -> None:
    line = json.dumps(line_of(request(2))).encode() + b"\n"
    write(tmp_path, "requests", "w-0", request(1), line[:40])
    log = EventLog(tmp_path / MODEL)
    assert (log.refresh().torn_lines, count(log)) == (1, 1)
    assert (log.refresh().torn_lines, count(log)) == (1, 1)
    write(tmp_path, "requests", "w-0", line[40:])
    state = log.refresh()
    assert (state.torn_lines, state.invalid_lines, count(log)) == (0, 0, 2)


def test_every_byte_is_taken_once_while_segments_grow(tmp_path: Path) -> None:
    log = EventLog(tmp_path / MODEL)
    for number in range(30):
        write(tmp_path, "requests", f"w-{number % 3}", request(number))
        write(
            tmp_path,
            "outcomes",
            "w-0",
            {"event_id": f"e{number}", "outcome": 1.0, "occurred_at": 1.0, "received_at": 2.0},
        )
        log.refresh()
        assert (count(log), count(log, "outcomes")) == (number + 1, number + 1)


def test_what_the_writer_wrote_is_what_is_read(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, MODEL, "requests", segment_bytes=2000)
    writer.append(
        lines_of("requests", (request(n, prediction=float("nan") if n == 3 else 0.5) for n in range(20)))
    )
    writer.append(lines_of("requests", [request(20)]))
    writer.close()
    log = EventLog(tmp_path / MODEL)
    state = log.refresh()
    assert (count(log), state.invalid_lines) == (21, 0)


def test_a_rewritten_segment_starts_the_log_again(tmp_path: Path) -> None:
    path = write(tmp_path, "requests", "w-0", request(1), request(2), b"broken\n")
    log = EventLog(tmp_path / MODEL)
    assert log.refresh().invalid_lines == 1
    path.unlink()
    assert (log.refresh().invalid_lines, count(log)) == (0, 0)
    write(tmp_path, "requests", "w-0", request(3))
    log.refresh()
    assert count(log) == 1


def test_reading_stops_where_it_is_told_to_and_goes_on_from_there(tmp_path: Path) -> None:
    path = write(tmp_path, "requests", "w-0", request(1))
    size = path.stat().st_size
    write(tmp_path, "requests", "w-0", request(2))
    write(tmp_path, "requests", "w-1", request(3))
    log = EventLog(tmp_path / MODEL)
    log.refresh({"requests/w-0.jsonl": size})
    assert (count(log), log.offsets) == (1, {"requests/w-0.jsonl": size})
    log.refresh()
    assert count(log) == 3
    assert log.offsets["requests/w-0.jsonl"] == path.stat().st_size


def test_reading_can_be_taken_back_together_with_the_tables(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1))
    log = EventLog(tmp_path / MODEL)
    before = log.position()
    log.connection.begin()
    log.refresh()
    log.connection.rollback()
    log.return_to(before)
    assert (count(log), log.offsets) == (0, {})
    log.refresh()
    assert count(log) == 1


def test_the_units_that_saw_the_challenger_are_counted_once(tmp_path: Path) -> None:
    assert exposed_units(tmp_path, MODEL, "x-v2-1") == (0, 0)
    write(
        tmp_path, "requests", "w-0", request(1, unit="a"), request(2, unit="b", arm="challenger"), request(3, unit=None),
        request(4, unit="c", arm="challenger", fallback=True), request(5, unit="d", run="other", arm="challenger"),
    )  # fmt: skip
    write(tmp_path, "requests", "w-1", request(6, unit="b", arm="challenger"), b"torn")
    assert exposed_units(tmp_path, MODEL, "x-v2-1") == (1, 3)


def test_mirrored_requests_stand_beside_what_the_champion_answered(tmp_path: Path) -> None:
    assert mirrored_requests(tmp_path, MODEL, "x-v2-1").empty
    write(tmp_path, "requests", "w-0", request(1), request(2, prediction=0.5), request(3, arm="challenger"))
    mirrored = [
        {"event_id": f"e{n}", "run": "x-v2-1", "prediction": n / 10, "received_at": 1.0} for n in (1, 3, 4)
    ]
    write(tmp_path, "mirrors", "w-0", *mirrored)
    frame = mirrored_requests(tmp_path, MODEL, "x-v2-1")
    assert frame.to_dict("records") == [{"champion": 0.25, "challenger": 0.1}]


def test_recent_requests_are_the_newest_oldest_first_and_once_each(tmp_path: Path) -> None:
    write(
        tmp_path,
        "requests",
        "w-0",
        *(request(n) for n in range(5)),
        request(4, received_at=1900.0, prediction=0.9),
    )
    write(tmp_path, "requests", "w-1", *(request(n) for n in range(5, 8)), b"torn")
    frame = recent_requests(tmp_path, MODEL, 4)
    assert list(frame["event_id"]) == ["e4", "e5", "e6", "e7"]
    assert list(frame["prediction"]) == [0.25] * 4
    assert frame.attrs["features"] == ["distance", "origin"]
    assert list(frame["distance"]) == [4, 5, 6, 7]
    assert frame["cohorts"].iloc[0] == {"origin": "JFK"}


def test_since_leaves_older_requests_out(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(5)))
    assert list(recent_requests(tmp_path, MODEL, 99, since=1003.0)["event_id"]) == ["e3", "e4"]
    assert recent_requests(tmp_path, MODEL, 99, since=9999.0).empty


def test_old_segments_are_skipped_only_when_they_cannot_matter(tmp_path: Path) -> None:
    old = write(tmp_path, "requests", "w-0", *(request(n) for n in range(3)))
    new = write(tmp_path, "requests", "w-1", *(request(n) for n in range(3, 6)))
    os.utime(old, (1002.5, 1002.5))
    os.utime(new, (1005.5, 1005.5))
    assert list(recent_requests(tmp_path, MODEL, 2)["event_id"]) == ["e4", "e5"]
    assert list(recent_requests(tmp_path, MODEL, 5)["event_id"]) == ["e1", "e2", "e3", "e4", "e5"]


def test_a_feature_may_bear_the_name_of_a_logged_field(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1, features={"version": 7.5}))
    frame = recent_requests(tmp_path, MODEL, 5)
    assert (frame["version"].iloc[0], frame["logged_version"].iloc[0]) == (7.5, "1")
