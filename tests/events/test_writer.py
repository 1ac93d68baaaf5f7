from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from understudy.events.pseudonym import pseudonym
from understudy.events.writer import EventsUnwritable, EventWriter


def segments(root: Path) -> list[Path]:
    return sorted((root / "m" / "requests").glob("*.jsonl"))


def events(root: Path) -> list[dict[str, object]]:
    return [json.loads(line) for path in segments(root) for line in path.read_text().splitlines()]


def test_events_are_complete_lines_in_the_order_they_came(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "requests", "w")
    writer.append([{"n": 1}, {"n": 2}])
    writer.append([{"n": 3}])
    assert events(tmp_path) == [{"n": 1}, {"n": 2}, {"n": 3}]
    assert writer.written == 3


def test_a_full_segment_is_followed_by_the_next(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "requests", "w", segment_bytes=40)
    for number in range(10):
        writer.append([{"number": number}])
    assert len(segments(tmp_path)) == 4
    assert [event["number"] for event in events(tmp_path)] == list(range(10))


def test_nothing_is_created_before_the_first_event(tmp_path: Path) -> None:
    EventWriter(tmp_path, "m", "requests", "w").append([])
    assert not (tmp_path / "m").exists()


def test_a_torn_segment_of_an_earlier_process_is_never_appended_to(tmp_path: Path) -> None:
    EventWriter(tmp_path, "m", "requests", "w").append([{"n": 1}])
    torn = segments(tmp_path)[0]
    with torn.open("ab") as stream:
        stream.write(b'{"n": 2, "ha')
    before = torn.read_bytes()
    EventWriter(tmp_path, "m", "requests", "w").append([{"n": 3}])
    assert torn.read_bytes() == before
    assert json.loads(segments(tmp_path)[1].read_text()) == {"n": 3}


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
        ("\ud800", "\ud800"),
        (True, True),
    ],
)
def test_every_value_becomes_one_line_of_strict_json(tmp_path: Path, value: object, kept: object) -> None:
    EventWriter(tmp_path, "m", "requests", "w").append([{"value": value}])
    text = segments(tmp_path)[0].read_text()
    assert text.count("\n") == 1
    assert "NaN" not in text
    assert json.loads(text) == {"value": kept}


def test_threads_never_mix_their_lines(tmp_path: Path) -> None:
    writer = EventWriter(tmp_path, "m", "requests", "w", segment_bytes=5_000)

    def work(name: int) -> None:
        for number in range(100):
            writer.append([{"thread": name, "number": number, "part": part} for part in range(3)])

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(events(tmp_path)) == writer.written == 1200


_FULL_DISK = """
import json, resource, sys
from pathlib import Path
from understudy.events.writer import EventsUnwritable, EventWriter
writer = EventWriter(Path(sys.argv[1]), "m", "requests", "w")
writer.append([{"n": 0}])
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (30, hard))
for _ in range(3):
    try:
        writer.append([{"n": 1, "text": "x" * 200}])
    except EventsUnwritable as error:
        print(error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
writer.append([{"n": 2}])
print(writer.written, writer.failed)
"""


def test_a_full_disk_leaves_complete_lines_and_writing_goes_on_when_there_is_space(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["EVENTS_UNWRITABLE"] * 3 + ["2", "3"]
    assert events(tmp_path) == [{"n": 0}, {"n": 2}]
    # The repeated attempts share one empty segment instead of leaving one each.
    assert len(segments(tmp_path)) == 2


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "m").write_text("in the way")
    writer = EventWriter(tmp_path, "m", "requests", "w")
    with pytest.raises(EventsUnwritable, match="1 event"):
        writer.append([{"n": 1}])
    assert (writer.written, writer.failed) == (0, 1)


@pytest.mark.parametrize("name", ["../m", "", "a/b", ".hidden", "a b"])
def test_names_that_would_leave_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="path"):
        EventWriter(tmp_path, name, "requests", "w")


_WRITE_FOREVER = """
import sys
from pathlib import Path
from understudy.events.writer import EventWriter
writer = EventWriter(Path(sys.argv[1]), "m", "requests", "w", segment_bytes=200_000)
number = 0
while True:
    writer.append([{"number": number + part, "text": "x" * 300} for part in range(10)])
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
    numbers = [json.loads(line)["number"] for line in complete]
    assert numbers == list(range(len(numbers)))
    assert len(numbers) >= acknowledged


def test_the_same_unit_has_the_same_pseudonym_under_one_key_only() -> None:
    key, other = b"k" * 16, b"o" * 16
    assert pseudonym("N14228", key) == pseudonym("N14228", key)
    assert len({pseudonym("N14228", key), pseudonym("N14229", key), pseudonym("N14228", other)}) == 3
    assert len(pseudonym("N14228", key)) == 32


def test_long_keys_are_used_to_their_end() -> None:
    start = b"s" * 64
    assert pseudonym("u", start + b"a") != pseudonym("u", start + b"b") != pseudonym("u", start)


def test_the_pseudonym_of_a_known_unit_never_changes() -> None:
    # Pinned: units would lose their history if this moved.
    assert pseudonym("N14228", b"0123456789abcdef") == "5750f0790da7650ebdd57a67eec6cb35"
