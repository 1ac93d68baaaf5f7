"""Hostile requests for a few seconds, always the same; with ``-m faults`` others for ten minutes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.gateway.conftest import Registered
from tests.gateway.fuzzing import fuzz_bodies, fuzz_wire, memory, serves, traces_of_private_values
from tests.servers import RunningGateway

LONG_SECONDS = 600


@pytest.fixture
def exposed(gateway: RunningGateway, expose: Callable[..., Any], registered: Registered) -> RunningGateway:
    """A gateway that asks both versions and rehearses the challenger on the rest."""
    expose(challenger=registered.better, percent=50.0, mirror=True)
    return gateway


def test_hostile_bodies_are_refused_in_mlflows_shape_and_leave_nothing_behind(
    exposed: RunningGateway,
) -> None:
    before, used = serves(exposed), memory(exposed)
    counts = fuzz_bodies(exposed, 1_500)
    assert counts["/invocations 200"] > 100
    assert counts["/invocations 400"] > 100
    assert serves(exposed) == before
    assert memory(exposed) < used + 200
    assert not traces_of_private_values(exposed)
    log = exposed.log.read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log


def test_bytes_that_are_nearly_http_end_no_gateway(exposed: RunningGateway) -> None:
    before, used = serves(exposed), memory(exposed)
    counts = fuzz_wire(exposed, 150)
    assert counts["200"] > 10
    assert counts["400"] > 10
    assert serves(exposed) == before
    assert memory(exposed) < used + 100
    log = exposed.log.read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log


@pytest.mark.faults
def test_ten_minutes_of_hostile_requests_meet_nothing_that_has_no_name(exposed: RunningGateway) -> None:
    before, counts = serves(exposed), Counter[str]()
    counts += fuzz_bodies(exposed, 500, random=True)  # what only the first requests need is in memory now
    used = memory(exposed)
    until = time.monotonic() + LONG_SECONDS
    while time.monotonic() < until:
        counts += fuzz_bodies(exposed, 1_000, random=True)
        counts += Counter({f"wire {said}": n for said, n in fuzz_wire(exposed, 50, random=True).items()})
        assert serves(exposed) == before
    grown = memory(exposed) - used
    print(f"{counts.total()} answers in {LONG_SECONDS} s, {grown:+.0f} MB: {dict(sorted(counts.items()))}")
    assert grown < 200
    assert not traces_of_private_values(exposed)
    log = exposed.log.read_text()
    assert "Traceback" not in log
    assert "unexpected" not in log
