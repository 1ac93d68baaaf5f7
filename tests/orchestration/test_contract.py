"""The operators are tested against a stand-in for the lifecycle; these tests hold the stand-in to the real thing."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

from understudy import lifecycle, rollback
from understudy.lifecycle import registry_watch

CALLS: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (
        lifecycle.begin,
        (),
        dict.fromkeys(("experiment", "version", "key", "actor", "reason", "airflow_run")),
    ),
    *[
        (getattr(lifecycle, step), ("run",), {})
        for step in ("check_data", "evaluate", "shadow", "compare", "promote")
    ],
    (lifecycle.report, ("run",), {}),
    (lifecycle.raise_exposure, ("run",), {"stage": 1}),
    (lifecycle.look, ("run", 1), {}),
    (lifecycle.conclude_stage, ("run", 1), {}),
    (lifecycle.abort, ("experiment__demo/manual__1", "why"), {}),
    (registry_watch.pending_starts, (), {}),
    (registry_watch.accept_starts, ({"flights:2": "alias"},), {}),
    (rollback.execute, (), dict.fromkeys(("model", "reason", "actor", "key", "target_version", "dry_run"))),
    (rollback.resume, (), {}),
]


@pytest.mark.parametrize(
    ("function", "args", "kwargs"), CALLS, ids=lambda value: getattr(value, "__name__", "")
)
def test_the_lifecycle_takes_what_the_operators_pass(
    function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    inspect.signature(function).bind(*args, **kwargs)
