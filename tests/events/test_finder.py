"""Events are found by any of their ids, wherever in the log they lie, and only by the whole id."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.logged import request_of
from understudy.events.finder import find_events
from understudy.events.lines import MirroredRow, OutcomeLine, RequestLine
from understudy.events.writer import EventWriter

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def served(number: int, *names: str, trace: str | None = None, note: str = "x") -> RequestLine:
    shared = {
        "request_id": f"request-{number}", "trace_id": trace, "received_at": float(number), "model": "m", "run": "run-1",
        "stage": 1, "generation": 7, "event_time": 5.0, "arm": "control", "version": "1",
        "latency_ms": 3.0, "fallback": False, "cohorts": {"origin": "JFK"}, "features": {"note": note},
    }  # fmt: skip
    return request_of(*(shared | {"event_id": name} for name in names))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Two models, several segments, ids that contain each other, an id that stands in a feature, and a torn end."""
    requests = EventWriter(tmp_path, "m", "requests", segment_bytes=600)
    for number in range(1, 13):
        requests.append(
            [served(number, f"event-{number}", f"twin-{number}", trace=TRACE if number > 10 else None)]
        )
    requests.append([served(20, "event-20", note="event-1")])
    requests.close()
    EventWriter(tmp_path, "other", "requests").append([served(3, 'odd "name" ü')])
    EventWriter(tmp_path, "m", "mirrors").append(
        [MirroredRow("event-4", "request-4", TRACE, 9.0, 5.0, "m", "run-1", "2", 0.25, None, 2.0, None)]
    )
    EventWriter(tmp_path, "m", "outcomes").append([OutcomeLine("event-4", 1.0, None, 6.0, 8.0)])
    newest = sorted((tmp_path / "m" / "requests").glob("*.jsonl"))
    assert len(newest) > 2
    with newest[-1].open("ab") as stream:
        stream.write(b'{"request_id":"request-99","event_id":["event-99"')
    (tmp_path / "m" / "requests" / "empty.jsonl").touch()
    return tmp_path


def names(found: list[dict[str, object]]) -> list[object]:
    return [event["event_id"] for event in found]


def test_a_request_is_found_with_all_its_events_and_an_event_alone(log: Path) -> None:
    assert names(find_events(log, "requests", ["request-1"])) == ["event-1", "twin-1"]
    (event,) = find_events(log, "requests", ["event-1"])
    assert (event["request_id"], event["run"], event["generation"], event["arm"]) == (
        "request-1", "run-1", 7, "control",
    )  # fmt: skip
    assert not {"features", "columns"} & set(event)


def test_a_trace_holds_several_requests_and_what_the_mirror_made_of_them(log: Path) -> None:
    assert names(find_events(log, "requests", [TRACE])) == ["event-11", "twin-11", "event-12", "twin-12"]
    (mirrored,) = find_events(log, "mirrors", [TRACE])
    assert (mirrored["event_id"], mirrored["version"], mirrored["prediction"]) == ("event-4", "2", 0.25)


def test_an_outcome_is_found_by_its_event_and_names_its_model(log: Path) -> None:
    (outcome,) = find_events(log, "outcomes", ["event-4", "event-5"])
    assert (outcome["model"], outcome["outcome"], outcome["values"]) == ("m", 1.0, None)


def test_an_id_that_must_be_escaped_is_found_in_whatever_model_it_is(log: Path) -> None:
    (event,) = find_events(log, "requests", ['odd "name" ü'])
    assert event["model"] == "m"  # as the line says; the folder only stands in where a line names none


@pytest.mark.parametrize("wanted", ["event", "event-99", "nothing", "x", "JFK", "run-1", ""])
def test_nothing_else_is_found(log: Path, wanted: str) -> None:
    assert find_events(log, "requests", [wanted]) == []
    assert find_events(log / "nowhere", "requests", [wanted]) == []


def test_no_ids_find_nothing(log: Path) -> None:
    assert find_events(log, "requests", []) == []
