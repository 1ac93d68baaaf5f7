"""Whoever reads the log while it is compacted: nothing is missed, nothing comes twice."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.events.compacted import look, segments, squeeze
from tests.events.stores import store_of
from tests.events.test_evidence import NOW, QUERY, RUN, outcome, time_passes, world
from tests.events.test_increments import another_process, copy_in_parts
from tests.events.test_reader import MODEL, count, request, write
from tests.logged import lines_of
from understudy.errors import EventsUnreadable
from understudy.events.archive import Archive
from understudy.events.evidence import Replay
from understudy.events.lookups import exposed_units, mirrored_requests, recent_requests
from understudy.events.reader import EventLog
from understudy.events.writer import EventWriter


def test_a_reader_goes_on_where_it_stood(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1))
    write(tmp_path, "outcomes", "w-0", outcome(1))
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    write(tmp_path, "requests", "w-0", request(2))
    squeeze(tmp_path)
    write(tmp_path, "requests", "w-1", request(3))
    log.refresh()
    assert (count(log), count(log, "outcomes"), log.restarts) == (3, 1, 0)
    log.refresh()
    assert (count(log), log.restarts) == (3, 0)
    assert log.offsets == {"compacted": 1, "requests/w-1.jsonl": log.offsets["requests/w-1.jsonl"]}
    assert log.lost({"requests/w-0.jsonl": 10, "outcomes/w-0.jsonl": 10, "compacted": 1}) == 0
    assert log.lost({"requests/w-9.jsonl": 10, "compacted": 2}) == 2


def test_reading_up_to_an_earlier_point_is_possible_after_the_segment_is_gone(tmp_path: Path) -> None:
    path = write(tmp_path, "requests", "w-0", request(1))
    size = path.stat().st_size
    write(tmp_path, "requests", "w-0", request(2))
    write(tmp_path, "requests", "w-1", request(3))
    squeeze(tmp_path)
    log = EventLog(tmp_path / MODEL)
    log.refresh({"requests/w-0.jsonl": size})
    assert (count(log), log.offsets) == (1, {"requests/w-0.jsonl": size})
    log.refresh({"compacted": 1})
    assert (count(log), log.offsets) == (3, {"compacted": 1})


def test_looks_before_and_after_compactions_know_what_one_look_knows(tmp_path: Path) -> None:
    whole, grown = tmp_path / "whole", tmp_path / "grown"
    world(whole, events=400)
    seen = []
    for number, part in enumerate(copy_in_parts(whole, tmp_path / "parts", 8)):
        # Segments are never appended to once they are compacted: each part has its own.
        for path in sorted(part.glob("*/*.jsonl")):
            write(grown, path.parent.name, f"{path.stem}-{number}", path.read_bytes())
        if number % 3 == 1:
            squeeze(grown)
        if number % 2:
            another_process()
        seen.append(look(grown))
        squeeze(grown) if number % 3 == 2 else None
    found, expected = look(grown), look(whole)
    for block in ("control", "challenger", "stages", "splits", "duplicates", "lost_segments"):
        assert getattr(found.quality, block) == getattr(expected.quality, block)
    for cell in expected.cells:
        ours = found.cell(cell.metric, cell.cohort)
        assert ours.control.sum_n == pytest.approx(cell.control.sum_n, abs=1e-9)
        assert ours.challenger.sum_d == pytest.approx(cell.challenger.sum_d, abs=1e-9)
    replay = Replay(store_of(grown), QUERY, RUN)
    for past in seen:
        assert replay.at(past.seq).digest == past.digest


def test_a_new_process_after_a_compaction_counts_nothing_twice_and_stores_nothing_new(tmp_path: Path) -> None:
    world(tmp_path, events=200)
    write(tmp_path, "outcomes", "w-1", *(outcome(n, 0.0, 9000.0) for n in range(20)))
    first = look(tmp_path)
    squeeze(tmp_path)
    another_process()
    second = look(tmp_path, NOW + 5)
    assert (second.seq, second.digest, second.quality) == (first.seq, first.digest, first.quality)


def test_single_questions_have_the_same_answers_before_and_after(tmp_path: Path) -> None:
    events = [request(n, arm=("control", "challenger")[n % 2], unit=f"u{n % 7}") for n in range(40)]
    write(tmp_path, "requests", "w-0", *events[:20])
    write(tmp_path, "requests", "w-1", *events[20:], request(39, received_at=1039.5, prediction=0.9))
    mirrored = [
        {"event_id": f"e{n}", "run": RUN, "prediction": n / 100, "received_at": 1.0} for n in range(40)
    ]
    write(tmp_path, "mirrors", "w-0", *mirrored)

    def answers() -> tuple[Any, ...]:
        mirror = mirrored_requests(tmp_path, MODEL, RUN).sort_values("challenger")
        recent = [
            recent_requests(tmp_path, MODEL, limit, since) for limit, since in ((5, None), (99, 1030.0))
        ]
        return (
            exposed_units(tmp_path, MODEL, RUN),
            mirror.to_dict("records"),
            *(frame.to_dict("records") for frame in recent),
        )

    before = answers()
    squeeze(tmp_path)
    assert answers() == before
    write(tmp_path, "requests", "w-2", request(50))
    assert list(recent_requests(tmp_path, MODEL, 2)["event_id"]) == ["e39", "e50"]


def test_readers_at_work_during_compactions_see_every_event_once(tmp_path: Path) -> None:
    stop, failed, totals = threading.Event(), [], []

    def read() -> None:
        log = EventLog(tmp_path / MODEL)
        try:
            while not stop.is_set():
                log.refresh()
                ids = log.connection.execute("SELECT event_id FROM requests").fetchall()
                assert len(ids) == len(set(ids))
                frame = recent_requests(tmp_path, MODEL, 10**6)
                assert len(frame) == frame["event_id"].nunique()
                assert exposed_units(tmp_path, MODEL, RUN)[1] >= len(frame)
            log.refresh()
            totals.append((count(log), log.restarts))
        except BaseException as error:
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    writer = EventWriter(tmp_path, MODEL, "requests")
    for number in range(40):
        writer.append(lines_of("requests", [request(10 * number + part) for part in range(10)]))
        writer.close()
        if number % 3 == 0:
            squeeze(tmp_path)
    stop.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert totals == [(400, 0)] * 2


def test_a_reader_that_lists_a_segment_just_before_it_goes_finds_its_events_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "requests", "w-0", request(1))
    real, done = Archive.refresh, []

    def late(archive: Archive) -> None:
        real(archive)
        if not done:
            done.append(True)
            squeeze(tmp_path)  # after this reader has read the journal, and before it opens the segment

    monkeypatch.setattr(Archive, "refresh", late)
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    assert (count(log), segments(tmp_path)) == (1, [])
    done.clear()
    write(tmp_path, "requests", "w-1", request(2))
    assert len(recent_requests(tmp_path, MODEL, 9)) == 2


def test_partitions_may_be_anywhere_that_fsspec_reaches(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1), *time_passes(1))
    before = EventLog(tmp_path / MODEL).refresh()
    url = f"memory://bucket/{tmp_path.name}/{MODEL}"
    found = squeeze(tmp_path, root=url)
    assert (found.partitions, list(tmp_path.rglob("*.parquet"))) == (1, [])
    log = EventLog(tmp_path / MODEL)
    assert log.refresh() == before
    assert count(log) == 11
    assert len(recent_requests(tmp_path, MODEL, 99)) == 11
    # Those of another place stay readable.
    write(tmp_path, "requests", "w-1", request(50))
    squeeze(tmp_path)
    log.refresh()
    assert count(log) == 12
    assert len(recent_requests(tmp_path, MODEL, 99)) == 12


def test_a_partition_that_is_missing_is_an_error_and_never_less_evidence(tmp_path: Path) -> None:
    world(tmp_path, events=20)
    squeeze(tmp_path)
    next((tmp_path / MODEL / "requests").rglob("*.parquet")).unlink()
    for ask in (
        lambda: look(tmp_path),
        lambda: exposed_units(tmp_path, MODEL, RUN),
        lambda: recent_requests(tmp_path, MODEL, 5),
    ):
        with pytest.raises(EventsUnreadable, match="partition"):
            ask()
