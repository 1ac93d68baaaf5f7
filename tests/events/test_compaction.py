"""Segments that become partitions: what they hold, what stays, and what goes wrong on the way."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.events.compacted import segments, squeeze, stored
from tests.events.test_evidence import outcome
from tests.events.test_reader import MODEL, count, request, write
from tests.logged import lines_of, request_of
from understudy.errors import EventsBusy, EventsUnreadable
from understudy.events.archive import Archive
from understudy.events.compaction import Compaction, compact
from understudy.events.reader import EventLog
from understudy.events.upkeep import Upkeep
from understudy.events.writer import EventsUnwritable, EventWriter


def test_partitions_hold_what_the_segments_held_by_day_and_hour_of_receipt(tmp_path: Path) -> None:
    at = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
    events = [
        request(n, received_at=at + 3600 * n, features={"distance": n, "origin": 'J"K', "none": None})
        for n in range(3)
    ]
    write(tmp_path, "requests", "w-0", *events)
    write(tmp_path, "outcomes", "w-0", outcome(1, received_at=at) | {"values": {"sales": 2.5}})
    found = squeeze(tmp_path)
    assert (found.segments, found.events, found.partitions, found.torn_lines) == (2, 4, 4, 0)
    assert segments(tmp_path) == []
    folders = {str(path.parent.relative_to(tmp_path / MODEL)) for path in tmp_path.rglob("*.parquet")}
    assert folders == {
        "requests/day=2023-11-14/hour=22",
        "requests/day=2023-11-14/hour=23",
        "requests/day=2023-11-15/hour=00",
        "outcomes/day=2023-11-14/hour=22",
    }
    for row, event in zip(stored(tmp_path), events, strict=True):
        assert json.loads(row["features"]) == event["features"]
        for name in event.keys() - {"features"}:
            assert row[name] == event[name]
    assert stored(tmp_path, "outcomes")[0]["values"] == {"sales": 2.5}


def test_every_event_knows_where_its_line_ended(tmp_path: Path) -> None:
    path = write(
        tmp_path, "requests", "w-0", b"\n", request(0), b"  \n\n", *(request(n) for n in range(1, 3000))
    )
    line_ends = {}
    at = 0
    for line in path.read_bytes().splitlines(keepends=True):
        at += len(line)
        if line.strip():
            line_ends[json.loads(line)["event_id"][0]] = at
    squeeze(tmp_path)
    assert {row["event_id"]: row["position"] for row in stored(tmp_path)} == line_ends


def test_a_request_of_many_rows_keeps_them_all(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, MODEL, "requests")
    features = request(0)["features"]
    writer.append(
        [
            request_of(
                *(
                    request(0) | {"event_id": f"e{n}", "features": features | {"distance": n}}
                    for n in range(5)
                )
            )
        ]
    )
    writer.close()
    squeeze(tmp_path)
    assert [(row["event_id"], json.loads(row["features"])["distance"]) for row in stored(tmp_path)] == [
        (f"e{n}", n) for n in range(5)
    ]


def test_a_segment_that_is_being_written_is_left_alone_and_a_closed_one_is_not(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, MODEL, "requests")
    writer.append(lines_of("requests", [request(1)]))
    assert squeeze(tmp_path).segments == 0
    writer.append(lines_of("requests", [request(2)]))
    writer.close()
    assert squeeze(tmp_path).events == 2
    writer.append(lines_of("requests", [request(3)]))
    writer.close()
    assert [row["event_id"] for row in stored(tmp_path)] == ["e1", "e2"]
    assert squeeze(tmp_path).events == 1


def test_a_segment_is_left_until_it_has_been_quiet(tmp_path: Path) -> None:
    path = write(tmp_path, "requests", "w-0", request(1))
    written = path.stat().st_mtime
    assert compact(tmp_path / MODEL, now=written + 9, quiet=10).segments == 0
    assert compact(tmp_path / MODEL, now=written + 10, quiet=10).segments == 1


def test_a_writer_that_finds_its_new_segment_taken_goes_on_in_another(tmp_path: Path) -> None:
    folder = tmp_path / MODEL / "requests"
    folder.mkdir(parents=True)
    created: list[Path] = []
    real = os.open

    def taken(path: Any, flags: int, *rest: Any, **more: Any) -> int:
        handle = real(path, flags, *rest, **more)
        if str(path).endswith(".jsonl") and flags & os.O_EXCL and len(created) < 1:
            created.append(Path(path))
            assert squeeze(tmp_path).segments == 1
        return handle

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", taken)
        writer = EventWriter(tmp_path, MODEL, "requests")
        writer.append(lines_of("requests", [request(1)]))
    (left,) = segments(tmp_path)
    assert left == f"requests/{created[0].name.removesuffix('0.jsonl')}1.jsonl"
    writer.close()
    squeeze(tmp_path)
    assert [row["event_id"] for row in stored(tmp_path)] == ["e1"]


def test_a_torn_tail_is_cut_and_stays_counted(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1), b'{"request_id": "to')
    log = EventLog(tmp_path / MODEL)
    before = log.refresh()
    assert squeeze(tmp_path).torn_lines == 1
    assert log.refresh() == before == EventLog(tmp_path / MODEL).refresh()
    assert before.torn_lines == 1
    assert len(stored(tmp_path)) == 1


@pytest.mark.parametrize(
    "broken",
    [
        b"garbage\n",
        b'{"request_id":"r","event_id":[]}\n',
        b'{"event_id":["x"]}\n',
        b'{"rows":[{"event_id":"x"}]}\n',
    ],
)
def test_a_segment_with_a_line_that_is_no_event_stays_and_is_named(tmp_path: Path, broken: bytes) -> None:
    write(tmp_path, "requests", "w-0", request(1), broken)
    write(tmp_path, "requests", "w-1", request(2))
    before = EventLog(tmp_path / MODEL).refresh()
    found = squeeze(tmp_path)
    assert found.segments == 1
    assert found.left == {"requests/w-0.jsonl": "1 line(s) hold something that is no event"}
    assert segments(tmp_path) == ["requests/w-0.jsonl"]
    log = EventLog(tmp_path / MODEL)
    assert log.refresh() == before
    assert (before.invalid_lines, count(log)) == (1, 2)


@pytest.mark.parametrize("received_at", [-1.0, 1e200])
def test_a_time_that_no_calendar_has_keeps_the_segment(tmp_path: Path, received_at: float) -> None:
    write(tmp_path, "requests", "w-0", request(1, received_at=received_at))
    assert list(squeeze(tmp_path).left) == ["requests/w-0.jsonl"]
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    assert count(log) == 1


def test_a_column_that_was_declared_private_later_is_dropped(tmp_path: Path) -> None:
    event = request(
        1, features={"distance": 1, "pilot": "Ann", "it's": 2}, cohorts={"origin": "JFK", "seat": "4A"}
    )
    write(tmp_path, "requests", "w-0", event)
    squeeze(tmp_path, private=["pilot", "it's", "seat"])
    (row,) = stored(tmp_path)
    assert json.loads(row["features"]) == {"distance": 1}
    assert row["cohorts"] == {"origin": "JFK"}
    for path in (tmp_path / MODEL).rglob("*"):
        assert not path.is_file() or b"Ann" not in path.read_bytes()


def test_two_compactions_of_one_model_do_not_meet(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1))
    with Upkeep(tmp_path / MODEL), pytest.raises(EventsBusy, match="another process"):
        squeeze(tmp_path)
    assert squeeze(tmp_path).events == 1


def test_nothing_to_compact_leaves_no_trace(tmp_path: Path) -> None:
    assert squeeze(tmp_path) == Compaction()
    assert not (tmp_path / MODEL).exists()


def test_a_journal_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1))
    squeeze(tmp_path)
    with (tmp_path / MODEL / "compacted.jsonl").open("a") as stream:
        stream.write("garbage\n")
    with pytest.raises(EventsUnreadable, match="restore"):
        EventLog(tmp_path / MODEL).refresh()


def test_a_full_disk_leaves_everything_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(100)))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Upkeep, "store", full)
        with pytest.raises(EventsUnwritable, match="Nothing is lost"):
            squeeze(tmp_path)
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    assert (count(log), segments(tmp_path)) == (100, ["requests/w-0.jsonl"])
    assert squeeze(tmp_path).events == 100
    log.refresh()
    assert (count(log), log.restarts) == (100, 0)


def test_many_segments_become_several_compactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("understudy.events.compaction._BATCH_SEGMENTS", 3)
    for number in range(8):
        write(tmp_path, "requests", f"w-{number}", request(number))
    steps: list[float] = []
    found = squeeze(tmp_path, report=lambda done, what: steps.append(done))
    assert (found.segments, found.partitions) == (8, 3)
    assert steps == sorted(steps)
    assert steps[-1] == 1.0
    archive = Archive(tmp_path / MODEL)
    archive.refresh()
    assert [len(one.segments) for one in archive.done] == [3, 3, 2]
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    assert (count(log), log.offsets) == (8, {"compacted": 3})
