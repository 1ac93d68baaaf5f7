"""Every kind of metric against a plain loop, units that repeat, and the units' own past."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.events.stores import store_of
from tests.events.test_evidence import EVEN, NOW, RUN, outcome, time_passes
from tests.events.test_increments import another_process, append, copy_in_parts
from tests.events.test_reader import MODEL, request, write
from tests.looks import intervals
from understudy.events.evidence import EvidenceQuery, MetricQuery, collect
from understudy.stats.evidence import Evidence

METRICS = (
    MetricQuery("brier", "brier"),
    MetricQuery("log_loss", "log_loss"),
    MetricQuery("accuracy", "accuracy"),
    MetricQuery("errors", "error_rate"),
    MetricQuery("slow", "latency_over", 10.0),
    MetricQuery("bias", "calibration"),
    MetricQuery("latency", "mean", value="latency_ms", better="lower", cap=20.0),
    MetricQuery("cpu", "per_unit", value="cpu_ms", better="lower"),
    MetricQuery("sales", "mean", value="sales", better="higher", cap=8.0),
    MetricQuery("per_view", "ratio", value="sales", over="views", better="same"),
    MetricQuery("per_customer", "per_unit", value="sales", better="higher", window=60.0),
)
QUERY = EvidenceQuery(MODEL, METRICS, ("origin", "carrier"), maturity=30.0, shares=EVEN)


def look(root: Path, query: EvidenceQuery = QUERY, now: float = NOW, **more: Any) -> Evidence:
    return collect(store_of(root), root, query, RUN, now, **more)


def shop(
    root: Path, events: int = 500, seed: int = 3
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Write served events whose units repeat over stages and cohorts, and outcomes with numbers; some are missing."""
    rng = np.random.default_rng(seed)
    served, told = [], {}
    for number in range(events):
        unit = int(rng.integers(0, 80))
        served.append(
            request(
                number,
                unit=f"{unit * 2654435761 % 2**128:032x}",
                arm=("control", "challenger")[unit % 2],
                stage=1 + number * 3 // events,
                event_time=10.0 + number,
                cohorts={"origin": "JFK" if rng.random() < 0.6 else "LGA", "carrier": f"c{unit % 3}"},
                prediction=None if rng.random() < 0.05 else float(rng.random()),
                latency_ms=float(rng.gamma(2, 5)),
                cpu_ms=None if rng.random() < 0.1 else float(rng.gamma(2, 1)),
            )
        )
        if rng.random() < 0.9:
            values = {"sales": float(rng.gamma(1, 4)), "views": float(rng.integers(0, 5))}
            line = outcome(number, float(rng.random() < 0.4)) | {
                "values": values,
                "occurred_at": 10.0 + number + rng.integers(0, 90),
            }
            told[f"e{number}"] = line
    write(root, "requests", "w-0", *served, *time_passes(events + 90))
    write(root, "outcomes", "w-0", *told.values())
    return served, told


def contribution(
    metric: MetricQuery, event: dict[str, Any], told: dict[str, Any] | None
) -> tuple[float, float] | None:
    """Return numerator and denominator of one event, or nothing where it does not count."""
    p, y = event["prediction"], None if told is None else told["outcome"]
    values = {} if told is None else told["values"]
    served = {"latency_ms": event["latency_ms"], "cpu_ms": event["cpu_ms"]}
    if metric.kind == "error_rate":
        return float(p is None), 1.0
    if metric.kind == "latency_over":
        return float(event["latency_ms"] > (metric.limit_ms or 0)), 1.0
    if metric.value is not None:
        number = (served | values).get(metric.value)
        if number is None or (metric.window and told["occurred_at"] > event["event_time"] + metric.window):  # type: ignore[index]
            return None
        below = values[metric.over] if metric.over else 1.0
        number = min(number, metric.cap) if metric.cap else number
        return (-number if metric.better == "higher" else number), below
    if p is None or y is None:
        return None
    q = min(max(p, 1e-6), 1 - 1e-6)
    found = {
        "brier": (p - y) ** 2,
        "log_loss": -math.log(q if y else 1 - q),
        "accuracy": -float((p >= 0.5) == (y >= 0.5)),
        "calibration": p - y,
    }
    return found[metric.kind], 1.0


