"""Ugly evidence: never a PASS, never an exception, and the sentence names the reason."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import HARM, NEVER, NOW, arm, brier, cell, evidence, judge, metrics, quality
from understudy import policy
from understudy.policy import Decision, Kind
from understudy.stats.cells import Cell, Cells
from understudy.stats.evidence import ArmQuality, Evidence
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split
from understudy.verdicts import Outcome, Verdict

MONEY = {
    "name": "revenue",
    "kind": "mean",
    "role": "guardrail",
    "margin": 0.05,
    "value": "revenue",
    "better": "higher",
}
EXPERIMENT = declared.experiment(metrics=metrics(MONEY))
EMPTY = ArmMoments.from_units(np.zeros((0, 1)), np.zeros((0, 1)))
NO_STAGES = ArmMoments.from_units(np.zeros((0, 0)), np.zeros((0, 0)))
GOOD = cell("revenue", arm(-3.0), arm(-3.5, seed=2), kind="mean")


def filled(value: float, bad: int = 2000, units: int = 2000, mean: float = 0.1) -> ArmMoments:
    """Return units of which some bring nothing but this value."""
    values = np.full((units, 1), mean) + np.random.default_rng(7).normal(0, 0.05, (units, 1))
    values[:bad] = value
    return ArmMoments.from_units(values, np.ones((units, 1)))


def money(control: ArmMoments, challenger: ArmMoments) -> Cell:
    return cell("revenue", control, challenger, kind="mean")


def scaled(moments: ArmMoments, by: float) -> ArmMoments:
    return replace(moments, sum_n=moments.sum_n * by, rr=moments.rr * by * by, rd=moments.rd * by)


CELLS: dict[str, tuple[tuple[Cell, ...], str]] = {
    "no cells at all": ((), "nothing has been measured"),
    "no cell of the primary": ((NEVER, GOOD), "brier cannot be determined yet: nothing has been measured"),
    "no cell of a guardrail": (
        (brier(-0.05), GOOD),
        "errors cannot be determined yet: nothing has been measured",
    ),
    "only a cohort of a guardrail": (
        (brier(-0.05), replace(NEVER, cohort="origin=JFK"), GOOD),
        "errors cannot be determined yet: nothing has been measured",
    ),
    "empty arms": ((cell("brier", EMPTY, EMPTY), NEVER, GOOD), "too few units"),
    "arms without stages": (
        (
            cell("brier", NO_STAGES, NO_STAGES),
            cell("errors", NO_STAGES, NO_STAGES),
            money(NO_STAGES, NO_STAGES),
        ),
        "too few units",
    ),
    "an empty challenger": ((cell("brier", arm(0.2), EMPTY), NEVER, GOOD), "too few units"),
    "an empty control": ((cell("brier", EMPTY, arm(0.1)), NEVER, GOOD), "too few units"),
    "one unit": ((cell("brier", arm(0.2), arm(0.1, units=1)), NEVER, GOOD), "too few units"),
    "one unit each": ((cell("brier", arm(0.2, units=1), arm(0.1, units=1)), NEVER, GOOD), "too few units"),
    "two units each": ((brier(-0.05, units=2), NEVER, GOOD), "brier could still be"),
    "zero variance": ((brier(-0.05, spread=0.0), NEVER, GOOD), "exactly the same value"),
    "a tie of constants": ((brier(0.0, spread=0.0), NEVER, GOOD), "exactly the same value"),
    "nothing but NaN": ((cell("brier", filled(math.nan), filled(math.nan)), NEVER, GOOD), "not numbers"),
    "NaN in the challenger": ((cell("brier", arm(0.2), filled(math.nan)), NEVER, GOOD), "not numbers"),
    "some NaN in the challenger": (
        (cell("brier", arm(0.2), filled(math.nan, 40)), NEVER, GOOD),
        "not numbers",
    ),
    "infinite losses": ((cell("brier", arm(0.2), filled(math.inf)), NEVER, GOOD), "not numbers"),
    "some infinite values": (
        (brier(-0.05), NEVER, money(arm(-3.0), filled(-math.inf, 30, mean=-3.0))),
        "not numbers",
    ),
    "a guardrail without units": ((brier(-0.05), cell("errors", EMPTY, EMPTY), GOOD), "errors"),
    "a guardrail of a few units": (
        (brier(-0.05), cell("errors", arm(0, 5, 0), arm(0, 5, 0)), GOOD),
        "errors could still be",
    ),
    "a probability score times a billion": (
        (cell("brier", scaled(arm(0.2), 1e9), scaled(arm(0.15, seed=2), 1e9)), NEVER, GOOD),
        "outside what such a metric can be",
    ),
    "one arm times a billion": (
        (brier(-0.05), NEVER, money(arm(-3.0), scaled(arm(-3.0, seed=2), 1e9))),
        "as if they were in different units",
    ),
    "one arm divided by a billion": (
        (brier(-0.05), NEVER, money(scaled(arm(3.0), 1e9), arm(3.0, seed=2))),
        "as if they were in different units",
    ),
    "both arms times a billion": (
        (brier(-0.05), NEVER, money(scaled(arm(-3.0), 1e9), scaled(arm(-3.0, seed=2), 1e9))),
        "revenue could still be",
    ),
}


def sentences(verdict: Verdict) -> str:
    return " ".join([verdict.sentence, *(found.sentence for found in verdict.parts)])


@pytest.mark.parametrize(("cells", "named"), CELLS.values(), ids=CELLS.keys())
def test_data_that_cannot_say_never_advances_never_ships_and_names_why(
    cells: tuple[Cell, ...], named: str
) -> None:
    seen = Evidence("delay", "r", NOW, Cells.stack(cells), quality())
    held = judge(seen, metrics=metrics(MONEY))
    assert held.kind is Kind.HOLD
    assert held.verdict.outcome is Outcome.INCONCLUSIVE
    assert named in sentences(held.verdict)
    assert held.verdict.change
    assert judge(seen, 301, metrics=metrics(MONEY)).kind is Kind.ROLL_BACK
    shipped = policy.compare_online(EXPERIMENT, seen)
    assert not shipped.passed
    assert named.partition(" could")[0] in sentences(shipped)
    json.dumps([held.verdict.to_dict(), shipped.to_dict()], allow_nan=False)


def test_the_good_neighbours_of_the_ugly_cases_pass() -> None:
    seen = evidence(brier(-0.05), NEVER, GOOD)
    assert judge(seen, metrics=metrics(MONEY)).kind is Kind.ADVANCE
    assert policy.compare_online(EXPERIMENT, seen).passed


def test_a_rare_value_that_is_no_number_holds_nothing_back() -> None:
    seen = evidence(cell("brier", arm(0.2), filled(math.nan, 15)), NEVER)
    assert judge(seen).kind is Kind.ADVANCE


def test_doubtful_numbers_may_stop_a_challenger_though_they_can_never_pass_it() -> None:
    huge = cell("brier", arm(0.2), scaled(arm(0.5, seed=2), 1e9))
    assert judge(evidence(huge, NEVER)).kind is Kind.ROLL_BACK


@pytest.mark.parametrize("harm", [0.1, -0.1])
def test_swapped_arms_swap_the_answer(harm: float) -> None:
    right = brier(harm)
    swapped = replace(right, control=right.challenger, challenger=right.control)
    kinds = [judge(evidence(found, NEVER)).kind for found in (right, swapped)]
    expected = [Kind.ROLL_BACK, Kind.ADVANCE]
    assert kinds == (expected if harm > 0 else expected[::-1])


LOOKS: dict[str, tuple[dict[str, Any], Kind, Outcome, str]] = {
    "no events": (
        {"newest_received_at": None},
        Kind.HOLD,
        Outcome.ERROR,
        "No request of this run has been logged",
    ),
    "old events": ({"newest_received_at": NOW - 21}, Kind.HOLD, Outcome.ERROR, "counts as not measured"),
    "events of no known time": ({"newest_received_at": math.nan}, Kind.HOLD, Outcome.ERROR, "not measured"),
    "events of an endless age": ({"newest_received_at": -math.inf}, Kind.HOLD, Outcome.ERROR, "not measured"),
    "clocks that disagree": (
        {"newest_received_at": NOW + 21},
        Kind.HOLD,
        Outcome.ERROR,
        "the clocks disagree",
    ),
    "a share of zero with counts": (
        {"splits": (Split((1,), (1, 500), (0.0, 0.1)),)},
        Kind.ROLL_BACK,
        Outcome.FAIL,
        "units were seen in an arm that was to get none",
    ),
    "counts unlike the shares": (
        {"splits": (Split((1,), (500, 900), (0.1, 0.1)),)},
        Kind.ROLL_BACK,
        Outcome.FAIL,
        "differ from the planned shares by more than chance",
    ),
    "units in both arms": (
        {"multi_arm_units": 3},
        Kind.ROLL_BACK,
        Outcome.FAIL,
        "3 units were seen in both arms",
    ),
    "every event twice": (
        {"control": ArmQuality(events=4000), "challenger": ArmQuality(events=4000), "duplicates": 8_000},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "came more than once",
    ),
    "events that name no unit": (
        {"without_unit": 1},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "1 events name no unit",
    ),
    "events from the future": ({"skewed": 9}, Kind.HOLD, Outcome.INCONCLUSIVE, "so the clocks disagree"),
    "an arm that does not exist": (
        {"unknown_arms": 9},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "an arm that does not exist",
    ),
    "answers of another version": (
        {"wrong_version": 9},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "answered by another version than their arm's",
    ),
    "outcomes before their events": (
        {"outcomes_before_event": 5, "control": ArmQuality(events=400, labelled=300)},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "5 outcomes came before the event",
    ),
    "outcomes that are not numbers": (
        {"non_finite_outcomes": 5},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "5 outcomes are not numbers",
    ),
    "no units at this stage": (
        {"stages": ()},
        Kind.HOLD,
        Outcome.INCONCLUSIVE,
        "0 challenger and 0 control units",
    ),
}


@pytest.mark.parametrize(("changes", "kind", "outcome", "named"), LOOKS.values(), ids=LOOKS.keys())
def test_unsound_evidence_never_advances_and_names_why(
    changes: dict[str, Any], kind: Kind, outcome: Outcome, named: str
) -> None:
    decision: Decision = judge(evidence(**changes))
    assert (decision.kind, decision.verdict.outcome) == (kind, outcome)
    assert named in decision.verdict.sentence
    assert decision.verdict.change
    json.dumps(decision.verdict.to_dict(), allow_nan=False)


def test_a_few_repeated_requests_hold_nothing_back() -> None:
    counted = ArmQuality(events=4000)
    assert judge(evidence(control=counted, challenger=counted, duplicates=4_000)).kind is Kind.ADVANCE
    assert judge(evidence(control=counted, challenger=counted, duplicates=4_001)).kind is Kind.HOLD


@pytest.mark.parametrize("name", ["without_unit", "skewed", "unknown_arms", "wrong_version"])
def test_one_event_in_a_hundred_may_be_left_out_and_one_more_may_not(name: str) -> None:
    counted = ArmQuality(events=4950)
    assert judge(evidence(control=counted, challenger=counted, **{name: 100})).kind is Kind.ADVANCE
    assert judge(evidence(control=counted, challenger=counted, **{name: 101})).kind is Kind.HOLD


def test_a_clock_that_is_a_little_fast_holds_nothing_back() -> None:
    assert judge(evidence(newest_received_at=NOW + 20)).kind is Kind.ADVANCE


@pytest.mark.parametrize("seconds", [math.nan, -math.inf, -5.0, 0.0])
def test_a_time_in_stage_that_cannot_be_is_no_soak(seconds: float) -> None:
    held = judge(evidence(), seconds)
    assert (held.kind, held.verdict.reason) == (Kind.HOLD, "soaking")
    json.dumps(held.verdict.to_dict(), allow_nan=False)


def test_an_endless_time_in_stage_is_an_exception_to_nobody() -> None:
    for seen in (evidence(), HARM, evidence(brier(0.03), NEVER)):
        json.dumps(judge(seen, math.inf).verdict.to_dict(), allow_nan=False)
