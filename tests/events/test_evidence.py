"""From a log on disk to evidence: what counts, what does not, and that nothing is counted twice."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.events.stores import store_of
from tests.events.test_reader import MODEL, request, write
from tests.logged import logged_events
from tests.looks import intervals
from understudy.events.evidence import EvidenceQuery, MetricQuery, collect
from understudy.stats.evidence import Evidence, split_test

RUN = "x-v2-1"
NOW = 1e6
EVEN = {stage: {"control": 0.5, "challenger": 0.5} for stage in (1, 2, 3, 4)}
QUERY = EvidenceQuery(
    MODEL,
    (
        MetricQuery("brier", "brier"), MetricQuery("wrong", "accuracy"), MetricQuery("errors", "error_rate"),
        MetricQuery("slow", "latency_over", 10.0),
    ),
    ("origin",),
    maturity=0.0,
    shares=EVEN,
)  # fmt: skip


def outcome(number: int, value: float | None = 1.0, received_at: float = 5000.0) -> dict[str, Any]:
    return {"event_id": f"e{number}", "outcome": value, "occurred_at": 5000.0, "received_at": received_at}


def world(root: Path, seed: int = 1, events: int = 600, harm: float = 0.0) -> None:
    rng = np.random.default_rng(seed)
    arms = ("control", "challenger")
    served, known = [], []
    for number in range(events):
        unit = int(rng.integers(0, 60))
        arm = arms[unit % 2]
        label = float(rng.random() < 0.4)
        p = float(
            np.clip(
                0.3 + 0.3 * label + rng.normal(0, 0.1) - harm * (arm == "challenger") * (label - 0.5), 0, 1
            )
        )
        stage = 1 + number * 4 // events
        served.append(
            request(
                number,
                arm=arm,
                unit=f"u{unit}",
                prediction=p,
                stage=stage,
                cohorts={"origin": "JFK" if unit % 3 else "LGA"},
            )
        )
        known.append(outcome(number, label))
    write(root, "requests", "w-0", *served[: events // 2])
    write(root, "requests", "w-1", *served[events // 2 :], *time_passes(events))
    write(root, "outcomes", "w-0", *known)


def time_passes(number: int) -> list[dict[str, Any]]:
    """Requests of nobody in the experiment, which show that the world has moved on."""
    return [request(number + 1 + later, arm="unexposed", unit="nobody", stage=1) for later in range(10)]


def look(root: Path, query: EvidenceQuery = QUERY, run: str = RUN, now: float = NOW) -> Evidence:
    return collect(store_of(root), root, query, run, now)


def test_nothing_logged_is_empty_evidence_from_which_nothing_follows(tmp_path: Path) -> None:
    found = look(tmp_path)
    assert found.quality.newest_received_at is None
    assert found.quality.control.events == 0
    assert not any(interval.determined for interval in intervals(found, 0.01, 100).values())
    assert Evidence.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False))).digest == found.digest


def test_moments_are_those_of_a_plain_loop(tmp_path: Path) -> None:
    world(tmp_path)
    found = look(tmp_path)
    labels = {
        o["event_id"]: o["outcome"] for o in map(json.loads, (tmp_path / MODEL / "outcomes/w-0.jsonl").open())
    }
    sums: dict[tuple[str, int], list[float]] = {}
    for event in logged_events(tmp_path, MODEL):
        if event["cohorts"]["origin"] == "JFK" and event["arm"] != "unexposed":
            cell = sums.setdefault((event["arm"], event["stage"]), [0.0, 0.0])
            cell[0] += (event["prediction"] - labels[event["event_id"]]) ** 2
            cell[1] += 1
    cell = found.cell("brier", "origin=JFK")
    for arm in ("control", "challenger"):
        moments = getattr(cell, arm)
        for index, stage in enumerate(moments.stages):
            assert [moments.sum_n[index], moments.sum_d[index]] == pytest.approx(sums[arm, stage])
    assert {c.cohort for c in found.cells} == {"all", "origin=JFK", "origin=LGA"}
    assert found.cell("wrong").control.ratio.max() <= 0


def test_planted_harm_shows_as_a_positive_difference(tmp_path: Path) -> None:
    world(tmp_path, harm=0.6)
    found = intervals(look(tmp_path), 0.01, 500)
    assert (found["brier", "all"].lower or 0) > 0
    assert (found["wrong", "all"].estimate or 0) > 0


def test_looking_again_and_in_another_process_gives_the_same_digest(tmp_path: Path) -> None:
    world(tmp_path)
    first = look(tmp_path)
    assert look(tmp_path, now=NOW + 50).digest == first.digest
    other = tmp_path / "copy"
    (tmp_path / MODEL / "requests").rename(tmp_path / "aside")
    # The same lines in one file, the other way round.
    lines = [
        line
        for path in sorted((tmp_path / "aside").glob("*"))
        for line in path.read_bytes().splitlines(keepends=True)
    ]
    write(other, "requests", "z-9", *reversed(lines))
    write(other, "outcomes", "z-9", (tmp_path / MODEL / "outcomes/w-0.jsonl").read_bytes())
    assert look(other).digest == first.digest


def test_a_look_sees_nothing_that_came_later(tmp_path: Path) -> None:
    world(tmp_path, events=100)
    early = look(tmp_path, now=1050.5)
    assert early.quality.newest_received_at == 1050.0
    assert early.quality.control.events + early.quality.challenger.events == 51
    assert early.quality.control.labelled == 0


def test_repeated_events_and_outcomes_count_once_and_the_first_received_wins(tmp_path: Path) -> None:
    world(tmp_path, events=200)
    clean = look(tmp_path)
    again = logged_events(tmp_path, MODEL)[:100]
    repeats = [event | {"received_at": 9000.0, "prediction": 0.999, "arm": "challenger"} for event in again]
    write(tmp_path, "requests", "w-2", *repeats)
    write(tmp_path, "outcomes", "w-2", *(outcome(n, 0.0, 9000.0) for n in range(200)))
    found = look(tmp_path)
    assert found.quality.duplicates == len(repeats)
    assert [c.to_dict() for c in found.cells] == [c.to_dict() for c in clean.cells]


def test_repeats_outside_of_the_arms_say_nothing_of_the_evidence(tmp_path: Path) -> None:
    # Where only a small ring is exposed, nearly all requests are of units in no arm.
    write(tmp_path, "requests", "w-0", request(1), *(request(n, arm="unexposed") for n in (2, 3, 2, 3, 2)))
    assert look(tmp_path).quality.duplicates == 0
    write(tmp_path, "requests", "w-1", *(request(1, received_at=2000.0 + n) for n in range(2)))
    assert look(tmp_path).quality.duplicates == 2


def test_an_outcome_may_come_before_its_request(tmp_path: Path) -> None:
    write(tmp_path, "outcomes", "w-0", outcome(1, received_at=1.0))
    write(tmp_path, "requests", "w-0", request(1))
    assert look(tmp_path).quality.control.labelled == 1


def test_only_this_run_and_its_two_arms_count(tmp_path: Path) -> None:
    write(
        tmp_path, "requests", "w-0", request(1), request(2, run="x-v2-0"), request(3, run=None), request(4, arm="unexposed"),
        request(5, unit=None), request(6, unit=""),
    )  # fmt: skip
    quality = look(tmp_path).quality
    assert (quality.control.events, quality.challenger.events, quality.without_unit) == (1, 0, 2)
    assert quality.newest_received_at == 1006.0


def test_an_outcome_that_came_quickly_waits_for_the_slow_ones(tmp_path: Path) -> None:
    events = [request(n, event_time=100.0 * n) for n in range(10)]
    write(tmp_path, "requests", "w-0", *events)
    # Known: all old ones but one that was cancelled, and one young one.
    write(tmp_path, "outcomes", "w-0", *(outcome(n) for n in (0, 1, 2, 4, 9)))
    control = look(tmp_path, replace(QUERY, maturity=450.0)).quality.control
    assert (control.matured, control.labelled, control.missing, control.early) == (5, 4, 1, 1)
    cell = look(tmp_path, replace(QUERY, maturity=450.0)).cell("brier")
    assert float(cell.control.sum_d.sum()) == 4
    assert float(look(tmp_path, replace(QUERY, maturity=450.0)).cell("errors").control.sum_d.sum()) == 10


def test_errors_fallbacks_and_answers_that_are_no_number_are_errors(tmp_path: Path) -> None:
    write(
        tmp_path, "requests", "w-0", request(1), request(2, error="boom", prediction=None), request(3, fallback=True),
        request(4, prediction=None), request(5, prediction=math.nan), request(6, latency_ms=None), request(7, latency_ms=11.0),
    )  # fmt: skip
    found = look(tmp_path)
    control = found.quality.control
    assert (control.errors, control.fallbacks, control.non_finite) == (3, 1, 2)
    assert float(found.cell("errors").control.sum_n.sum()) == 4
    slow = found.cell("slow").control
    assert (float(slow.sum_n.sum()), float(slow.sum_d.sum()), slow.non_finite) == (1, 6, 1)


def test_a_prediction_without_a_number_leaves_the_label_metrics_and_is_counted(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1), request(2, prediction=None))
    write(tmp_path, "outcomes", "w-0", outcome(1), outcome(2))
    cell = look(tmp_path).cell("brier").control
    assert (float(cell.sum_d.sum()), cell.non_finite) == (1, 1)


def test_a_unit_in_both_arms_of_one_stage_is_reported(tmp_path: Path) -> None:
    write(
        tmp_path, "requests", "w-0", request(1, unit="u"), request(2, unit="u", arm="challenger"), request(3, unit="v"),
        request(4, unit="v", arm="challenger", stage=2),
    )  # fmt: skip
    quality = look(tmp_path).quality
    assert quality.multi_arm_units == 1
    assert [(s.stage, s.control, s.challenger, s.both) for s in quality.stages] == [
        (1, 2, 1, 1),
        (2, 0, 1, 0),
    ]


def test_units_are_counted_once_for_the_split_while_the_shares_stay_in_proportion(tmp_path: Path) -> None:
    ladder = {
        1: {"control": 5, "challenger": 5},
        2: {"control": 25, "challenger": 25},
        3: {"control": 5, "challenger": 95},
    }
    events = [request(100 * stage + n, unit=f"u{n}", stage=stage) for stage in (1, 2, 3) for n in range(10)]
    write(tmp_path, "requests", "w-0", *events)
    splits = look(tmp_path, replace(QUERY, shares=ladder)).quality.splits
    assert [(s.stages, s.counts) for s in splits] == [((1, 2), (10, 0)), ((3,), (10, 0))]


def test_units_in_a_stage_that_nobody_planned_raise_the_alarm(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1, stage=9))
    assert split_test(look(tmp_path), 0.001).alarm


def test_events_without_cohorts_are_their_own_cohort(tmp_path: Path) -> None:
    write(
        tmp_path,
        "requests",
        "w-0",
        request(1, cohorts=None),
        request(2, cohorts={}),
        request(3, cohorts={"origin": "it's"}),
    )
    assert {c.cohort for c in look(tmp_path).cells} == {"all", "origin=(missing)", "origin=it's"}


def test_torn_and_broken_lines_are_reported(tmp_path: Path) -> None:
    write(tmp_path, "requests", "w-0", request(1), b"garbage\n", b'{"event_id": "half')
    quality = look(tmp_path).quality
    assert (quality.torn_lines, quality.invalid_lines, quality.control.events) == (1, 1, 1)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="must be one of"):
        EvidenceQuery(MODEL, (MetricQuery("m", "magic"),))
    with pytest.raises(ValueError, match="limit_ms"):
        EvidenceQuery(MODEL, (MetricQuery("m", "latency_over"),))
    with pytest.raises(ValueError, match="maturity"):
        EvidenceQuery(MODEL, (), maturity=math.nan)
