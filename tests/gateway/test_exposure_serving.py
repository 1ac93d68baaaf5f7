from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tests.gateway.conftest import MODEL, Registered, logged, row, split
from tests.servers import RunningGateway, wait_until
from understudy.exposure import Exposure, publish


def send(gateway: RunningGateway, rows: list[dict[str, Any]]) -> Any:
    answer = gateway.client.post("/invocations", json=split(rows))
    assert answer.status_code == 200, answer.text
    return answer


def arms_of(gateway: RunningGateway, request_id: str) -> dict[str, str]:
    return {event["event_id"]: event["arm"] for event in logged(gateway) if event["request_id"] == request_id}


def test_without_a_document_the_registrys_champion_serves_everybody(
    gateway: RunningGateway, registered: Registered
) -> None:
    status = gateway.status()
    assert (status["generation"], status["champion"], status["percent"]) == (0, registered.good, 0.0)
    assert status["ready"] is True
    assert status["loaded"] == [registered.good]
    answer = send(gateway, [row(1)])
    assert answer.headers["x-understudy-arm"] == "unexposed"
    assert answer.headers["x-understudy-version"] == registered.good


def arms_of_flagds_provider(
    gateway: RunningGateway, rows: list[dict[str, Any]], *columns: str
) -> dict[str, str]:
    """Ask flagd's own provider about each row's unit; these columns go into the context."""
    from openfeature import api
    from openfeature.contrib.provider.flagd import FlagdProvider
    from openfeature.contrib.provider.flagd.config import ResolverType
    from openfeature.evaluation_context import EvaluationContext

    provider = FlagdProvider(
        resolver_type=ResolverType.FILE, offline_flag_source_path=str(gateway.home / "flags.json")
    )
    api.set_provider_and_wait(provider)
    try:
        client = api.get_client()
        return {
            one["event_id"]: str(
                client.get_string_details(
                    MODEL,
                    "none",
                    EvaluationContext(one["tailnum"], {name: one[name] for name in columns if name in one}),
                ).variant
            )
            for one in rows
        }
    finally:
        api.shutdown()


def test_arms_are_those_of_flagds_own_provider_for_two_thousand_units(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.better, percent=25.0)
    rows = [row(number) for number in range(2000)]
    ours = arms_of(gateway, send(gateway, rows).headers["x-request-id"])
    assert ours == arms_of_flagds_provider(gateway, rows)
    assert set(ours.values()) == {"challenger", "control", "unexposed"}


