"""What is old goes, whole files at a time; what is needed or new stays; what is there can be counted."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.events.compacted import look, segments, squeeze, stored
from tests.events.test_evidence import world
from tests.events.test_increments import another_process
from tests.events.test_reader import MODEL, count, request, write
from understudy.errors import EventsBusy
from understudy.events.lookups import recent_requests
from understudy.events.reader import EventLog
from understudy.events.retention import Retention, inventory, retain
from understudy.events.upkeep import Upkeep
from understudy.events.writer import EventsUnwritable

DAY = 86400.0


def days_of_events(root: Path) -> None:
    """Write one event a day, of days 1 to 5, each received at noon."""
    for day in range(1, 6):
        write(root, "requests", f"w-{day}", request(day, received_at=DAY * day + DAY / 2))
        write(root, "mirrors", f"w-{day}", {"event_id": f"e{day}", "received_at": DAY * day + DAY / 2})


def kept(root: Path) -> list[str]:
    return list(recent_requests(root, MODEL, 99)["event_id"])


def test_events_go_by_age_and_their_folders_with_them(tmp_path: Path) -> None:
    days_of_events(tmp_path)
    squeeze(tmp_path)
    found = retain(tmp_path / MODEL, days=2, now=DAY * 5.6)
    assert (found.partitions, found.events, found.segments) == (6, 6, 0)
    assert found.bytes > 0
    assert kept(tmp_path) == ["e4", "e5"]
    assert {path.name for path in tmp_path.rglob("day=*")} == {"day=1970-01-05", "day=1970-01-06"}
    assert retain(tmp_path / MODEL, days=2, now=DAY * 5.6) == Retention()


def test_what_a_run_counts_stays_however_old_it_is(tmp_path: Path) -> None:
    days_of_events(tmp_path)
    squeeze(tmp_path)
    retain(tmp_path / MODEL, days=1, now=DAY * 9, needed_from=DAY * 3)
    assert kept(tmp_path) == ["e3", "e4", "e5"]


def test_a_segment_that_could_not_be_compacted_goes_too_when_it_is_old(tmp_path: Path) -> None:
    paths = [write(tmp_path, "requests", f"w-{day}", request(day), b"garbage\n") for day in (1, 2)]
    squeeze(tmp_path)
    os.utime(paths[0], (DAY, DAY))
    os.utime(paths[1], (DAY * 2, DAY * 2))
    log = EventLog(tmp_path / MODEL)
    log.refresh()
    assert retain(tmp_path / MODEL, days=1, now=DAY * 2.5).segments == 1
    assert segments(tmp_path) == ["requests/w-2.jsonl"]
    log.refresh()
    assert (count(log), log.restarts) == (2, 0)


def test_a_segment_that_somebody_writes_stays(tmp_path: Path) -> None:
    from tests.logged import lines_of
    from understudy.events.writer import EventWriter

    writer = EventWriter(tmp_path, MODEL, "requests")
    writer.append(lines_of("requests", [request(1)]))
    assert retain(tmp_path / MODEL, days=1, now=4e9).segments == 0
    writer.close()
    assert retain(tmp_path / MODEL, days=1, now=4e9).segments == 1


def test_a_reader_is_not_disturbed_and_past_looks_stay_as_they_were(tmp_path: Path) -> None:
    world(tmp_path, events=100)
    first = look(tmp_path)
    squeeze(tmp_path)
    retain(tmp_path / MODEL, days=1, now=4e9)
    assert stored_nothing(tmp_path)
    second = look(tmp_path)
    assert (second.digest, second.quality) == (first.digest, first.quality)
    another_process()
    assert look(tmp_path).quality.lost_segments == 0


def stored_nothing(root: Path) -> bool:
    return not list(root.rglob("*.parquet")) and not segments(root)


def test_nothing_is_removed_beside_a_compaction(tmp_path: Path) -> None:
    days_of_events(tmp_path)
    with Upkeep(tmp_path / MODEL), pytest.raises(EventsBusy):
        retain(tmp_path / MODEL, days=1, now=4e9)
    assert retain(tmp_path / "unknown", days=1, now=4e9) == Retention()


def test_a_storage_that_refuses_is_an_error_and_the_next_attempt_finishes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    days_of_events(tmp_path)
    squeeze(tmp_path)

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refused)
        with pytest.raises(EventsUnwritable, match="Permission denied"):
            retain(tmp_path / MODEL, days=1, now=4e9)
    assert kept(tmp_path) == []
    retain(tmp_path / MODEL, days=1, now=4e9)
    assert stored_nothing(tmp_path)


def test_what_is_stored_can_be_counted(tmp_path: Path) -> None:
    assert inventory(tmp_path / MODEL)["kinds"]["requests"]["segments"] == 0
    days_of_events(tmp_path)
    write(tmp_path, "requests", "w-1", b"torn")
    squeeze(tmp_path)
    path = write(tmp_path, "requests", "w-9", request(9))
    found = inventory(tmp_path / MODEL)
    assert (found["compactions"], found["torn_lines"]) == (1, 1)
    requests = found["kinds"]["requests"]
    assert (requests["segments"], requests["segment_bytes"]) == (1, path.stat().st_size)
    assert (requests["partitions"], requests["events"]) == (5, 5)
    assert (requests["oldest"], requests["newest"]) == (DAY * 1.5, DAY * 5.5)
    sizes = sum(path.stat().st_size for path in (tmp_path / MODEL / "requests").rglob("*.parquet"))
    assert requests["partition_bytes"] == sizes
    assert len(stored(tmp_path)) == 5
