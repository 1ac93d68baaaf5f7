"""A small champion's past and small specs for the rehearsal."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests import declared
from understudy.rehearsal.history import History
from understudy.spec import Experiment

COHORTS = ("origin=JFK", "origin=LGA")


def past(
    units: int = 400,
    events: int = 6000,
    span: float = 120.0,
    error_rate: float = 0.01,
    unit_spread: float = 0.0,
    noise: float = 0.15,
    seed: int = 1,
    **changes: Any,
) -> History:
    """Return a past in which a unit comes again and again, mostly at one of two airports."""
    rng = np.random.default_rng(seed)
    unit = np.concatenate([np.arange(units), rng.integers(0, units, events - units)])
    rng.shuffle(unit)
    home = rng.integers(0, 2, units)
    combination = np.where(rng.random(events) < 0.9, home[unit], 1 - home[unit])
    loss = np.clip(0.2 + noise * rng.standard_normal(events), 0, 1)
    loss += unit_spread * rng.standard_normal(units)[unit]
    errors = (rng.random(events) < error_rate).astype(float)
    labelled = (rng.random(events) < 0.95).astype(float)
    found = History(
        model=declared.MODEL,
        metrics=("brier", "errors"),
        kinds=("brier", "error_rate"),
        delayed=(True, False),
        cohorts=COHORTS,
        member=np.eye(2),
        unit=unit.astype(np.int64),
        at=np.sort(rng.random(events)) * span,
        combination=combination.astype(np.int64),
        numerator=np.stack([loss * labelled, errors]),
        denominator=np.stack([labelled, np.ones(events)]),
        delay=rng.exponential(3.0, events),
        span=span,
        sources={"traffic": "a test"},
    )
    return found.with_values(**changes)


def spec(**changes: Any) -> Experiment:
    """Return an experiment that this traffic can decide in a few looks."""
    settings: dict[str, Any] = {
        "stages": [
            {"percent": 10, "soak": "20s", "timeout": "60s", "min_units": 10, "margin_scale": 3},
            {"percent": 50, "soak": "60s", "timeout": "200s", "min_units": 50, "margin_scale": 1.5},
        ]
    }
    return declared.experiment(**settings | changes)
