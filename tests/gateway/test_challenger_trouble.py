from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import AWKWARD, Registered, logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.exposure import Exposure

ROWS = [row(number) for number in range(12)]

REASONS = {
    "slow": "Timeout: no answer within 0.5 s",
    "raising": "ValueError: cannot score",
    "not_a_number": "NotFinite",
    "short": "WrongShape: 13 answers for 12 row(s)",
    "other_shape": "WrongShape",
}


def champions_answer(gateway: RunningGateway, expose: Callable[..., Exposure]) -> Any:
    expose()
    return gateway.client.post("/invocations", json=split(ROWS)).json()


@pytest.mark.parametrize("behaviour", AWKWARD)
@pytest.mark.parametrize("percent", [50.0, 100.0])
def test_the_champion_answers_for_a_challenger_in_trouble_and_the_event_says_why(
    gateway: RunningGateway,
    expose: Callable[..., Exposure],
    registered: Registered,
    behaviour: str,
    percent: float,
) -> None:
    expected = champions_answer(gateway, expose)
    expose(challenger=registered.awkward[behaviour], percent=percent)
    answer = gateway.client.post("/invocations", json=split(ROWS))
    assert (answer.status_code, answer.json()) == (200, expected)
    assert answer.headers["x-understudy-version"] == registered.good
    assert "challenger" in answer.headers["x-understudy-arm"].split(",")
    events = [event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"]]
    assert len(events) == len(ROWS)
    reason = REASONS[behaviour]
    if behaviour == "short":
        reason = "WrongShape"
    for event in events:
        assert event["version"] == registered.good
        assert event["fallback"] is (event["arm"] == "challenger")
        assert event["prediction"] is not None
        assert event["cpu_ms"] > 0
        assert (event["error"] or "").startswith(reason) if event["fallback"] else event["error"] is None


def test_a_challenger_that_cannot_be_loaded_is_answered_by_the_champion_and_named_in_status(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expected = champions_answer(gateway, expose)
    expose(challenger=registered.broken, percent=100.0)
    answer = gateway.client.post("/invocations", json=split(ROWS))
    assert (answer.status_code, answer.json()) == (200, expected)
    status = gateway.status()
    assert f"Version {registered.broken} of delay cannot be loaded" in status["challenger_error"]
    assert status["loaded"] == [registered.good]
    assert status["ready"] is True
    events = [event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"]]
    assert {event["fallback"] for event in events if event["arm"] == "challenger"} == {True}
    fallbacks = next(
        line
        for line in gateway.client.get("/metrics").text.splitlines()
        if line.startswith("understudy_row_errors_total")
    )
    assert float(fallbacks.split()[1]) > 0


def test_a_version_that_does_not_exist_is_a_challenger_that_cannot_be_loaded(
    gateway: RunningGateway, expose: Callable[..., Exposure]
) -> None:
    expose(challenger="999", percent=100.0)
    assert gateway.client.post("/invocations", json=split(ROWS)).status_code == 200
    assert "999" in gateway.status()["challenger_error"]


def test_a_hanging_challenger_costs_no_answer_and_does_not_hold_up_the_next_one(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.awkward["slow"], percent=100.0)
    before = len(logged(gateway))

    def ask(number: int) -> tuple[int, str]:
        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            answer = client.post("/invocations", json=split([row(number)]))
            return answer.status_code, answer.headers["x-understudy-version"]

    with ThreadPoolExecutor(24) as threads:
        answers = list(threads.map(ask, range(120)))
    assert set(answers) == {(200, registered.good)}
    events = [event for event in logged(gateway)[before:] if event["arm"] == "challenger"]
    assert {event["fallback"] for event in events} == {True}
    assert {event["error"].partition(":")[0] for event in events} == {"Timeout", "BreakerOpen"}
    assert "BreakerOpen: 20 of the last 20 calls failed (Timeout 20)" in {event["error"] for event in events}
    assert gateway.status()["breaker"]["state"] == "open"
    opened = [line for line in gateway.log.read_text().splitlines() if "BREAKER_OPEN" in line]
    assert len(opened) == 1
    # The hanging version still has its calls to finish; the next one has a process and a breaker of its own.
    expose(challenger=registered.better, percent=100.0)
    answer = gateway.client.post("/invocations", json=split([row(0), row(1), row(2)]))
    assert answer.headers["x-understudy-version"] == registered.better
    assert gateway.status()["breaker"] == {"state": "closed", "opened": 0, "reason": None}


def test_a_hanging_champion_does_not_hold_up_the_version_that_replaces_it(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    finished: list[str] = []

    def ask() -> int:
        with httpx.Client(base_url=gateway.url, timeout=60) as client:
            status = client.post("/invocations", json=split([row(1)])).status_code
            finished.append("slow")
            return status

    expose(champion=registered.awkward["slow"])
    with ThreadPoolExecutor(3) as threads:
        asked = [threads.submit(ask) for _ in range(3)]
        wait_until(lambda: gateway.status()["under_way"] == 3, "three requests under way")
        expose()
        answer = gateway.client.post("/invocations", json=split([row(1)]))
        finished.append("good")
        assert answer.headers["x-understudy-version"] == registered.good
    assert finished[0] == "good"
    assert {one.result() for one in asked} == {200}


def test_the_mirror_scores_the_champions_rows_out_of_the_requests_path(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    exposure = expose(challenger=registered.better, mirror=True, run_id="delay_test-v2-1")
    expose_better = gateway.client.post("/invocations", json=split(ROWS))
    assert expose_better.headers["x-understudy-arm"] == "unexposed"
    assert expose_better.headers["x-understudy-version"] == registered.good
    request_id = expose_better.headers["x-request-id"]

    def mirrored() -> list[dict[str, Any]]:
        return [event for event in logged(gateway, "mirrors") if event["request_id"] == request_id]

    events = wait_until(mirrored, "the mirrored events")
    expose(champion=registered.better)
    direct = gateway.client.post("/invocations", json=split(ROWS)).json()["predictions"]
    assert [event["prediction"] for event in events] == [answer[1] for answer in direct]
    assert [event["event_id"] for event in events] == [one["event_id"] for one in ROWS]
    assert {(event["version"], event["run"], event["error"]) for event in events} == {
        (registered.better, exposure.run_id, None)
    }


def test_a_mirror_in_trouble_drops_and_counts_but_nobody_waits_for_it(
    gateway_with: Callable[..., Any], registered: Registered
) -> None:
    from understudy.exposure import publish

    with gateway_with("--mirror-queue", "2") as slow:
        exposure = Exposure(
            model="delay",
            generation=1,
            champion=registered.good,
            challenger=registered.awkward["slow"],
            mirror=True,
        )
        publish(slow.home / "flags.json", [exposure])
        slow.wait_for_generation(1)
        started = time.monotonic()
        for _ in range(10):
            assert slow.client.post("/invocations", json=split(ROWS)).status_code == 200
        assert time.monotonic() - started < 5  # one call of the mirrored model alone takes as long
        assert slow.status()["mirror"]["dropped"] >= 7 * len(ROWS)
        assert "understudy_mirror_dropped_rows 0.0" not in slow.client.get("/metrics").text


def test_a_raising_mirror_is_logged_as_an_error_of_the_challenger(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.awkward["raising"], mirror=True)
    request_id = gateway.client.post("/invocations", json=split(ROWS)).headers["x-request-id"]
    events = wait_until(
        lambda: [event for event in logged(gateway, "mirrors") if event["request_id"] == request_id],
        "the mirrored events",
    )
    assert {event["prediction"] for event in events} == {None}
    assert all(event["error"].startswith("ValueError: cannot score") for event in events)


def test_a_failing_champion_is_an_error_in_mlflows_shape_and_in_the_log(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(champion=registered.awkward["raising"])
    answer = gateway.client.post("/invocations", json=split(ROWS))
    assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
    assert "Traceback" not in answer.text
    events = [event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"]]
    assert len(events) == len(ROWS)
    assert {(event["prediction"], event["cpu_ms"], event["arm"]) for event in events} == {
        (None, None, "unexposed")
    }
    assert all(event["error"].startswith("ValueError") for event in events)


def test_nothing_private_is_in_any_log(gateway: RunningGateway) -> None:
    """The last test of the module: everything above has run, the models that quote their input too."""
    files = [path for path in gateway.home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" for path in files)
    for path in files:
        content = path.read_bytes()
        for number in range(12):
            assert f"Captain-{number:05d}".encode() not in content
            assert f"N{number:05d}".encode() not in content
