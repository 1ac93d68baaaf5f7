from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.logged import lines_of, request_of
from tests.servers import wait_until
from understudy.events.lines import OutcomeLine, RequestLine, encode
from understudy.events.pseudonym import pseudonyms
from understudy.events.writer import EventsUnwritable, EventWriter


def told(number: int) -> OutcomeLine:
    return OutcomeLine(f"e{number}", 1.0, None, 5.0, 6.0)


def served(*numbers: int) -> RequestLine:
    shared = {
        "request_id": "r",
        "received_at": 6.0,
        "model": "m",
        "stage": 0,
        "generation": 1,
        "arm": "control",
    }
    return request_of(*(shared | {"event_id": f"e{n}", "features": {"distance": n}} for n in numbers))


def segments(root: Path) -> list[Path]:
    return sorted((root / "m" / "outcomes").glob("*.jsonl"))


def numbers(root: Path) -> list[int]:
    lines = [json.loads(line) for path in segments(root) for line in path.read_text().splitlines()]
    return [int(line["event_id"][1:]) for line in lines]


def test_events_are_complete_lines_in_the_order_they_came(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "outcomes")
    writer.append([told(1), told(2)])
    writer.append([told(3)])
    assert numbers(tmp_path) == [1, 2, 3]
    assert writer.written == 3


def test_a_request_is_one_line_and_counts_as_its_rows(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "requests")
    writer.append([served(1, 2, 3), served(4)])
    (segment,) = (tmp_path / "m" / "requests").glob("*.jsonl")
    lines = [json.loads(line) for line in segment.read_text().splitlines()]
    assert [line["event_id"] for line in lines] == [["e1", "e2", "e3"], ["e4"]]
    assert writer.written == 4
    (tmp_path / "blocked").write_text("in the way")
    blocked = EventWriter(tmp_path / "blocked", "m", "requests")
    with pytest.raises(EventsUnwritable, match="4 event"):
        blocked.append([served(1, 2, 3), served(4)])
    assert blocked.failed == 4


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "outcomes", segment_bytes=3 * len(encode([told(1)])))
    for number in range(10):
        writer.append([told(number)])
    assert len(segments(tmp_path)) == 4
    assert numbers(tmp_path) == list(range(10))


def test_nothing_is_created_before_the_first_event(tmp_path: Path) -> None:
    EventWriter(tmp_path, "m", "outcomes").append([])
    assert not (tmp_path / "m").exists()


def test_a_torn_segment_of_an_earlier_process_is_never_appended_to(tmp_path: Path) -> None:
    EventWriter(tmp_path, "m", "outcomes").append([told(1)])
    torn = segments(tmp_path)[0]
    with torn.open("ab") as stream:
        stream.write(b'{"event_id": "e2", "ha')
    before = torn.read_bytes()
    EventWriter(tmp_path, "m", "outcomes").append([told(3)])
    assert torn.read_bytes() == before
    (other,) = set(segments(tmp_path)) - {torn}
    assert json.loads(other.read_text())["event_id"] == "e3"


def test_a_segment_is_left_for_its_age_although_nothing_more_comes(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "outcomes", segment_seconds=0.01)
    writer.append([told(1)])
    (segment,) = segments(tmp_path)
    with segment.open() as stream:  # refused for as long as the writer has it open
        wait_until(lambda: _lockable(stream.fileno()), "the segment was left")
    writer.append([told(2)])
    assert len(segments(tmp_path)) == 2
    assert writer.written == 2


