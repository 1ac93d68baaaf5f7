"""One small experiment for tests: as data, as a typed model, as a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from understudy.spec import Experiment

MODEL = "delay"
NAME = "delay_test"

_CONTENT: dict[str, Any] = {
    "name": NAME,
    "model": MODEL,
    "owner": "tests",
    "description": "A small model for tests.",
    "hypothesis": "The challenger knows one more feature.",
    "traffic": {
        "unit": "tailnum",
        "event_id": "event_id",
        "event_time": "event_time",
        "private": ["pilot"],
        "cohorts": ["origin"],
        "maturity": "1s",
    },
    "data": {"reference": "reference.parquet", "holdout": "holdout.parquet", "label": "late"},
    "checks": [{"suite": "rows", "dataset": "reference"}, {"suite": "rows", "dataset": "requests"}],
    "metrics": [
        {"name": "brier", "kind": "brier", "role": "primary", "margin": 0.02},
        {"name": "errors", "kind": "error_rate", "role": "guardrail", "margin": 0.02},
        {"name": "slow", "kind": "latency_over", "role": "watched", "limit_ms": 50},
    ],
    "evaluation": {"min_rows": 200},
    "shadow": {"requests": 400, "min_requests": 100},
    # A gateway of its own for each run would cost every test seconds; those of the trial ask for it.
    "trial": {"critical_path": None, "spike": None},
    "stages": [
        {"percent": 10, "soak": "30s", "timeout": "300s", "min_units": 50, "margin_scale": 2},
        {"percent": 50, "soak": "30s", "timeout": "300s", "min_units": 50},
    ],
    # The policy of a test says what it needs; what drills are for has tests of its own.
    "drill": {"above": 100},
    "planned_events": 4000,
    "look_every": "5s",
    "lease": "30s",
    "stale_after": "20s",
}


def content(**changes: Any) -> dict[str, Any]:
    """Return the experiment as data, with some of its fields replaced or, where None, left out."""
    merged = copy.deepcopy(_CONTENT) | changes
    return {key: value for key, value in merged.items() if value is not None}


def experiment(**changes: Any) -> Experiment:
    """Return the experiment as its typed model."""
    return Experiment.model_validate(content(**changes))


def write(folder: Path, **changes: Any) -> Path:
    """Write the experiment file and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    declared = content(**changes)
    path = folder / f"{declared['name']}.yaml"
    path.write_text(yaml.safe_dump(declared, sort_keys=False))
    return path
