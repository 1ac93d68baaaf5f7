"""Processes that are killed while they write, compact or remove events: nothing acknowledged is lost, nothing is doubled."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from tests.events.test_reader import MODEL, count, request, write
from tests.logged import logged_events
from understudy.events.archive import Archive, sources
from understudy.events.compaction import compact
from understudy.events.finder import find_events
from understudy.events.imports import Columns, import_outcomes
from understudy.events.lookups import exposed_units, recent_requests
from understudy.events.reader import EventLog
from understudy.events.retention import retain
from understudy.events.tables import opened_file

HOUR = 3600.0
EVENTS = 12

# Forks a process per folder, and kills it just before its n-th change to the disk, n being the number of the folder; until
# one comes to its end.
_KILLED_AT_EACH_STEP = """
import os, signal, sys
from pathlib import Path
from understudy.events.compaction import compact
from understudy.events.imports import Columns, import_outcomes
from understudy.events.lines import OutcomeLine
from understudy.events.retention import retain
from understudy.events.tables import opened_file
from understudy.events.writer import EventWriter

def write(folder):
    acknowledged = open(folder + "/acknowledged", "a")
    writer = EventWriter(Path(folder), "flight-delay", "outcomes", segment_bytes=200)
    for number in range(5):
        writer.append([OutcomeLine(f"e{number}-{part}", 1.0, None, 5.0, 6.0) for part in range(2)])
        print(number, file=acknowledged, flush=True)
    writer.close()

def bring(folder):
    with opened_file(sys.argv[2], lambda done, what: None) as rows:
        import_outcomes(Path(folder, "flight-delay"), rows, Columns(), 9.0, segment_bytes=300)

def dying(step):
    left = [step]
    def watched(real):
        def call(*arguments, **more):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **more)
        return call
    creating = ("open", "close") if what == "write" else ()
    for name in ("write", "fsync", "replace", "rename", "unlink", "mkdir", "rmdir", "truncate", *creating):
        setattr(os, name, watched(getattr(os, name)))

what, root, folders = sys.argv[1], sys.argv[2], sys.argv[3:]
for step, folder in enumerate(folders, 1):
    child = os.fork()
    if not child:
        dying(step)
        url = root and f"file://{folder}/{root}"
        if what == "write":
            write(folder)
        elif what == "import":
            bring(folder)
        elif what == "compact":
            compact(Path(folder, "flight-delay"), now=4e9, quiet=0, root=url)
        else:
            retain(Path(folder, "flight-delay"), days=1, now=4e9)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(status, flush=True)
    if not status:
        break
"""


def killed_at_each_step(what: str, folders: list[Path], root: str = "") -> list[int]:
    """Return the signal that ended each process; the last is 0 when it came to its end."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_AT_EACH_STEP, what, root, *map(str, folders)],
        capture_output=True,
        text=True,
        check=True,
    )
    ends = [int(line) for line in done.stdout.split()]
    assert set(ends) == {0, signal.SIGKILL}, done.stderr
    return ends


def logs(tmp_path: Path, steps: int) -> list[Path]:
    """Return copies of a log with two kinds, two hours, a torn tail, and a compaction that was done before."""
    first = tmp_path / "0"
    for number in range(EVENTS):
        name, told = f"w-{number // 4}-{number % 2}", {"outcome": 1.0, "occurred_at": 9.0, "received_at": 9.0}
        write(first, "requests", name, request(number, received_at=number * HOUR / 6))
        write(first, "outcomes", name, {"event_id": f"e{number}", **told})
        if number == 3:
            compact(first / MODEL, now=4e9, quiet=0)
    write(first, "requests", name, b'{"request_id": "to')
    copies = [tmp_path / str(step) for step in range(1, steps + 1)]
    for copy in copies:
        shutil.copytree(first, copy)
    return copies


def events_in(root: Path) -> list[int]:
    """Return how often each way of reading finds events."""
    log = EventLog(root / MODEL)
    assert log.refresh().invalid_lines == 0
    return [
        count(log),
        count(log, "outcomes"),
        len(recent_requests(root, MODEL, 10**6)),
        exposed_units(root, MODEL, "x-v2-1")[1],
        len(find_events(root, "requests", [f"e{n}" for n in range(EVENTS)])),
    ]


def direct(root: Path, pattern: str = f"{MODEL}/requests") -> list[int]:
    """Return the numbers of the events that anybody finds who reads every Parquet file."""
    found = duckdb.sql(f"SELECT event_id FROM '{root}/{pattern}/*/*/*.parquet'").fetchall()
    return sorted(int(name[1:]) for (name,) in found)