def test_a_contained_cohort_gets_the_champion_here_and_from_flagds_provider_and_nobody_else_moves(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    rows = [row(number) for number in range(600)]
    expose(challenger=registered.better, percent=50.0)
    free = arms_of(gateway, send(gateway, rows).headers["x-request-id"])
    assert gateway.status()["contained"] == []
    exposure = expose(challenger=registered.better, percent=50.0, contained=("origin=JFK",))
    assert gateway.status()["contained"] == ["origin=JFK"]
    answer = send(gateway, rows)
    ours = arms_of(gateway, answer.headers["x-request-id"])
    assert ours == arms_of_flagds_provider(gateway, rows, "origin")
    assert set(arms_of_flagds_provider(gateway, rows).values()) == {"unexposed"}
    for one in rows:
        expected = "unexposed" if one["origin"] == "JFK" else free[one["event_id"]]
        assert ours[one["event_id"]] == expected
    events = [event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"]]
    assert {event["version"] for event in events if event["cohorts"]["origin"] == "JFK"} == {registered.good}
    assert {(event["run"], event["generation"]) for event in events} == {
        (exposure.run_id, exposure.generation)
    }
    assert {event["arm"] for event in events} == {"challenger", "control", "unexposed"}


def test_a_new_generation_is_followed_without_a_restart_and_an_exposed_unit_never_moves(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    seen: set[str] = set()
    process = gateway.process.pid
    for percent in (5.0, 25.0, 50.0, 100.0):
        exposure = expose(challenger=registered.better, percent=percent)
        answer = send(gateway, [row(number) for number in range(500)])
        arms = arms_of(gateway, answer.headers["x-request-id"])
        exposed = {event_id for event_id, arm in arms.items() if arm == "challenger"}
        assert seen <= exposed
        assert answer.headers["x-understudy-generation"] == str(exposure.generation)
        seen = exposed
    assert len(seen) > 450
    assert gateway.process.pid == process
    expose(champion=registered.better)
    assert send(gateway, [row(1)]).headers["x-understudy-version"] == registered.better
    assert gateway.status()["loaded"] == [registered.better]


def test_events_say_what_was_served_to_whom(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    exposure = expose(challenger=registered.better, percent=50.0)
    before = time.time()
    answer = send(gateway, [row(number) for number in range(40)])
    events = [event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"]]
    assert [event["event_id"] for event in events] == [f"flight-{number}" for number in range(40)]
    version = {"challenger": registered.better, "control": registered.good, "unexposed": registered.good}
    for number, event in enumerate(events):
        assert event["prediction"] == answer.json()["predictions"][number][1]
        assert event["version"] == version[event["arm"]]
        assert event["event_time"] == 1_370_000_000.0 + number
        assert before <= event["received_at"] <= time.time()
        assert event["features"].keys() == {"origin", "distance", "hour"}
        assert event["cohorts"] == {"origin": row(number)["origin"]}
        assert (event["run"], event["stage"], event["generation"]) == (
            "delay_test-v2-1",
            1,
            exposure.generation,
        )
        assert (event["fallback"], event["error"], event["model"]) == (False, None, MODEL)
        assert event["latency_ms"] > 0
        assert event["cpu_ms"] > 0
    for answered in version.values():
        # One thread scored these rows in one call, and was not at it for longer than the caller waited.
        calls = [event for event in events if event["version"] == answered]
        assert sum(event["cpu_ms"] for event in calls) <= calls[0]["latency_ms"] + 0.001
        assert len(event["unit"]) == 32


def test_rows_without_unit_id_or_time_are_served_by_the_champion_and_logged(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.better, percent=100.0)
    rows = [row(1, tailnum=None, event_id=None, event_time=None), row(2, tailnum="", event_id=7)]
    bare = [{name: one[name] for name in ("origin", "distance", "hour")} for one in rows]
    for body in (rows, bare):
        answer = send(gateway, body)
        assert answer.headers["x-understudy-arm"] == "unexposed"
        events = [event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"]]
        assert [event["unit"] for event in events] == [None, None]
        assert len({event["event_id"] for event in events}) == 2
        assert all(event["event_id"] for event in events)
        assert all(event["event_time"] > 1e9 for event in events)


def test_a_lower_generation_a_torn_and_a_missing_document_change_nothing(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    path = gateway.home / "flags.json"
    exposure = expose(challenger=registered.better, percent=50.0)

    def complains(about: str) -> Any:
        return lambda: about in (gateway.status()["document_error"] or "")

    def still_served() -> bool:
        status = gateway.status()
        return (status["generation"], status["percent"]) == (exposure.generation, 50.0)

    publish(path, [replace(exposure, generation=exposure.generation - 1, percent=0.0, lease_expires_at=None)])
    wait_until(complains("went back"), "the refusal of a lower generation")
    assert still_served()
    for silently in ({"percent": 100.0}, {"contained": ("origin=JFK",)}):
        publish(path, [replace(exposure, **silently)])
        wait_until(complains("without a new generation"), "the refusal of a silent change")
        assert still_served()
        publish(path, [exposure])
        wait_until(lambda: gateway.status()["document_error"] is None, "the return of the document")
    path.write_text('{"flags": {"del')
    wait_until(complains("cannot be read"), "the refusal of a torn document")
    assert still_served()
    path.unlink()
    wait_until(complains("not there"), "the notice of a missing document")
    assert still_served()
    publish(path, [replace(exposure, model="another")])
    wait_until(complains("no flag for model"), "the notice of a missing flag")
    assert still_served()


def test_a_lapsed_lease_ends_exposure_and_a_renewal_of_the_same_generation_keeps_it(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    path = gateway.home / "flags.json"
    exposure = expose(challenger=registered.better, percent=100.0, lease_expires_at=int(time.time()) + 3)
    renewed = replace(exposure, lease_expires_at=int(time.time()) + 5)
    publish(path, [renewed])
    wait_until(lambda: gateway.status()["lease_expires_at"] == renewed.lease_expires_at, "the renewal")
    publish(path, [exposure])
    assert send(gateway, [row(1)]).headers["x-understudy-arm"] == "challenger"
    answer = wait_until(
        lambda: (
            answer if (answer := send(gateway, [row(1)])).headers["x-understudy-arm"] == "unexposed" else None
        ),
        "the end of the lease",
    )
    assert time.time() >= (renewed.lease_expires_at or 0)
    assert answer.headers["x-understudy-version"] == registered.good
    assert gateway.status()["exposed"] is False
    event = next(event for event in logged(gateway) if event["request_id"] == answer.headers["x-request-id"])
    assert (event["arm"], event["run"], event["stage"]) == ("unexposed", None, 0)


def test_exposure_ends_at_once_even_if_the_next_champion_cannot_be_loaded(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    exposure = expose(challenger=registered.better, percent=100.0)
    assert send(gateway, [row(1)]).headers["x-understudy-arm"] == "challenger"
    expose(wait=False, champion=registered.broken)
    wait_until(lambda: gateway.status()["exposed"] is False, "the end of exposure")
    assert send(gateway, [row(1)]).headers["x-understudy-version"] == registered.good
    status = wait_until(
        lambda: status if "cannot be loaded" in ((status := gateway.status())["waiting_for"] or "") else None,
        "the reason for waiting",
    )
    assert (status["generation"], status["percent"]) == (exposure.generation, 0.0)
    # The next document supersedes the one that could not be served.
    publish(
        gateway.home / "flags.json",
        [Exposure(model=MODEL, generation=exposure.generation + 2, champion=registered.good)],
    )
    gateway.wait_for_generation(exposure.generation + 2)


def test_no_request_is_lost_while_generations_change(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    import threading

    forget_from = len(logged(gateway))
    statuses: list[int] = []
    done = threading.Event()

    def keep_asking() -> None:
        import httpx

        with httpx.Client(base_url=gateway.url, timeout=30) as client:
            while not done.is_set():
                statuses.append(client.post("/invocations", json=split([row(5), row(6)])).status_code)

    asking = threading.Thread(target=keep_asking)
    asking.start()
    for champion in (registered.better, registered.good) * 3:
        expose(champion=champion)
    done.set()
    asking.join()
    assert len(statuses) > 20
    assert set(statuses) == {200}
    assert len(logged(gateway)) - forget_from == 2 * len(statuses)


def test_the_served_flags_come_with_an_etag(gateway: RunningGateway, expose: Callable[..., Exposure]) -> None:
    exposure = expose()
    answer = gateway.client.get("/flags")
    assert answer.json()["flags"][MODEL]["metadata"]["generation"] == exposure.generation
    again = gateway.client.get("/flags", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    expose()
    assert gateway.client.get("/flags", headers={"If-None-Match": answer.headers["etag"]}).status_code == 200


def test_metrics_count_rows_by_arm_and_version(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    exposure = expose(challenger=registered.better, percent=50.0)
    send(gateway, [row(number) for number in range(50)])
    text = gateway.client.get("/metrics").text
    assert f'understudy_rows_total{{arm="challenger",version="{registered.better}"}}' in text
    assert f"understudy_generation {exposure.generation:.1f}" in text
    assert "understudy_request_seconds_bucket" in text
    left = next(line for line in text.splitlines() if line.startswith("understudy_lease_left_seconds "))
    assert 0 < float(left.split()[1]) <= 600
