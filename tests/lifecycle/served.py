"""Requests and outcomes of a run, written into the real event log as the gateway would."""

from __future__ import annotations

import numpy as np

from tests.lifecycle.conftest import World
from tests.servers import PSEUDONYM_KEY
from understudy.events.pseudonym import pseudonyms
from understudy.exposure import CHALLENGER, UNEXPOSED, assign

BETTER, WORSE = 0.8, 0.2


def traffic(
    world: World,
    run_id: str,
    skill: float,
    *,
    units: int = 8000,
    errors: float = 0.0,
    skill_at: dict[str, float] | None = None,
) -> None:
    """Log requests and outcomes; the challenger is right with probability ``skill``, or as ``skill_at`` its origin."""
    exposure = world.exposure()
    assert exposure is not None
    rng = np.random.default_rng(7)
    now, requests, outcomes = world.clock(), [], []
    for number in range(units):
        unit = f"unit-{number}"
        origin = ("JFK", "LGA")[number % 2]
        arm = assign(exposure, unit, now, {"origin": origin})
        if arm == UNEXPOSED:
            continue
        event_id, late = f"{now}-{number}", float(rng.random() < 0.5)
        right = (skill_at or {}).get(origin, skill) if arm == CHALLENGER else 0.5
        guess = 0.5 + (0.4 if rng.random() < right else -0.4) * (2 * late - 1)
        failed = arm == CHALLENGER and rng.random() < errors
        requests.append(
            {
                "event_id": event_id,
                "request_id": event_id,
                "received_at": now - 1,
                "event_time": now - 100,
                "model": world.model,
                "run": run_id,
                "stage": exposure.stage,
                "generation": exposure.generation,
                "arm": arm,
                "version": exposure.challenger if arm == CHALLENGER else exposure.champion,
                "fallback": False,
                "unit": pseudonyms([unit], PSEUDONYM_KEY.encode())[0],
                "cohorts": {"origin": origin},
                "features": {},
                "prediction": None if failed else guess,
                "error": "ValueError" if failed else None,
                "latency_ms": 3.0,
            }
        )
        outcomes.append(
            {"event_id": event_id, "outcome": late, "occurred_at": now - 50, "received_at": now - 1}
        )
    requests.append(requests[-1] | {"event_id": f"{now}-newest", "event_time": now - 1})
    world.write("requests", requests)
    world.write("outcomes", outcomes)
