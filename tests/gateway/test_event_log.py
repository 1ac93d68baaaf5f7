from __future__ import annotations

import json
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway.conftest import MODEL, Registered, logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.exposure import Exposure


def test_a_killed_gateway_leaves_complete_lines_and_the_next_one_goes_on_in_a_new_segment(
    gateway_with: Callable[..., Any], tmp_path: Path
) -> None:
    with gateway_with(home=tmp_path) as first:
        answered = [
            first.client.post("/invocations", json=split([row(number), row(number + 1)])).headers[
                "x-request-id"
            ]
            for number in range(50)
        ]
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        assert [event["request_id"] for event in logged(first)] == [one for one in answered for _ in range(2)]
    segment = next((tmp_path / "events" / MODEL / "requests").glob("*.jsonl"))
    with segment.open("ab") as stream:
        stream.write(b'{"event_id": "torn')
    torn = segment.read_bytes()
    with gateway_with(home=tmp_path) as second:
        assert second.client.post("/invocations", json=split([row(1)])).status_code == 200
    assert segment.read_bytes() == torn
    assert len(list(segment.parent.glob("*.jsonl"))) == 2


def test_an_event_without_a_name_has_the_id_that_the_answer_tells_unless_the_client_may_use_that_again(
    gateway: RunningGateway,
) -> None:
    nameless = [
        {name: value for name, value in row(number).items() if name != "event_id"} for number in (1, 2)
    ]
    answer = gateway.client.post("/invocations", json=split(nameless))
    told = answer.headers["x-request-id"]
    assert [event["event_id"] for event in logged(gateway)[-2:]] == [told, f"{told}-1"]
    for _ in range(2):
        gateway.client.post("/invocations", json=split(nameless), headers={"x-request-id": "mine"})
    events = logged(gateway)[-4:]
    assert {event["request_id"] for event in events} == {"mine"}
    assert len({event["event_id"] for event in events}) == 4


def test_a_polite_stop_answers_what_is_under_way_and_ends_with_success(
    gateway_with: Callable[..., Any],
) -> None:
    for request in (signal.SIGTERM, signal.SIGINT):
        with gateway_with() as running:
            running.client.post("/invocations", json=split([row(1)]))
            running.process.send_signal(request)
            assert running.process.wait(20) in (0, -request)
            assert "Traceback" not in running.log.read_text()
            assert len(logged(running)) == 1


def test_with_a_full_disk_everybody_gets_the_champion_until_there_is_space_again(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    rows = [row(number) for number in range(12)]
    expose()
    champions = gateway.client.post("/invocations", json=split(rows)).json()
    expose(challenger=registered.better, percent=100.0)
    challengers = gateway.client.post("/invocations", json=split(rows)).json()
    assert challengers != champions
    before = len(logged(gateway))
    limits = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    try:
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (16, limits[1]))
        for _ in range(3):
            answer = gateway.client.post("/invocations", json=split(rows))
            assert (answer.status_code, answer.json()) == (200, champions)
            assert answer.headers["x-understudy-arm"] == "unexposed"
        status = gateway.status()
        assert "File too large" in status["events"]["error"]
        assert status["exposed"] is False
        assert status["events"]["failed"] >= 36
        refused = gateway.client.post("/outcomes", json=outcomes_of("flight-1"))
        assert (refused.status_code, refused.json()["error_code"]) == (503, "TEMPORARILY_UNAVAILABLE")
    finally:
        resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, limits)
    assert len(logged(gateway)) == before
    answer = wait_until(
        lambda: (
            answer
            if (answer := gateway.client.post("/invocations", json=split(rows))).json() == challengers
            else None
        ),
        "the return of exposure",
    )
    assert gateway.status()["events"]["error"] is None
    assert "challenger" in answer.headers["x-understudy-arm"]
    assert gateway.client.post("/outcomes", json=outcomes_of("flight-1")).status_code == 200


def outcomes_of(*event_ids: str, **changes: Any) -> dict[str, Any]:
    return {
        "outcomes": [
            {"event_id": event_id, "outcome": 1, "occurred_at": 1_370_003_600.5} | changes
            for event_id in event_ids
        ]
    }


