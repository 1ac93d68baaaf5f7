"""Evidence and spec in, decision out: every branch, every boundary, every ugly input."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import declared
from understudy import policy
from understudy.policy import Decision, Kind
from understudy.stats.cells import Cell, Cells
from understudy.stats.evidence import Evidence, Quality, StageUnits
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split
from understudy.verdicts import Outcome, Verdict

NOW = 1_700_000_000.0
EXPERIMENT = declared.experiment()
UNITS = 2000


def arm(mean: float, units: int = UNITS, spread: float = 0.2, seed: int = 1) -> ArmMoments:
    """Return the moments of units with two events each, whose loss has a mean and a spread."""
    noise = np.random.default_rng(seed).normal(0.0, 1.0, (units, 1))
    if units > 1:
        noise -= noise.mean()
    return ArmMoments.from_units(2 * (mean + spread * noise), np.full((units, 1), 2.0))


def cell(metric: str, control: ArmMoments, challenger: ArmMoments, cohort: str = "all") -> Cell:
    kind = {"brier": "brier", "errors": "error_rate", "slow": "latency_over"}[metric]
    return Cell(metric, kind, cohort, control, challenger)


NEVER = cell("errors", arm(0.0, spread=0.0), arm(0.0, spread=0.0, seed=2))


def brier(harm: float, units: int = UNITS, cohort: str = "all", spread: float = 0.2) -> Cell:
    return cell("brier", arm(0.2, units, spread), arm(0.2 + harm, units, spread, seed=2), cohort)


def quality(**changes: Any) -> Quality:
    sound = Quality(
        stages=(StageUnits(1, 1000, 1000, 0.1, 0.1, 0),),
        splits=(Split((1,), (1000, 1000), (0.1, 0.1)),),
        newest_received_at=NOW - 1,
        watermark=NOW - 1,
    )
    return replace(sound, **changes)


def evidence(*cells: Cell, **changes: Any) -> Evidence:
    return Evidence(
        "delay", "delay_test-v2-1", NOW, Cells.stack(cells or (brier(-0.05), NEVER)), quality(**changes)
    )


def judge(
    seen: Evidence, seconds: float = 60.0, stage: int = 1, cohorts: tuple[str, ...] = (), **changes: Any
) -> Decision:
    return policy.judge_stage(
        declared.experiment(**changes),
        stage=stage,
        cohorts=cohorts,
        evidence=seen,
        seconds_in_stage=seconds,
        now=NOW,
    )


def came_to(decision: Decision) -> tuple[Kind, str]:
    return decision.kind, decision.verdict.reason


def margins(brier_margin: float) -> list[dict[str, Any]]:
    metrics = declared.content()["metrics"]
    metrics[0]["margin"] = brier_margin
    return list(metrics)


def part(verdict: Verdict, metric: str, cohort: str = "all") -> Verdict:
    return next(found for found in verdict.parts if (found.metric, found.cohort) == (metric, cohort))


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


HARM = evidence(brier(0.1), NEVER)
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
    # Harm is judged with its own share of alpha: half of it, because there are two deciding metrics.
    half = declared.experiment(alpha=0.025)
    lower = policy._undivided(half, half.primary, HARM).lower
    assert lower is not None
    assert judge(HARM, metrics=margins(lower)).kind is not Kind.ROLL_BACK
    assert judge(HARM, metrics=margins(math.nextafter(lower, 0))).kind is Kind.ROLL_BACK


def test_an_upper_bound_exactly_at_the_tolerance_passes_and_one_step_more_does_not() -> None:
    seen = evidence(brier(0.0), NEVER)
    upper = policy._undivided(EXPERIMENT, EXPERIMENT.primary, seen).upper
    assert upper is not None
    assert judge(seen, stage=2, metrics=margins(upper)).kind is Kind.HOLD  # stage 2 saw no units
    at_two = replace(seen, quality=quality(stages=(StageUnits(2, 1000, 1000, 0.5, 0.5, 0),)))
    assert judge(at_two, stage=2, metrics=margins(upper)).kind is Kind.ADVANCE
    held = judge(at_two, stage=2, metrics=margins(math.nextafter(upper, 0)))
    assert came_to(held) == (Kind.HOLD, "could_be_harmful")


def test_early_stages_tolerate_more_as_the_spec_says() -> None:
    seen = evidence(brier(0.0), NEVER)
    upper = policy._undivided(EXPERIMENT, EXPERIMENT.primary, seen).upper
    assert upper is not None
    assert judge(seen, metrics=margins(upper / 2)).kind is Kind.ADVANCE
    assert judge(seen, metrics=margins(math.nextafter(upper / 2, 0))).kind is Kind.HOLD


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


UNDECIDED = evidence(brier(0.03), NEVER)


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


EMPTY = ArmMoments.from_units(np.zeros((0, 1)), np.zeros((0, 1)))
NOT_A_NUMBER = ArmMoments.from_units(np.full((UNITS, 1), np.nan), np.full((UNITS, 1), 2.0))
ENDLESS = ArmMoments.from_units(np.full((UNITS, 1), np.inf), np.full((UNITS, 1), 2.0))
NO_STAGES = ArmMoments.from_units(np.zeros((0, 0)), np.zeros((0, 0)))
UGLY = {
    "no cells at all": (),
    "no cell of the primary": (NEVER,),
    "no cell of the guardrail": (brier(-0.05),),
    "only a cohort of the guardrail": (brier(-0.05), replace(NEVER, cohort="origin=JFK")),
    "empty arms": (cell("brier", EMPTY, EMPTY), NEVER),
    "arms without stages": (cell("brier", NO_STAGES, NO_STAGES), cell("errors", NO_STAGES, NO_STAGES)),
    "an empty challenger": (cell("brier", arm(0.2), EMPTY), NEVER),
    "an empty control": (cell("brier", EMPTY, arm(0.1)), NEVER),
    "one unit": (cell("brier", arm(0.2), arm(0.1, units=1)), NEVER),
    "one unit each": (cell("brier", arm(0.2, units=1), arm(0.1, units=1)), NEVER),
    "two units each": (brier(-0.05, units=2), NEVER),
    "zero variance": (brier(-0.05, spread=0.0), NEVER),
    "a tie of constants": (brier(0.0, spread=0.0), NEVER),
    "nothing but NaN": (cell("brier", NOT_A_NUMBER, NOT_A_NUMBER), NEVER),
    "NaN in the challenger": (cell("brier", arm(0.2), NOT_A_NUMBER), NEVER),
    "infinite losses": (cell("brier", arm(0.2), ENDLESS), NEVER),
    "a guardrail without units": (brier(-0.05), cell("errors", EMPTY, EMPTY)),
    "a guardrail of a few units": (brier(-0.05), cell("errors", arm(0, 5, 0), arm(0, 5, 0))),
}


@pytest.mark.parametrize("cells", UGLY.values(), ids=UGLY.keys())
def test_data_that_cannot_say_never_advances_and_never_ships(cells: tuple[Cell, ...]) -> None:
    seen = Evidence("delay", "r", NOW, Cells.stack(cells), quality())
    held = judge(seen)
    assert held.kind is Kind.HOLD
    assert held.verdict.outcome is Outcome.INCONCLUSIVE
    assert judge(seen, 301).kind is Kind.ROLL_BACK
    shipped = policy.compare_online(EXPERIMENT, seen)
    assert not shipped.passed
    json.dumps([held.verdict.to_dict(), shipped.to_dict()], allow_nan=False)


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


def test_alpha_is_divided_over_metrics_and_half_of_it_over_cohorts() -> None:
    names = ("origin=JFK", "origin=LGA", "origin=EWR")
    seen = evidence(*(brier(0.0, cohort=name) for name in ("all", *names)), NEVER)
    found = policy._intervals(EXPERIMENT, names, seen)
    assert set(found) == {(metric, name) for metric in ("brier", "errors") for name in ("all", *names)}
    # 0.05 over two deciding metrics, half of it for everyone, half over three cohorts.
    assert found["brier", "all"].alpha == pytest.approx(0.0125)
    assert found["brier", "origin=JFK"].alpha == pytest.approx(0.0125 / 3)
    assert sum(interval.alpha for interval in found.values()) == pytest.approx(EXPERIMENT.alpha)
    alone = policy._intervals(EXPERIMENT, (), seen)
    assert sum(interval.alpha for interval in alone.values()) == pytest.approx(EXPERIMENT.alpha)


def test_harm_that_only_the_undivided_budget_would_prove_does_not_roll_back_with_many_cohorts() -> None:
    names = tuple(f"origin={number}" for number in range(50))
    seen = evidence(brier(-0.05), NEVER, brier(0.065, 500, names[0]))
    assert judge(seen, cohorts=names[:1]).kind is Kind.ROLL_BACK
    assert judge(seen, cohorts=names).kind is Kind.ADVANCE


def test_a_watched_metric_never_decides() -> None:
    slow = cell("slow", arm(0.0), arm(0.9, seed=2))
    seen = evidence(brier(-0.05), NEVER, slow)
    assert judge(seen).kind is Kind.ADVANCE
    assert policy.compare_online(EXPERIMENT, seen).passed
    assert "slow" not in {found.metric for found in judge(seen).verdict.parts}


SHIP = {
    "won and nothing worse": (evidence(), Outcome.PASS, "all_passed"),
    "no difference": (evidence(brier(0.0), NEVER), Outcome.INCONCLUSIVE, "primary_not_won"),
    "worse": (evidence(brier(0.1), NEVER), Outcome.INCONCLUSIVE, "primary_not_won"),
    "too little to tell": (evidence(brier(-0.05, 20), NEVER), Outcome.INCONCLUSIVE, "primary_not_won"),
    "won, but a guardrail could be worse": (
        evidence(brier(-0.05), cell("errors", arm(0.1), arm(0.115, seed=2))),
        Outcome.INCONCLUSIVE,
        "could_be_harmful",
    ),
    "won, but a guardrail is undetermined": (
        evidence(brier(-0.05), cell("errors", EMPTY, EMPTY)),
        Outcome.INCONCLUSIVE,
        "undetermined",
    ),
}


@pytest.mark.parametrize(("seen", "outcome", "reason"), SHIP.values(), ids=SHIP.keys())
def test_a_run_ships_only_when_the_primary_won_and_no_guardrail_could_be_worse(
    seen: Evidence, outcome: Outcome, reason: str
) -> None:
    verdict = policy.compare_online(EXPERIMENT, seen)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert {found.metric for found in verdict.parts} == {"brier", "errors"}


def test_an_upper_bound_of_exactly_zero_is_no_win() -> None:
    primary = EXPERIMENT.primary
    won = policy._undivided(EXPERIMENT, primary, evidence())
    assert policy._win(primary, replace(won, upper=0.0)).outcome is Outcome.INCONCLUSIVE
    assert policy._win(primary, replace(won, upper=math.nextafter(0.0, -1))).passed


@pytest.mark.parametrize("seen", [evidence(), HARM, UNDECIDED, evidence(brier(-0.05))])
def test_the_same_evidence_always_gives_the_same_decision_to_the_last_digit(seen: Evidence) -> None:
    stored = json.dumps(seen.to_dict(), allow_nan=False)
    again = Evidence.from_dict(json.loads(stored))
    first, second = judge(seen, cohorts=("origin=JFK",)), judge(again, cohorts=("origin=JFK",))
    assert first.kind is second.kind
    assert json.dumps(first.verdict.to_dict()) == json.dumps(second.verdict.to_dict())
    shipped = [policy.compare_online(EXPERIMENT, item).to_dict() for item in (seen, again)]
    assert shipped[0] == shipped[1]


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
