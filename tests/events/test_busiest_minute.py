"""What a burst is made of: recent requests as they were logged, and how fast they came, compacted or not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from tests.events.test_reader import MODEL, request
from tests.logged import request_of
from understudy.events.compaction import compact
from understudy.events.lookups import answered_requests, busiest_minute
from understudy.events.writer import EventWriter


def log(root: Path, *requests: list[dict[str, Any]]) -> None:
    """Write requests of one or more rows, as one gateway does."""
    writer = EventWriter(root, MODEL, "requests")
    for rows in requests:
        writer.append([request_of(*rows)])
    writer.close()


def at(second: float, number: int) -> list[dict[str, Any]]:
    return [request(number, received_at=second, request_id=f"r{number}")]


@pytest.fixture(params=["as segments", "compacted", "half of it compacted"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Return how a log is kept by the time it is read."""

    def keep(root: Path) -> None:
        if request.param != "as segments":
            compact(root / MODEL, now=time.time() + 1, quiet=0)

    keep.half = request.param.startswith("half")  # type: ignore[attr-defined]
    return keep


def test_nothing_logged_is_no_traffic(tmp_path: Path) -> None:
    assert answered_requests(tmp_path, MODEL, 10) == []
    assert busiest_minute(tmp_path, MODEL) == 0


def test_the_busiest_sixty_seconds_count_wherever_a_minute_begins(tmp_path: Path, kept: Any) -> None:
    quiet = [at(1000.0 + 10 * number, number) for number in range(100)]
    # 30 of them before a full minute of the clock and 31 after it.
    burst = [at(1_740 - 29.5 + number, 1000 + number) for number in range(61)]
    log(tmp_path, *quiet)
    kept(tmp_path)
    log(tmp_path, *burst)
    if not kept.half:
        kept(tmp_path)
    assert busiest_minute(tmp_path, MODEL) == 60 + 6


def test_a_request_counts_once_however_many_rows_it_has_and_rows_stay_together(
    tmp_path: Path, kept: Any
) -> None:
    batch = [request(number, received_at=1000.0, request_id="batch") for number in range(5)]
    log(tmp_path, batch, at(1001.0, 9))
    kept(tmp_path)
    assert busiest_minute(tmp_path, MODEL) == 2
    newest, older = answered_requests(tmp_path, MODEL, 10)
    assert [row["distance"] for row in newest] == [9]
    assert sorted(row["distance"] for row in older) == [0, 1, 2, 3, 4]


def test_a_client_that_repeats_its_request_ids_still_counts(tmp_path: Path) -> None:
    log(tmp_path, *([request(n, received_at=1000.0 + n, request_id="same")] for n in range(7)))
    assert busiest_minute(tmp_path, MODEL) == 7
    assert len(answered_requests(tmp_path, MODEL, 10)) == 7


def test_what_came_more_than_a_day_before_the_newest_does_not_count(tmp_path: Path, kept: Any) -> None:
    log(tmp_path, *(at(1000.0, number) for number in range(50)))
    kept(tmp_path)
    log(tmp_path, *(at(1000.0 + 86_400 + number, 100 + number) for number in range(3)))
    if not kept.half:
        kept(tmp_path)
    assert busiest_minute(tmp_path, MODEL) == 3


def test_values_come_back_as_they_were_sent(tmp_path: Path, kept: Any) -> None:
    features = {"whole": 7, "none": None, "text": "7", "long": 12345678901234567, "flag": True, "é\"'": 0.1}
    log(tmp_path, [request(1, features=features)], [request(2, features=features | {"whole": None})])
    kept(tmp_path)
    newest, older = answered_requests(tmp_path, MODEL, 10)
    assert older == [features]
    assert newest == [features | {"whole": None}]
    assert type(older[0]["whole"]) is int


def test_requests_that_got_no_answer_or_have_no_named_features_are_left_out(
    tmp_path: Path, kept: Any
) -> None:
    log(
        tmp_path,
        [request(1, error="ValueError", prediction=None)],
        [request(2, error="Timeout", fallback=True)],
        [request(3, features={})],
        [request(4)],
    )
    kept(tmp_path)
    assert [rows[0]["distance"] for rows in answered_requests(tmp_path, MODEL, 10)] == [4, 2]


def test_the_newest_come_first_up_to_the_limit_of_rows(tmp_path: Path) -> None:
    log(tmp_path, *(at(1000.0 + number, number) for number in range(20)))
    assert [rows[0]["distance"] for rows in answered_requests(tmp_path, MODEL, 3)] == [19, 18, 17]


def test_lines_that_are_no_requests_do_no_harm(tmp_path: Path) -> None:
    log(tmp_path, at(1000.0, 1))
    (segment,) = (tmp_path / MODEL / "requests").glob("*.jsonl")
    segment.write_bytes(segment.read_bytes() + b'garbage\n{"request_id": 5}\n{"rows": 7}\n{"torn')
    assert busiest_minute(tmp_path, MODEL) == 1
    assert len(answered_requests(tmp_path, MODEL, 10)) == 1