def test_outcomes_are_logged_as_they_came(gateway: RunningGateway) -> None:
    before = len(logged(gateway, "outcomes"))
    counted = gateway.status()["events"]["outcomes"]
    answer = gateway.client.post("/outcomes", json=outcomes_of("flight-1", "flight-2", "flight-1"))
    assert (answer.status_code, answer.json()) == (200, {"accepted": 3})
    events = logged(gateway, "outcomes")[before:]
    assert [event["event_id"] for event in events] == ["flight-1", "flight-2", "flight-1"]
    assert {(event["outcome"], event["occurred_at"]) for event in events} == {(1.0, 1_370_003_600.5)}
    assert events[0].keys() == {"event_id", "outcome", "values", "occurred_at", "received_at"}
    assert {event["values"] for event in events} == {None}
    assert gateway.status()["events"]["outcomes"] == counted + 3
    assert gateway.client.post("/outcomes", json={"outcomes": []}).json() == {"accepted": 0}


def test_an_outcome_may_carry_named_numbers_instead_of_or_beside_its_own(gateway: RunningGateway) -> None:
    before = len(logged(gateway, "outcomes"))
    most = {f"v{number}_{'x' * 60}"[:60]: number for number in range(32)}
    body = {
        "outcomes": [
            {"event_id": "a", "values": {"revenue": 3.25, "returned": True, "kept": False}, "occurred_at": 1},
            {"event_id": "b", "outcome": None, "values": {"revenue": -2}, "occurred_at": 1},
            {"event_id": "c", "outcome": 1, "values": most, "occurred_at": 1},
            {"event_id": "d", "outcome": 0, "values": {}, "occurred_at": 1},
            {"event_id": "e", "outcome": 0, "values": None, "occurred_at": 1},
        ]
    }
    answer = gateway.client.post("/outcomes", json=body)
    assert (answer.status_code, answer.json()) == (200, {"accepted": 5})
    events = logged(gateway, "outcomes")[before:]
    assert [(event["event_id"], event["outcome"], event["values"]) for event in events] == [
        ("a", None, {"revenue": 3.25, "returned": 1.0, "kept": 0.0}),
        ("b", None, {"revenue": -2.0}),
        ("c", 1.0, most),
        ("d", 0.0, None),
        ("e", 0.0, None),
    ]
    assert all(type(value) is float for event in events for value in (event["values"] or {}).values())


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"event_id": 7}, "event_id"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "a\nb"}, "event_id"),
        ({"outcome": None}, "outcome"),
        ({"outcome": "1"}, "outcome"),
        ({"outcome": True}, "outcome"),
        ({"outcome": float("nan")}, "outcome"),
        ({"outcome": float("inf")}, "outcome"),
        ({"outcome": 10**400}, "outcome"),
        ({"occurred_at": "today"}, "occurred_at"),
        ({"occurred_at": []}, "occurred_at"),
        ({"outcome": None, "values": {}}, "outcome"),
        ({"outcome": None, "values": None}, "outcome"),
        ({"outcome": "1", "values": {"revenue": 1}}, "outcome"),
        ({"values": []}, "values"),
        ({"values": 3}, "values"),
        ({"values": False}, "values"),
        ({"values": "revenue"}, "values"),
        ({"values": {"revenue": None}}, "values.revenue"),
        ({"values": {"revenue": "3"}}, "values.revenue"),
        ({"values": {"revenue": [3]}}, "values.revenue"),
        ({"values": {"revenue": {"eur": 3}}}, "values.revenue"),
        ({"values": {"first": 1, "revenue": float("nan")}}, "values.revenue"),
        ({"values": {"revenue": float("-inf")}}, "values.revenue"),
        ({"values": {"revenue": 10**400}}, "values.revenue"),
        ({"values": {"": 1}}, "values"),
        ({"values": {"Revenue": 1}}, "values"),
        ({"values": {"2nd": 1}}, "values"),
        ({"values": {"a-b": 1}}, "values"),
        ({"values": {"a\n": 1}}, "values"),
        ({"values": {"a" * 61: 1}}, "values"),
        ({"values": {f"v{number}": 1 for number in range(33)}}, "values"),
    ],
)
def test_one_bad_outcome_refuses_the_whole_list_and_is_named(
    gateway: RunningGateway, changes: dict[str, Any], field: str
) -> None:
    before = len(logged(gateway, "outcomes"))
    body = outcomes_of("flight-1")
    body["outcomes"] += outcomes_of("flight-2", **changes)["outcomes"] + [{}]
    answer = gateway.client.post("/outcomes", content=json.dumps(body))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert f"Item 1 of `outcomes`: `{field}`" in answer.json()["message"]
    assert len(logged(gateway, "outcomes")) == before


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"outcomes": {}}', b'{"outcomes": [1]}', b"\xff"])
def test_a_body_that_is_no_list_of_outcomes_is_refused(gateway: RunningGateway, body: bytes) -> None:
    answer = gateway.client.post("/outcomes", content=body)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
