"""The metrics page: what a scraper reads, what each series means, and that all of it is documented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.gateway.conftest import Registered, row, split
from tests.servers import RunningGateway, wait_until
from understudy.exposure import Exposure
from understudy.gateway.metrics import BREAKER_STATES, BUCKETS, METRICS, Hosted, Loaded, Metrics, Reading

Page = dict[str, dict[frozenset[tuple[str, str]], float]]


def parsed(text: str) -> Page:
    """Return every sample by name and labels."""
    page: Page = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            page.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
    return page


def value(page: Page, name: str, **labels: str) -> float:
    return page[name][frozenset(labels.items())]


def page_of(metrics: Metrics) -> Page:
    return parsed(metrics.render().decode())


def test_every_metric_is_documented_and_every_documented_metric_is_there() -> None:
    full = Reading(
        generation=7,
        versions=[Loaded("1", "champion", "linear", "ab" * 32)],
        challenger=Hosted("2", None, up=True, starts=1, breaker="open", openings=1),
        mirror_rows={"scored": 1},
        events={"requests": 1},
        events_failed={"requests": 0},
        event_lag={"requests": 0.5},
    )
    metrics = Metrics(lambda: full)
    metrics.answered("control", "1", 3, 0.002, 0.001)
    metrics.unanswered("challenger", "2", "Timeout: no answer within 2 s")
    metrics.failed(400, "BAD_REQUEST")
    families = list(text_string_to_metric_families(metrics.render().decode()))
    own = {family.name: family for family in families if family.name.startswith("understudy_")}
    described = {one.name.removesuffix("_total"): one for one in METRICS}
    assert set(own) == set(described)
    for name, one in described.items():
        assert (own[name].type, own[name].documentation) == (one.kind, one.help)
        assert own[name].samples, name
        for sample in own[name].samples:
            assert set(sample.labels) - {"le"} == set(one.labels), name
    assert "process_cpu_seconds" in {family.name for family in families}


def test_a_request_is_counted_for_its_arm_and_falls_into_the_right_bucket() -> None:
    metrics = Metrics(Reading)
    for seconds in (0.0001, BUCKETS[0], BUCKETS[0] * 1.01, 0.003, 60.0):
        metrics.answered("challenger", "2", 10, seconds, 0.25)
    metrics.answered("control", "1", 1, 0.003, 0.0)
    page = page_of(metrics)
    mine = {"arm": "challenger", "version": "2"}
    assert value(page, "understudy_requests_total", **mine) == 5
    assert value(page, "understudy_rows_total", **mine) == 50
    assert value(page, "understudy_cpu_seconds_total", **mine) == 1.25
    assert value(page, "understudy_request_seconds_count", **mine) == 5
    below = [value(page, "understudy_request_seconds_bucket", **mine, le=str(bound)) for bound in BUCKETS]
    assert below[0] == 2  # a bound belongs to its bucket
    assert below == sorted(below)
    assert below[-1] == 4
    assert value(page, "understudy_request_seconds_bucket", **mine, le="+Inf") == 5
    assert value(page, "understudy_requests_total", arm="control", version="1") == 1


def test_a_model_that_makes_up_names_of_errors_does_not_make_up_series() -> None:
    metrics = Metrics(Reading)
    for number in range(500):
        metrics.unanswered("challenger", "2", f"Error{number}: x")
        metrics.failed(500, f"Fault{number}")
    metrics.unanswered("challenger", "2", "Error3: again", rows=4)
    page = page_of(metrics)
    assert len(page["understudy_row_errors_total"]) == len(page["understudy_errors_total"]) == 65
    assert sum(page["understudy_row_errors_total"].values()) == 504
    assert value(page, "understudy_row_errors_total", arm="challenger", version="2", kind="Error3") == 5
    assert value(page, "understudy_errors_total", status="500", kind="other") == 436


def test_nothing_that_is_unknown_is_shown_as_a_number() -> None:
    page = page_of(Metrics(Reading))
    assert "understudy_generation" not in page
    assert "understudy_breaker_state" not in page
    assert not [name for name in page if name.startswith("understudy_challenger_process")]
    assert value(page, "understudy_ready") == 0
    assert value(page, "understudy_exposed") == 0


def scraped(gateway: RunningGateway) -> Page:
    answer = gateway.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return parsed(answer.text)


def grown(before: Page, after: Page, name: str, **labels: str) -> float:
    key = frozenset(labels.items())
    return after[name].get(key, 0.0) - before.get(name, {}).get(key, 0.0)


def test_a_running_gateway_tells_who_answered_what_with_which_version(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    exposure = expose(challenger=registered.better, percent=50.0)
    before = scraped(gateway)
    answer = gateway.client.post("/invocations", json=split([row(number) for number in range(200)]))
    assert answer.status_code == 200
    assert (
        gateway.client.post(
            "/invocations", content=b"{", headers={"Content-Type": "application/json"}
        ).status_code
        == 400
    )
    after = scraped(gateway)
    version = {"challenger": registered.better, "control": registered.good}
    for arm, number in version.items():
        rows = grown(before, after, "understudy_rows_total", arm=arm, version=number)
        assert 0 < rows < 200
        assert grown(before, after, "understudy_requests_total", arm=arm, version=number) == 1
        assert grown(before, after, "understudy_cpu_seconds_total", arm=arm, version=number) > 0
    assert grown(before, after, "understudy_errors_total", status="400", kind="BAD_REQUEST") == 1
    assert grown(before, after, "understudy_events_total", kind="requests") == 200
    assert value(after, "understudy_generation") == exposure.generation
    assert (value(after, "understudy_ready"), value(after, "understudy_exposed")) == (1, 1)
    assert value(after, "understudy_exposed_percent") == 50
    assert 0 < value(after, "understudy_lease_left_seconds") <= 600
    assert value(after, "understudy_event_lag_seconds", kind="requests") < 30
    assert value(after, "understudy_event_log_writable") == 1
    assert value(after, "process_resident_memory_bytes") > 1e7


def test_the_challengers_process_and_breaker_are_shown_while_there_is_one(
    gateway: RunningGateway, expose: Callable[..., Exposure], registered: Registered
) -> None:
    expose(challenger=registered.better, percent=100.0)
    mine = {"version": registered.better}
    page = wait_until(
        lambda: (
            page if (page := scraped(gateway))["understudy_challenger_up"][frozenset(mine.items())] else None
        ),
        "the challenger's process",
    )
    states: Mapping[str, float] = {
        state: value(page, "understudy_breaker_state", **mine, state=state) for state in BREAKER_STATES
    }
    assert states == {"closed": 1, "half-open": 0, "open": 0}
    assert value(page, "understudy_breaker_openings_total", **mine) == 0
    assert value(page, "understudy_challenger_starts_total", **mine) == 1
    assert value(page, "understudy_challenger_process_resident_memory_bytes") > 1e7
    assert value(page, "understudy_challenger_process_cpu_seconds_total") > 0
    info: list[dict[str, Any]] = [dict(labels) for labels in page["understudy_version_info"]]
    assert {(one["version"], one["role"]) for one in info} == {
        (registered.good, "champion"),
        (registered.better, "challenger"),
    }
    assert all(len(one["digest"]) == 12 and one["compiled"] in ("linear", "onnx", "no") for one in info)
    expose()
    wait_until(
        lambda: "understudy_challenger_process_resident_memory_bytes" not in scraped(gateway),
        "the end of the challenger's series",
    )
