"""Input that cannot be: it counts nowhere, is named in the quality block, and never becomes an exception or a PASS."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.events.stores import store_of
from tests.events.test_evidence import EVEN, NOW, QUERY, RUN, outcome, time_passes, world
from tests.events.test_reader import MODEL, request, write
from tests.looks import intervals
from understudy.events.evidence import EvidenceQuery, MetricQuery, collect
from understudy.stats.evidence import Evidence, Quality


def look(root: Path, query: EvidenceQuery = QUERY, now: float = NOW) -> Evidence:
    found = collect(store_of(root), root, query, RUN, now)
    again = Evidence.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.digest == found.digest
    return found


def determined(found: Evidence) -> bool:
    return any(interval.determined for interval in intervals(found, 0.01, 100).values())


def test_an_event_of_the_future_counts_nowhere_and_does_not_move_time(tmp_path: Path) -> None:
    wild = [request(n, event_time=1000.0 + n + 301) for n in range(50, 90)]
    write(tmp_path, "requests", "w-0", request(1), *wild, request(100, event_time=1e300))
    quality = look(tmp_path).quality
    assert (quality.skewed, quality.control.events, quality.watermark) == (41, 1, 11.0)
    assert quality.newest_received_at == 1100.0


def test_one_wild_time_does_not_declare_everything_ripe(tmp_path: Path) -> None:
    query = replace(QUERY, maturity=200.0)
    write(tmp_path, "requests", "w-0", *(request(n) for n in range(100)), request(100, event_time=1000.0))
    write(tmp_path, "outcomes", "w-0", *(outcome(n) for n in range(100)))
    quality = look(tmp_path, query).quality
    assert (quality.watermark, quality.control.matured, quality.control.early) == (101.0, 0, 100)


def test_an_outcome_that_occurred_before_its_event_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1), request(2), *time_passes(2))
    write(tmp_path, "outcomes", "w-0", outcome(1) | {"occurred_at": 10.5}, outcome(2) | {"occurred_at": 12.0})
    found = look(tmp_path)
    assert found.quality.outcomes_before_event == 1
    assert (found.quality.control.labelled, found.quality.control.missing) == (1, 1)
    assert float(found.cell("brier").control.sum_d.sum()) == 1


def test_an_arm_that_does_not_exist_and_an_answer_of_the_wrong_version_count_nowhere(tmp_path: Path) -> None:
    query = replace(QUERY, versions={"control": "1", "challenger": "2"})
    write(
        tmp_path, "requests", "w-0", request(1), request(2, arm="treatment"), request(3, version="2"),
        request(4, arm="challenger", version="1"), request(5, arm="challenger", version="2"),
        request(6, arm="challenger", version="1", fallback=True),
    )  # fmt: skip
    quality = look(tmp_path, query).quality
    assert (quality.unknown_arms, quality.wrong_version) == (1, 2)
    assert (quality.control.events, quality.challenger.events, quality.challenger.fallbacks) == (1, 2, 1)


def test_swapped_arms_leave_nothing_to_decide_on(tmp_path: Path) -> None:
    world(tmp_path)
    query = replace(QUERY, versions={"control": "2", "challenger": "1"})
    found = look(tmp_path, query)
    assert found.quality.wrong_version > 200
    assert not determined(found)


VALUES = EvidenceQuery(
    MODEL,
    (
        MetricQuery("sales", "mean", value="sales", better="higher"),
        MetricQuery("per_view", "ratio", value="sales", over="views", better="higher"),
        MetricQuery("per_customer", "per_unit", value="sales", better="higher"),
    ),
    shares=EVEN,
)


def sell(root: Path, number: int, told: dict[str, Any], arm: str = "control", **changes: Any) -> None:
    write(root, "requests", "w-0", request(number, arm=arm, **changes))
    write(root, "outcomes", "w-0", outcome(number, None) | {"values": told})


def test_numbers_that_are_none_are_named_and_count_nowhere(tmp_path: Path) -> None:
    sell(tmp_path, 1, {"sales": float("nan"), "views": 1})
    sell(tmp_path, 2, {"sales": float("inf"), "views": 1})
    sell(tmp_path, 3, {"sales": "many", "views": 1})
    sell(tmp_path, 4, {"sales": 5.0, "views": -1})
    sell(tmp_path, 5, {"sales": 5.0, "views": 2})
    write(tmp_path, "requests", "w-0", request(6))
    write(tmp_path, "requests", "w-1", *time_passes(6))
    write(tmp_path, "outcomes", "w-1", b'{"event_id":"e6","values":[1],"occurred_at":50,"received_at":60}\n')
    found = look(tmp_path, VALUES)
    assert found.quality.non_finite_outcomes == 2
    assert found.quality.without_value == {"sales": 4, "per_view": 4, "per_customer": 4}
    assert found.quality.units_without_value == {"per_customer": 4}
    sales, ratio = found.cell("sales").control, found.cell("per_view").control
    assert (float(sales.sum_n.sum()), float(sales.sum_d.sum())) == (-10, 2)
    assert (float(ratio.sum_d.sum()), float(ratio.non_finite)) == (2, 1)


@pytest.mark.parametrize("scale", [1e9, 1e-9])
def test_a_metric_in_another_unit_in_one_arm_is_named(tmp_path: Path, scale: float) -> None:
    rng = np.random.default_rng(1)
    served, told = [], []
    for number in range(400):
        arm = ("control", "challenger")[number % 2]
        served.append(request(number, arm=arm))
        sales = float(rng.gamma(2)) * (scale if arm == "challenger" else 1)
        told.append(outcome(number, None) | {"values": {"sales": sales, "views": 1}})
    write(tmp_path, "requests", "w-0", *served, *time_passes(400))
    write(tmp_path, "outcomes", "w-0", *told)
    assert look(tmp_path, VALUES).quality.out_of_scale == ("sales", "per_view", "per_customer")


def test_a_large_offset_leaves_the_variance_as_it_is(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    widths = []
    for offset in (0.0, 1e9):
        root = tmp_path / f"{offset:g}"
        noise = rng.permutation(np.linspace(-1, 1, 600))
        served = [request(n, arm=("control", "challenger")[n % 2]) for n in range(600)]
        told = [
            outcome(n, None) | {"values": {"sales": offset + float(x), "views": 1}}
            for n, x in enumerate(noise)
        ]
        write(root, "requests", "w-0", *served, *time_passes(600))
        write(root, "outcomes", "w-0", *told)
        interval = intervals(look(root, VALUES), 0.01, 100)["sales", "all"]
        widths.append((interval.upper or 0) - (interval.lower or 0))
    assert widths[1] == pytest.approx(widths[0], rel=0.2)


@pytest.mark.parametrize(
    "events",
    [
        [],
        [request(1)],
        [request(n) for n in range(40)],
        [request(n, unit="one", arm=("control", "challenger")[n % 2]) for n in range(40)],
        [request(n, prediction=None, latency_ms=None) for n in range(40)],
        [request(n, arm=("control", "challenger")[n % 2], prediction=0.5, stage=2) for n in range(40)],
    ],
    ids=["no events", "one event", "one arm", "one unit", "no numbers", "no variance"],
)
def test_too_little_is_undetermined(tmp_path: Path, events: list[dict[str, Any]]) -> None:
    write(tmp_path, "requests", "w-0", *events, *time_passes(50))
    write(tmp_path, "outcomes", "w-0", *(outcome(n) for n in range(40)))
    found = look(tmp_path)
    # A rate that never happened is bounded; everything else says nothing.
    loss = [
        interval
        for (metric, _), interval in intervals(found, 0.01, 100).items()
        if metric in ("brier", "wrong")
    ]
    assert not any(interval.determined for interval in loss)


def test_values_too_large_to_square_are_no_numbers(tmp_path: Path) -> None:
    sell(tmp_path, 1, {"sales": 1e200, "views": 1})
    sell(tmp_path, 2, {"sales": 1.0, "views": 1})
    write(tmp_path, "requests", "w-1", *time_passes(2))
    found = look(tmp_path, VALUES)
    assert float(found.cell("sales").control.sum_d.sum()) == 1
    assert found.quality.non_finite_outcomes == 1


def test_quality_that_an_earlier_version_stored_is_read_with_the_same_digest() -> None:
    older = {name: value for name, value in Quality().to_dict().items() if name in _FIRST}
    assert Quality.from_dict(older) == Quality()


_FIRST = (
    "control", "challenger", "stages", "splits", "multi_arm_units", "without_unit", "duplicates", "newest_received_at",
    "watermark", "torn_lines", "invalid_lines",
)  # fmt: skip


def test_a_column_of_names_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", *(request(n, cohorts={"origin": f"o{n}"}) for n in range(600)))
    cohorts = {cell.cohort for cell in look(tmp_path).cells}
    assert len(cohorts) == 502
    assert "origin=(other)" in cohorts
