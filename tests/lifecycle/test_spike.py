"""A burst on a gateway of the challenger's own: only one that came off, and was answered in time, lets a run go on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.lifecycle.conftest import World, flights
from tests.lifecycle.test_steps import log_requests, refused
from tests.servers import free_port
from understudy import gateways, lifecycle
from understudy.errors import Unreachable
from understudy.lifecycle import trial
from understudy.lifecycle.burst import Burst
from understudy.lifecycle.report import render
from understudy.lifecycle.reproduce import reproduce
from understudy.lifecycle.spike import _judge, _Load, _load
from understudy.processes.process import NotReadyInTime
from understudy.spec import Spike
from understudy.store import runs

Tried = Callable[..., tuple[World, str]]
# 600 requests in one minute are 10 a second; five times that for two seconds is what the smallest burst takes.
SHORT = {"times": 5, "seconds": "2s"}


@pytest.fixture
def tried(make_world: Callable[..., World]) -> Tried:
    """Return a builder of a run whose spec asks for a burst, with the requests that it is made of."""

    def make(
        *,
        gateways: str = ",",
        versions: tuple[str, str] = ("plain", "good"),
        frame: pd.DataFrame | None = None,
        **rules: Any,
    ) -> tuple[World, str]:
        world = make_world(gateways, versions=versions)
        log_requests(world, 600, frame)
        world.declare(trial={"critical_path": None, "spike": SHORT | rules})
        return world, world.started("2")

    return make


def test_a_challenger_that_answers_the_burst_passes_beside_the_champion(tried: Tried) -> None:
    world, run_id = tried(max_p99="8s")
    answer = lifecycle.spike(run_id)
    found = answer["evidence"]
    assert answer["outcome"] == "PASS"
    assert (found["busiest_minute"], found["gateways"], found["rate"]) == (600, 1, 50.0)
    for arm in ("challenger", "champion"):
        assert found[arm]["sent"] == 100
        assert found[arm]["outcomes"] == {"200": 100}
    assert found["latency_ratio"] == pytest.approx(found["challenger"]["p99"] / found["champion"]["p99"])
    assert answer["sentence"].startswith(
        "At 50.0 requests a second, 5 times the busiest minute: The challenger"
    )
    assert reproduce(run_id)["reproduced"]
    page = render(world.session.passage(run_id))
    assert "The burst on a gateway of its own" in page
    assert answer["sentence"] in page


def test_what_came_of_the_burst_is_kept_in_mlflow(tried: Tried) -> None:
    world, run_id = tried(max_p99="8s")
    mlflow_run = world.session.tracking.start("delay_test", run_id, {}, {})
    with world.store.write() as connection:
        runs.set_mlflow_run(connection, run_id, mlflow_run)
    answer = lifecycle.spike(run_id)
    kept = world.client.get_run(answer["mlflow_url"].rpartition("/")[2]).data
    assert kept.params["times"] == "5.0"
    assert {"rate", "challenger.p99", "champion.p99", "challenger.error_rate"} <= kept.metrics.keys()


def test_a_challenger_that_takes_too_long_does_not_pass(tried: Tried) -> None:
    _, run_id = tried(versions=("plain", "slow"), max_p99=0.09)
    verdict = refused(lifecycle.spike, run_id)
    assert verdict["outcome"] == "FAIL"
    # How many are given up on the way depends on the machine; that it is too slow does not.
    assert {part["reason"]: part["outcome"] for part in verdict["parts"]}["p99_too_high"] == "FAIL"


def test_a_challenger_that_dies_in_the_burst_does_not_pass(tried: Tried) -> None:
    deadly = flights(5, 600).assign(wind=200.0)
    _, run_id = tried(versions=("plain", "moody"), frame=deadly, max_error_rate=0.99)
    verdict = refused(lifecycle.spike, run_id)
    assert verdict["outcome"] == "FAIL"
    assert verdict["evidence"]["challenger"]["error_rate"] == 1.0
    assert "champion" not in verdict["evidence"], "the gateway is gone, so nothing was there to compare with"


def test_without_logged_requests_there_is_no_burst_and_no_way_on(world: World) -> None:
    world.declare(trial={"critical_path": None})
    verdict = refused(lifecycle.spike, world.started("2"))
    assert (verdict["outcome"], verdict["reason"]) == ("ERROR", "data_missing")


def test_a_gateway_that_does_not_come_up_is_an_error(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    def late(*_: object) -> None:
        raise NotReadyInTime("The trial gateway was not ready in time.")

    monkeypatch.setattr(trial.TrialGateway, "serve", late)
    _, run_id = tried()
    verdict = refused(lifecycle.spike, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("ERROR", "not_ready_in_time")


def test_while_a_gateway_is_out_of_reach_nobody_knows_how_large_the_burst_must_be(tried: Tried) -> None:
    world, run_id = tried(gateways=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable):
        lifecycle.spike(run_id)
    assert world.verdicts(run_id, "spike") == []


def test_gateways_share_the_busiest_minute(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    world, run_id = tried()
    monkeypatch.setattr(gateways, "serving", lambda *_: ["first", "second"])
    load = _load(world.session.passage(run_id), Spike(times=5, seconds=40))
    assert (load.busiest, load.gateways, load.rate, load.count) == (600, 2, 25.0, 1000)


def test_a_burst_of_little_traffic_lasts_until_it_has_a_hundred_requests(world: World) -> None:
    log_requests(world, 12)
    run_id = world.started("2")
    load = _load(world.session.passage(run_id), Spike())
    assert (load.rate, load.count, load.seconds) == (1.0, 100, 100.0)


def test_next_to_no_traffic_does_not_decide(tried: Tried) -> None:
    _, run_id = tried(frame=flights(5, 3), times=1.5)
    verdict = refused(lifecycle.spike, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("INCONCLUSIVE", "too_few_requests")
    assert "trial.spike: null" in verdict["sentence"]


def burst(
    latency: float | list[float], delay: float | list[float] = 0.0, *, unanswered: int = 0, count: int = 200
) -> Burst:
    taken, late = np.broadcast_to(latency, count).astype(float), np.broadcast_to(delay, count).astype(float)
    taken = taken.copy()
    taken[:unanswered] = np.nan
    return Burst(100.0, late, taken, {"200": count - unanswered})


LOAD = _Load(1200, 1, 100.0, 200, [])
JUDGED: dict[str, tuple[Burst, dict[str, float], str, str]] = {
    "fast": (burst(0.1), {}, "PASS", "all_passed"),
    "exactly at the limit": (burst(1.0), {}, "PASS", "all_passed"),
    "too slow": (burst(1.001), {}, "FAIL", "p99_too_high"),
    "one in 200 is slow": (burst([*[0.1] * 199, 9.0]), {}, "PASS", "all_passed"),
    "three in 200 are slow": (burst([*[0.1] * 197, 9.0, 9.0, 9.0]), {}, "FAIL", "p99_too_high"),
    "one unanswered": (burst(0.1, unanswered=1), {}, "FAIL", "error_rate_too_high"),
    "as many unanswered as tolerated": (
        burst(0.1, unanswered=2),
        {"max_error_rate": 0.01},
        "PASS",
        "all_passed",
    ),
    "none answered": (burst(0.1, unanswered=200), {"max_error_rate": 0.99}, "FAIL", "error_rate_too_high"),
    "the sender fell behind": (
        burst(0.2, list(np.linspace(0, 5, 200))),
        {},
        "INCONCLUSIVE",
        "sender_too_slow",
    ),
    "only the sender was late": (burst(1.5, 1.4), {}, "INCONCLUSIVE", "sender_too_slow"),
    "late and unanswered": (burst(1.5, 1.4, unanswered=1), {}, "FAIL", "error_rate_too_high"),
}


@pytest.mark.parametrize(("came", "rules", "outcome", "reason"), JUDGED.values(), ids=JUDGED.keys())
def test_only_a_burst_that_came_off_and_was_answered_in_time_passes(
    came: Burst, rules: dict[str, float], outcome: str, reason: str
) -> None:
    verdict = _judge(Spike(**rules), LOAD, {"challenger": came})
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
