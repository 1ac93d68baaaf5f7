"""What passes a drill and what does not, from numbers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from understudy.drill.findings import PLANTED, REFUSED_BY, Played, beside_the_point, judge, summary
from understudy.spec import MetricKind, Restoration, Scenario

ASKED = Restoration(zero_within=1.0, duration=30.0)
GOOD = Played(
    Scenario.FLIPPED_SIGN,
    caught_by="brier",
    told="brier is worse.",
    units=400,
    detected_after=2.0,
    harmed=500,
    asked=2000,
    zero_after=0.3,
    recovered_after=4.0,
)

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing caught it": (
        {"caught_by": "", "told": "Stage 1 timed out."},
        "nothing caught it: Stage 1 timed out.",
    ),
    "exposure went on": ({"zero_after": None}, "exposure did not end"),
    "zero exposure was late": ({"zero_after": 1.2}, "zero exposure took 1.20 s, and 1 s are the objective"),
    "nothing was verified": ({"recovered_after": None}, "the rollback was not verified"),
    "the rollback was slow": ({"recovered_after": 31.0}, "the rollback took 31.0 s"),
    "requests were lost": ({"lost": 2}, "2 requests were not answered"),
    "it is not as before": ({"problems": ("version 2 serves",)}, "version 2 serves"),
}


def test_a_fault_that_is_caught_in_time_passes() -> None:
    passed, sentence = judge(GOOD, ASKED)
    assert passed
    assert sentence == (
        "flipped_sign: caught by brier after 400 units and 2.0 s; zero exposure after 0.30 s, verified after 4.0 s."
    )


@pytest.mark.parametrize(("changes", "said"), WRONG.values(), ids=WRONG.keys())
def test_whatever_is_wrong_fails_the_scenario_and_is_named(changes: dict[str, Any], said: str) -> None:
    passed, sentence = judge(replace(GOOD, **changes), ASKED)
    assert not passed
    assert said in sentence


def test_a_lease_that_has_to_lapse_may_take_as_long_as_it_is() -> None:
    late = replace(GOOD, scenario=Scenario.CONTROL_PLANE_DOWN, zero_after=12.5)
    assert not judge(late, ASKED)[0]
    assert judge(replace(late, allowed=12.0), ASKED)[0]


def test_a_healthy_version_must_be_left_alone() -> None:
    healthy = replace(GOOD, scenario=Scenario.HEALTHY, caught_by="")
    assert judge(healthy, ASKED)[0]
    passed, sentence = judge(replace(healthy, caught_by="brier"), ASKED)
    assert not passed
    assert "a healthy version was taken back by brier" in sentence


@pytest.mark.parametrize("scenario", REFUSED_BY)
def test_what_must_be_refused_needs_no_rollback_but_may_reach_nobody(scenario: Scenario) -> None:
    refused = Played(scenario, caught_by=sorted(REFUSED_BY[scenario])[0])
    assert judge(refused, ASKED)[0]
    assert not judge(replace(refused, harmed=1), ASKED)[0]
    assert not judge(replace(refused, caught_by=""), ASKED)[0]


def test_every_scenario_says_what_is_planted() -> None:
    assert set(PLANTED) == set(Scenario)


def test_what_was_measured_survives_the_file_that_it_is_written_to() -> None:
    assert Played.from_dict(GOOD.to_dict()) == GOOD
    assert GOOD.to_dict()["share"] == 0.25


def test_a_drill_says_how_many_passed_and_which_did_not() -> None:
    assert summary({"slow": True, "drift": True}) == "All 2 scenarios passed."
    assert summary({"slow": True, "drift": False}) == "1 of 2 scenarios failed: drift."


HARM, SPLIT = "guardrail_breached", "sample_ratio_mismatch"
CATCHES = [
    (Scenario.FLIPPED_SIGN, MetricKind.BRIER, HARM, False),
    (Scenario.FLIPPED_SIGN, MetricKind.FAIRNESS_GAP, HARM, False),
    (Scenario.FLIPPED_SIGN, None, "cohort_harmed", False),
    (Scenario.FLIPPED_SIGN, MetricKind.LATENCY_OVER, HARM, True),
    (Scenario.SMALL_HARM, None, SPLIT, True),
    (Scenario.SMALL_HARM, None, "lease_lapsed", True),
    (Scenario.SLOW, MetricKind.LATENCY_OVER, HARM, False),
    (Scenario.SLOW, MetricKind.BRIER, HARM, True),
    (Scenario.SLOW, None, SPLIT, True),
    (Scenario.LATENCY, None, SPLIT, False),
    (Scenario.NULL_HANDLING, MetricKind.ERROR_RATE, HARM, False),
    (Scenario.PARTIAL_DATA, None, SPLIT, False),
    (Scenario.PARTIAL_DATA, MetricKind.BRIER, HARM, True),
    (Scenario.HEALTHY, MetricKind.LATENCY_OVER, HARM, False),
    (Scenario.CONTROL_PLANE_DOWN, None, "lease_lapsed", False),
]


@pytest.mark.parametrize(("scenario", "kind", "reason", "beside"), CATCHES)
def test_a_catch_counts_only_where_it_is_about_what_was_planted(
    scenario: Scenario, kind: MetricKind | None, reason: str, beside: bool
) -> None:
    assert beside_the_point(scenario, kind, reason) is beside