@pytest.mark.parametrize("root", ["", "elsewhere"])
def test_a_compaction_killed_at_any_step_loses_nothing_and_doubles_nothing(tmp_path: Path, root: str) -> None:
    folders = logs(tmp_path, 70)
    # Readers that were there before, and every way of reading, for some; a new reader for all.
    readers = {folder: EventLog(folder / MODEL) for folder in folders[::6]}
    for reader in readers.values():
        reader.refresh()
    ends = killed_at_each_step("compact", folders, root)
    assert ends[-1] == 0, "more folders are needed to reach the end"
    assert ends.count(signal.SIGKILL) > 25
    for folder in folders[: ends.count(signal.SIGKILL) + 1]:
        assert EventLog(folder / MODEL).refresh().torn_lines == 1
        if folder in readers:
            assert events_in(folder) == [EVENTS] * 5
            readers[folder].refresh()
        compact(folder / MODEL, now=4e9, quiet=0, root=root and f"file://{folder}/{root}")
        for log in (EventLog(folder / MODEL), *(readers[f] for f in readers if f == folder)):
            log.refresh()
            assert (count(log), count(log, "outcomes"), log.restarts) == (EVENTS, EVENTS, 0)
        assert not list(folder.glob(f"{MODEL}/*/*.jsonl")) + list((folder / MODEL / "compacting").iterdir())
        everywhere = direct(folder) + (direct(folder, f"{root}/requests") if root else [])
        assert sorted(everywhere) == list(range(EVENTS))


def test_a_writer_killed_at_any_step_between_segments_has_written_what_it_acknowledged(
    tmp_path: Path,
) -> None:
    folders = [tmp_path / str(step) for step in range(1, 31)]
    for folder in folders:
        folder.mkdir()
    ends = killed_at_each_step("write", folders)
    assert ends[-1] == 0, "more folders are needed to reach the end"
    assert ends.count(signal.SIGKILL) > 12
    for folder in folders[: ends.count(signal.SIGKILL) + 1]:
        acknowledged = (folder / "acknowledged").read_text().split()
        for compacted in (False, True):
            if compacted:
                compact(folder / MODEL, now=4e9, quiet=0)
            log = EventLog(folder / MODEL)
            assert log.refresh().invalid_lines == 0
            found = [name for (name,) in log.connection.execute("SELECT event_id FROM outcomes").fetchall()]
            assert len(found) == len(set(found))
            assert {f"e{number}-{part}" for number in acknowledged for part in range(2)} <= set(found)
            assert len(found) <= 2 * (len(acknowledged) + 1)


def test_an_import_killed_at_any_step_is_finished_by_the_next_and_doubles_nothing(tmp_path: Path) -> None:
    told = tmp_path / "told.csv"
    told.write_text("event_id,occurred_at,outcome\n" + "".join(f"e{number},5,1\n" for number in range(12)))
    folders = [tmp_path / str(step) for step in range(1, 61)]
    ends = killed_at_each_step("import", folders, str(told))
    assert ends[-1] == 0, "more folders are needed to reach the end"
    assert ends.count(signal.SIGKILL) > 15
    for folder in folders[: ends.count(signal.SIGKILL) + 1]:
        with opened_file(str(told), lambda done, what: None) as rows:
            import_outcomes(folder / MODEL, rows, Columns(), 99.0, segment_bytes=300)
        log = EventLog(folder / MODEL)
        assert log.refresh().invalid_lines == 0
        found = [name for (name,) in log.connection.execute("SELECT event_id FROM outcomes").fetchall()]
        assert sorted(found) == sorted(f"e{number}" for number in range(12))


def test_a_removal_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    folders = logs(tmp_path, 42)
    for folder in folders:
        compact(folder / MODEL, now=4e9, quiet=0)
        write(folder, "requests", "x-0", request(1000, received_at=4e9), b"garbage\n")
        write(folder, "requests", "y-0", request(1001, received_at=5.0), b"garbage\n")
        old = folder / MODEL / "requests" / "y-0.jsonl"
        os.utime(old, (5.0, 5.0))
        os.utime(folder / MODEL / "requests" / "x-0.jsonl", (4e9, 4e9))
    ends = killed_at_each_step("retain", folders)
    assert ends[-1] == 0, "more folders are needed to reach the end"
    assert ends.count(signal.SIGKILL) > 10
    for folder in folders[: ends.count(signal.SIGKILL) + 1]:
        retain(folder / MODEL, days=1, now=4e9)
        assert list(recent_requests(folder, MODEL, 99)["event_id"]) == ["e1000"]
        assert not list(folder.rglob("*.parquet"))
        assert not list(folder.rglob("day=*"))
        log = EventLog(folder / MODEL)
        assert (log.refresh().invalid_lines, count(log)) == (1, 1)