def plainly(
    served: list[dict[str, Any]], told: dict[str, Any], inside: Any
) -> dict[tuple[str, str, int], list[float]]:
    sums: dict[tuple[str, str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for metric in METRICS:
        units = set()
        for event in served:
            found = contribution(metric, event, told.get(event["event_id"]))
            if found is None or not inside(event):
                continue
            key = (metric.name, event["arm"], event["stage"])
            unit = (*key, event["unit"])
            sums[key][0] += found[0]
            sums[key][1] += (unit not in units) if metric.per_unit else found[1]
            units.add(unit)
    return sums


@pytest.mark.parametrize("parts", [1, 6])
def test_every_kind_of_metric_is_what_a_plain_loop_finds(tmp_path: Path, parts: int) -> None:
    served, told = shop(tmp_path / "whole")
    for part in copy_in_parts(tmp_path / "whole", tmp_path / "parts", parts):
        append(tmp_path, part)
        another_process()
        found = look(tmp_path)
    for cohort in ("all", "origin=LGA", "carrier=c1"):
        column, _, value = cohort.partition("=")
        sums = plainly(served, told, lambda e, c=column, v=value: not v or e["cohorts"][c] == v)
        for metric in METRICS:
            cell = found.cell(metric.name, cohort)
            for arm in ("control", "challenger"):
                moments = getattr(cell, arm)
                for index, stage in enumerate(moments.stages):
                    expected = sums[metric.name, arm, stage]
                    # A bucket whose denominators are all zero has no ratio.
                    assert float(moments.sum_d[index]) == pytest.approx(expected[1]), (metric, cohort)
                    if metric.kind != "ratio":
                        assert float(moments.sum_n[index]) == pytest.approx(expected[0]), (metric, cohort)


def test_units_are_the_clusters_through_their_buckets(tmp_path: Path) -> None:
    served, _ = shop(tmp_path)
    moments = look(tmp_path).cell("errors").control
    buckets = {int(e["unit"][:2], 16) for e in served if e["arm"] == "control"}
    assert float(moments.total) == len(buckets)
    units = {e["unit"] for e in served if e["arm"] == "control"}
    assert look(tmp_path).quality.control.units == len(units)


def test_the_latency_histogram_gives_percentiles_by_arm(tmp_path: Path) -> None:
    served, _ = shop(tmp_path)
    found = look(tmp_path)
    assert found.latency is not None
    exact = [
        np.quantile([e["latency_ms"] for e in served if e["arm"] == arm], 0.5)
        for arm in ("control", "challenger")
    ]
    assert found.latency.quantile(0.5) == pytest.approx(exact, rel=0.05)
    again = Evidence.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.digest == found.digest


def habits(root: Path, *, units: int = 400, noise: float = 0.3) -> None:
    """Write a past in which every unit shows its own level, and a run in which it shows it again."""
    rng = np.random.default_rng(5)
    level = rng.normal(10, 3, units)
    names = [f"{rng.integers(0, 2**63):032x}"[::-1] for _ in range(units)]
    lines: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []
    for number in range(4 * units):
        unit, before = number % units, number < 2 * units
        lines.append(
            request(
                number,
                run=None if before else RUN,
                arm="champion" if before else ("control", "challenger")[unit % 2],
                stage=0 if before else 1 + (number >= 3 * units),
                unit=names[unit],
                event_time=10.0 + number,
            )
        )
        values = {"sales": float(level[unit] + rng.normal(0, noise))}
        told.append(outcome(number, 1.0, 1000.5 + number) | {"values": values, "occurred_at": 11.0 + number})
    write(root, "requests", "w-0", *lines, *time_passes(4 * units))
    write(root, "outcomes", "w-0", *told)


def test_the_units_own_past_takes_noise_away_and_moves_nothing_else(tmp_path: Path) -> None:
    habits(tmp_path)
    bare = MetricQuery("sales", "mean", value="sales", better="higher")
    helped = MetricQuery("helped", "mean", value="sales", better="higher", covariate="history")
    found = look(tmp_path, EvidenceQuery(MODEL, (bare, helped), ("origin",), 0.0, EVEN))
    widths = {key: (i.upper or 0.0) - (i.lower or 0.0) for key, i in intervals(found, 0.01, 1000).items()}
    assert widths["helped", "all"] < 0.4 * widths["sales", "all"]
    assert widths["helped", "origin=JFK"] < 0.4 * widths["sales", "origin=JFK"]
    plain, adjusted = found.cell("sales").difference(), found.cell("helped").difference()
    assert abs((plain.estimate or 0) - (adjusted.estimate or 0)) < 3 * (plain.se or 0)


def test_the_past_is_counted_once_per_unit_and_stage_and_the_same_by_every_process(tmp_path: Path) -> None:
    habits(tmp_path / "whole", units=40)
    query = EvidenceQuery(
        MODEL,
        (MetricQuery("helped", "mean", value="sales", better="lower", covariate="history"),),
        (),
        0.0,
        EVEN,
    )
    whole = look(tmp_path / "whole", query)
    for part in copy_in_parts(tmp_path / "whole", tmp_path / "parts", 5, seed=2):
        append(tmp_path / "grown", part)
        another_process()
        grown = look(tmp_path / "grown", query)
    assert grown.seq > 1
    assert float(grown.cell("helped").control.sum_d.sum()) == float(whole.cell("helped").control.sum_d.sum())
    store = store_of(tmp_path / "whole")
    from understudy.events.increment import Increment
    from understudy.store import moments

    with store.read() as connection:
        (stored,) = moments.load(connection, RUN)
    units = Increment.unpack(stored.body)
    assert (float(units.unit_n.sum()), float(units.unit_xd.sum())) == (80, 160)
