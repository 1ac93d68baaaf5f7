"""One look at one stage: every branch and every boundary."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from tests import declared
from tests.policy.scenes import (
    HARM,
    NEVER,
    NOW,
    UNDECIDED,
    brier,
    came_to,
    evidence,
    judge,
    look,
    lower_bound,
    metrics,
    part,
    quality,
    upper_bound,
)
from understudy import policy
from understudy.policy import Kind, Look
from understudy.stats.cells import Cells
from understudy.stats.evidence import Evidence, Quality, StageUnits
from understudy.stats.srm import Split
from understudy.verdicts import Outcome


def test_a_better_challenger_advances_and_keeps_its_lease() -> None:
    decision = judge(evidence())
    assert came_to(decision) == (Kind.ADVANCE, "stage_passed")
    assert decision.verdict.passed
    assert decision.renew_lease


def test_proven_harm_rolls_back_and_names_metric_estimate_and_margin() -> None:
    decision = judge(evidence(brier(0.1), NEVER))
    assert came_to(decision) == (Kind.ROLL_BACK, "guardrail_breached")
    assert decision.verdict.metric == "brier"
    assert "estimate 0.1" in decision.verdict.sentence
    assert "margin is 0.02" in decision.verdict.sentence
    assert not decision.renew_lease


ACTS_ANYWAY = {
    "before the soak is over": (HARM, 0.0),
    "before any minimum of units": (replace(HARM, quality=quality(stages=())), 60.0),
    "when events are stale": (replace(HARM, quality=quality(newest_received_at=NOW - 999)), 60.0),
    "when nothing says how fresh events are": (replace(HARM, quality=quality(newest_received_at=None)), 60.0),
    "when the split is wrong too": (
        replace(HARM, quality=quality(splits=(Split((1,), (10, 900), (0.1, 0.1)),))),
        60.0,
    ),
    "after the time is over": (HARM, 9999.0),
    "in a metric whose companion has no data": (evidence(brier(0.1)), 60.0),
}


@pytest.mark.parametrize(("seen", "seconds"), ACTS_ANYWAY.values(), ids=ACTS_ANYWAY.keys())
def test_proven_harm_acts(seen: Evidence, seconds: float) -> None:
    assert came_to(judge(seen, seconds)) == (Kind.ROLL_BACK, "guardrail_breached")


def test_harm_acts_at_any_stage() -> None:
    assert judge(HARM, stage=2).kind is Kind.ROLL_BACK


def test_harm_exactly_at_the_margin_is_still_tolerated_and_one_step_more_is_not() -> None:
    lower = lower_bound(HARM)
    assert judge(HARM, metrics=metrics(brier_margin=lower)).kind is not Kind.ROLL_BACK
    assert judge(HARM, metrics=metrics(brier_margin=math.nextafter(lower, 0))).kind is Kind.ROLL_BACK


def test_an_upper_bound_exactly_at_the_tolerance_passes_and_one_step_more_does_not() -> None:
    seen = evidence(brier(0.0), NEVER)
    upper = upper_bound(seen)
    assert judge(seen, stage=2, metrics=metrics(brier_margin=upper)).kind is Kind.HOLD  # stage 2 saw no units
    at_two = replace(seen, quality=quality(stages=(StageUnits(2, 1000, 1000, 0.5, 0.5, 0),)))
    assert judge(at_two, stage=2, metrics=metrics(brier_margin=upper)).kind is Kind.ADVANCE
    held = judge(at_two, stage=2, metrics=metrics(brier_margin=math.nextafter(upper, 0)))
    assert came_to(held) == (Kind.HOLD, "could_be_harmful")


def test_early_stages_tolerate_more_as_the_spec_says() -> None:
    seen = evidence(brier(0.0), NEVER)
    upper = upper_bound(seen)
    assert judge(seen, metrics=metrics(brier_margin=upper / 2)).kind is Kind.ADVANCE
    assert judge(seen, metrics=metrics(brier_margin=math.nextafter(upper / 2, 0))).kind is Kind.HOLD


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, (Kind.HOLD, "soaking")),
        (29.999, (Kind.HOLD, "soaking")),
        (30.0, (Kind.ADVANCE, "stage_passed")),
        (300.0, (Kind.ADVANCE, "stage_passed")),
        (9999.0, (Kind.ADVANCE, "stage_passed")),
        (math.nan, (Kind.HOLD, "soaking")),
    ],
)
def test_a_good_stage_waits_for_its_soak_and_may_pass_late(
    seconds: float, expected: tuple[Kind, str]
) -> None:
    assert came_to(judge(evidence(), seconds)) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (299.0, (Kind.HOLD, "could_be_harmful")),
        (300.0, (Kind.HOLD, "could_be_harmful")),
        (300.001, (Kind.ROLL_BACK, "stage_timed_out")),
    ],
)
def test_an_undecided_stage_is_rolled_back_only_past_its_timeout(
    seconds: float, expected: tuple[Kind, str]
) -> None:
    decision = judge(UNDECIDED, seconds)
    assert came_to(decision) == expected
    assert decision.verdict.outcome is Outcome.INCONCLUSIVE
    assert decision.renew_lease is (decision.kind is Kind.HOLD)


@pytest.mark.parametrize(
    ("age", "kind", "renewed"),
    [
        (-5.0, Kind.ADVANCE, True),
        (0.0, Kind.ADVANCE, True),
        (20.0, Kind.ADVANCE, True),
        (20.001, Kind.HOLD, False),
        (math.nan, Kind.HOLD, False),
    ],
)
def test_stale_events_neither_advance_nor_renew_the_lease(age: float, kind: Kind, renewed: bool) -> None:
    decision = judge(evidence(newest_received_at=NOW - age))
    assert (decision.kind, decision.renew_lease) == (kind, renewed)
    if kind is Kind.HOLD:
        assert (decision.verdict.outcome, decision.verdict.reason) == (Outcome.ERROR, "stale_events")


def test_silence_until_the_timeout_is_rolled_back() -> None:
    decision = judge(evidence(newest_received_at=None), 300.5)
    assert came_to(decision) == (Kind.ROLL_BACK, "stage_timed_out")


@pytest.mark.parametrize(
    ("percent", "control", "challenger", "kind"),
    [
        (10, 50, 50, Kind.ADVANCE),
        (10, 49, 50, Kind.HOLD),
        (10, 50, 49, Kind.HOLD),
        (10, 0, 0, Kind.HOLD),
        # At full exposure control is a holdback of 5 %, so it is asked for its share: 50 x 5 / 95 = 3.
        (100, 3, 57, Kind.ADVANCE),
        (100, 2, 57, Kind.HOLD),
        (100, 3, 49, Kind.HOLD),
    ],
)
def test_each_arm_needs_its_share_of_the_minimum(
    percent: float, control: int, challenger: int, kind: Kind
) -> None:
    shares = policy.shares(percent)
    stages = [declared.content()["stages"][0] | {"percent": percent}]
    counted = StageUnits(1, control, challenger, shares["control"], shares["challenger"], 0)
    decision = judge(evidence(stages=(counted,), splits=()), stages=stages)
    assert decision.kind is kind
    if kind is Kind.HOLD:
        assert decision.verdict.reason == "too_few_units"
        assert decision.renew_lease


def test_units_of_another_stage_do_not_count() -> None:
    assert came_to(judge(evidence(), stage=2)) == (Kind.HOLD, "too_few_units")


def test_a_split_that_differs_from_the_plan_rolls_back() -> None:
    decision = judge(evidence(splits=(Split((1,), (700, 1000), (0.1, 0.1)),)))
    assert came_to(decision) == (Kind.ROLL_BACK, "sample_ratio_mismatch")


def test_units_in_an_unplanned_stage_roll_back() -> None:
    decision = judge(evidence(splits=(Split((9,), (1, 0), (0.0, 0.0)),)))
    assert came_to(decision) == (Kind.ROLL_BACK, "sample_ratio_mismatch")


def test_one_unit_in_both_arms_rolls_back() -> None:
    assert came_to(judge(evidence(multi_arm_units=1))) == (Kind.ROLL_BACK, "multi_exposure")


def test_no_evidence_at_all_holds_without_renewing_the_lease() -> None:
    decision = judge(Evidence("delay", "r", NOW, Cells.stack([]), Quality()))
    assert (decision.kind, decision.renew_lease) == (Kind.HOLD, False)
    assert decision.verdict.outcome is Outcome.ERROR


def test_harm_in_one_registered_cohort_rolls_back_though_everyone_together_is_fine() -> None:
    seen = evidence(brier(-0.01), NEVER, brier(0.12, 800, "origin=JFK"))
    decision = judge(seen, cohorts=("origin=JFK", "origin=LGA"))
    assert came_to(decision) == (Kind.ROLL_BACK, "guardrail_breached")
    assert (decision.verdict.metric, decision.verdict.cohort) == ("brier", "origin=JFK")
    assert "in cohort origin=JFK" in decision.verdict.sentence


def test_a_cohort_that_was_not_registered_decides_nothing() -> None:
    seen = evidence(brier(-0.05), NEVER, brier(0.12, 800, "origin=JFK"))
    assert judge(seen, cohorts=("origin=LGA",)).kind is Kind.ADVANCE


@pytest.mark.parametrize("seen", [evidence(), HARM, UNDECIDED, evidence(brier(-0.05))])
def test_the_same_look_always_gives_the_same_decision_to_the_last_digit(seen: Evidence) -> None:
    first = look(seen, cohorts=("origin=JFK",))
    again = Look.from_dict(json.loads(json.dumps(first.to_dict(), allow_nan=False)))
    decisions = [policy.decide(declared.experiment(), item) for item in (first, again)]
    assert decisions[0] == decisions[1]
    assert json.dumps(decisions[0].verdict.to_dict()) == json.dumps(decisions[1].verdict.to_dict())


def test_every_look_keeps_each_metric_with_its_numbers() -> None:
    judged = part(judge(evidence()).verdict, "brier")
    assert judged.evidence["upper"] <= judged.evidence["limit"] == pytest.approx(0.04)


@pytest.mark.parametrize(
    ("percent", "control", "challenger"), [(1, 0.01, 0.01), (50, 0.5, 0.5), (60, 0.4, 0.6), (100, 0.05, 0.95)]
)
def test_planned_shares_follow_the_published_weights(
    percent: float, control: float, challenger: float
) -> None:
    assert policy.shares(percent) == {"control": control, "challenger": challenger}