def _lockable(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def test_a_segment_that_is_open_is_locked_until_its_process_ends(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "outcomes")
    writer.append([told(1)])
    (segment,) = segments(tmp_path)
    with segment.open() as stream:
        assert not _lockable(stream.fileno())
        writer.close()
        assert _lockable(stream.fileno())


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (float("nan"), None),
        (float("inf"), None),
        (np.float64("nan"), None),
        (np.int64(3), 3),
        (np.array([1.5, np.nan]), [1.5, None]),
        ({"a": [float("-inf"), "x"]}, {"a": [None, "x"]}),
        ("line\nbreak\u2028", "line\nbreak\u2028"),
        ("half of \ud800", "half of \ufffd"),
        ({"\ud800": 1}, {"\ufffd": 1}),
        (2**70, 2**70),
        (True, True),
    ],
)
def test_every_value_becomes_one_line_of_strict_json(tmp_path: Path, value: object, kept: object) -> None:
    text = encode(lines_of("requests", [{"features": {"value": value}}])).decode()
    assert text.count("\n") == 1
    assert "NaN" not in text
    assert json.loads(text)["features"] == [[kept]]


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "outcomes", segment_bytes=5_000)

    def work(name: int) -> None:
        for number in range(100):
            writer.append([told(10_000 * name + 3 * number + part) for part in range(3)])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(numbers(tmp_path))) == writer.written == 1200


_FULL_DISK = """
import json, resource, sys
from pathlib import Path
from understudy.events.lines import OutcomeLine
from understudy.events.writer import EventsUnwritable, EventWriter
writer = EventWriter(Path(sys.argv[1]), "m", "outcomes")
writer.append([OutcomeLine("e0", 1.0, None, 5.0, 6.0)])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
for _ in range(3):
    try:
        writer.append([OutcomeLine("e1" * 200, 1.0, None, 5.0, 6.0)])
    except EventsUnwritable as error:
        print(error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.append([OutcomeLine("e2", 1.0, None, 5.0, 6.0)])
print(writer.written, writer.failed)
"""


def test_a_full_disk_leaves_complete_lines_and_writing_goes_on_when_there_is_space(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["EVENTS_UNWRITABLE"] * 3 + ["2", "3"]
    assert numbers(tmp_path) == [0, 2]
    # The repeated attempts share one empty segment instead of leaving one each.
    assert len(segments(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("in the way")
    writer = EventWriter(tmp_path, "m", "outcomes")
    with pytest.raises(EventsUnwritable, match="1 event"):
        writer.append([told(1)])
    assert (writer.written, writer.failed) == (0, 1)


@pytest.mark.parametrize("name", ["../m", "", "a/b", ".hidden", "a b"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        EventWriter(tmp_path, name, "requests")


_WRITE_FOREVER = """
import sys
from pathlib import Path
from understudy.events.lines import OutcomeLine
from understudy.events.writer import EventWriter
writer = EventWriter(Path(sys.argv[1]), "m", "outcomes", segment_bytes=50_000)
number = 0
while True:
    writer.append([OutcomeLine(f"e{number + part}", 1.0, None, 5.0, 6.0) for part in range(10)])
    number += 10
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _WRITE_FOREVER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    for _ in range(300):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    acknowledged = 3000 + 10 * len(process.stdout.read().split())
    process.wait()
    process.stdout.close()
    complete = [line for path in segments(tmp_path) for line in path.read_text().split("\n")[:-1]]
    assert [json.loads(line)["event_id"] for line in complete] == [f"e{n}" for n in range(len(complete))]
    assert len(complete) >= acknowledged


def pseudonym(unit: str, key: bytes) -> str | None:
    (found,) = pseudonyms([unit], key)
    return found


def test_units_have_their_pseudonyms_in_order_and_no_unit_has_none() -> None:
    key = b"k" * 16
    assert pseudonyms(["a", "", "b"], key) == [pseudonym("a", key), None, pseudonym("b", key)]


def test_the_same_unit_has_the_same_pseudonym_under_one_key_only() -> None:
    key, other = b"k" * 16, b"o" * 16
    assert pseudonym("N14228", key) == pseudonym("N14228", key)
    assert len({pseudonym("N14228", key), pseudonym("N14229", key), pseudonym("N14228", other)}) == 3
    assert len(str(pseudonym("N14228", key))) == 32


def test_long_keys_are_used_to_their_end() -> None:
    start = b"s" * 64
    assert pseudonym("u", start + b"a") != pseudonym("u", start + b"b") != pseudonym("u", start)


def test_the_pseudonym_of_a_known_unit_never_changes() -> None:
    # Pinned: units would lose their history if this moved.
    assert pseudonym("N14228", b"0123456789abcdef") == "5750f0790da7650ebdd57a67eec6cb35"
