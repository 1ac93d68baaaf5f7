"""A challenger whose breaker stays open: the champion answers for it, and the run is taken back for that all the same."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import psutil

from tests.lifecycle.conftest import World, flights
from tests.lifecycle.test_with_gateway import STAGE, ask
from tests.logged import events_of
from tests.servers import RunningGateway, start_gateway, wait_until
from understudy import lifecycle
from understudy.store.runs import RunState


def errors_of_challenger(gateway: RunningGateway) -> Counter[str]:
    lines = [json.loads(line) for path in gateway.events.glob("requests/*") for line in path.open()]
    rows = [one for line in lines for one in events_of(line) if one["arm"] == "challenger"]
    return Counter(str(one["error"]).partition(":")[0] for one in rows)


def test_rows_that_the_champion_answered_because_the_breaker_was_open_roll_the_run_back(
    make_world: Callable[..., World],
) -> None:
    world = make_world()
    world.store.clock = time.time
    breaker = {"calls": 5, "rest": "300s"}
    world.declare(stages=[STAGE], lease="600s", stale_after="500s", breaker=breaker)
    with start_gateway(
        world.settings.home, world.model, world.models.uri, world.settings.experiments
    ) as gateway:
        world.session.settings = replace(world.settings, gateway_urls=(gateway.url,))
        run_id = world.exposed_run()
        ask(gateway, flights(98, 400), "before")
        assert not errors_of_challenger(gateway).keys() - {"None"}
        (challenger,) = psutil.Process(gateway.process.pid).children()
        challenger.kill()
        for number in range(20):
            ask(gateway, flights(number, 4), f"killed-{number}")
            if gateway.status()["breaker"]["state"] == "open":
                break
        assert gateway.status()["breaker"]["state"] == "open"
        unusable = errors_of_challenger(gateway)
        # Its next process answers, but nobody asks it while the breaker rests.
        wait_until(lambda: gateway.status()["challenger_error"] is None, "the challenger's next process", 60)
        ask(gateway, flights(99, 4000), "after")
        reasons = errors_of_challenger(gateway)
        of_the_process = unusable.total() - unusable["None"]
        assert reasons == unusable + Counter(BreakerOpen=reasons["BreakerOpen"])
        assert 0 < of_the_process < 0.02 * reasons["BreakerOpen"]
        answer = lifecycle.look(run_id, 1)
        assert (answer["decision"], answer["verdict"]["metric"]) == ("ROLL_BACK", "errors"), answer[
            "sentence"
        ]
        recorded = world.verdicts(run_id, "stage_1")[0].evidence
        assert recorded is not None
        challenger = recorded["quality"]["challenger"]
        assert challenger["fallbacks"] == challenger["errors"] == reasons.total() - reasons["None"]
        assert world.run(run_id).state is RunState.ROLLING_BACK
        gateway.wait_for_generation(world.published().generation)
        assert gateway.status()["percent"] == 0.0