def test_the_leftovers_of_a_compaction_never_count_as_somebody_elses(tmp_path: Path) -> None:
    (folder,) = logs(tmp_path, 1)
    stranger = folder / MODEL / "requests" / "day=1970-01-01" / "hour=00" / "mine.parquet"
    stranger.write_bytes(b"not ours")
    compact(folder / MODEL, now=4e9, quiet=0)
    assert stranger.exists()
    assert str(stranger) not in sources(folder / MODEL, "requests").addresses


def test_the_torn_end_of_a_journal_is_cut(tmp_path: Path) -> None:
    (folder,) = logs(tmp_path, 1)
    journal = folder / MODEL / "compacted.jsonl"
    with journal.open("ab") as stream:
        stream.write(b'{"type":"compacted","segm')
    assert events_in(folder) == [EVENTS] * 5
    compact(folder / MODEL, now=4e9, quiet=0)
    assert events_in(folder) == [EVENTS] * 5
    archive = Archive(folder / MODEL)
    archive.refresh()
    assert len(archive.done) == 2


_COMPACTS_ON_A_FULL_DISK = """
import resource, sys
from pathlib import Path
from understudy.events.compaction import compact
from understudy.events.writer import EventsUnwritable
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
for space in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (space, hard))
    try:
        compact(Path(sys.argv[1]), now=4e9, quiet=0)
    except EventsUnwritable as error:
        print(error.code)
"""


def test_a_full_disk_stops_a_compaction_wherever_it_is_and_the_next_one_ends_it(tmp_path: Path) -> None:
    (folder,) = logs(tmp_path, 1)
    # Too little for the spool, for a file, for the journal.
    spaces = ["10", "1000", "3000", "5000", "600"]
    done = subprocess.run(
        [sys.executable, "-c", _COMPACTS_ON_A_FULL_DISK, str(folder / MODEL), *spaces],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[:2] == ["EVENTS_UNWRITABLE"] * 2
    assert events_in(folder) == [EVENTS] * 5
    compact(folder / MODEL, now=4e9, quiet=0)
    assert events_in(folder) == [EVENTS] * 5
    assert direct(folder) == list(range(EVENTS))


_WRITES_UNTIL_KILLED = """
import sys
from pathlib import Path
from understudy.events.lines import RequestLine
from understudy.events.writer import EventWriter
writer = EventWriter(Path(sys.argv[1]), "flight-delay", "requests", segment_bytes=20_000)
number = 0
while True:
    ids = [f"{sys.argv[2]}-{number}-{part}" for part in range(3)]
    alike = [[value] * 3 for value in (5.0, "control", "1", "u", {}, 0.5, 3.0, None, False, None)]
    writer.append([RequestLine("r", None, 6.0, "flight-delay", None, 0, 1, ids, *alike, [], [[]] * 3)])
    number += 1
    print(number, flush=True)
"""


def test_writers_killed_at_random_moments_lose_nothing_that_they_acknowledged(tmp_path: Path) -> None:
    rng, acknowledged = random.Random(5), {}
    for name in ("a", "b", "c"):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITES_UNTIL_KILLED, str(tmp_path), name],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        for _ in range(rng.randrange(1, 400)):
            process.stdout.readline()
        if name == "b":  # beside one that writes
            compact(tmp_path / MODEL, now=4e9, quiet=0)
        os.kill(process.pid, signal.SIGKILL)
        rest = process.stdout.read()
        process.wait()
        process.stdout.close()
        acknowledged[name] = int(rest.rpartition("\n")[0].rpartition("\n")[2] or 0)
    compact(tmp_path / MODEL, now=4e9, quiet=0)
    log = EventLog(tmp_path / MODEL)
    assert log.refresh().invalid_lines == 0
    found = [name for (name,) in log.connection.execute("SELECT event_id FROM requests").fetchall()]
    assert len(found) == len(set(found))
    for name, requests in acknowledged.items():
        own = sorted(tuple(map(int, event.split("-")[1:])) for event in found if event[0] == name)
        assert own == [(number, part) for number in range(len(own) // 3) for part in range(3)]
        assert len(own) // 3 >= requests
    assert not logged_events(tmp_path, MODEL)
