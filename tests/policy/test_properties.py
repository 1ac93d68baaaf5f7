"""What holds for every look there could be."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import declared
from tests.policy.scenes import NOW, arm, cell, errors, evidence
from understudy import policy
from understudy.policy import Decision, History, Kind, Look
from understudy.stats.cells import Cell, Cells
from understudy.stats.evidence import Evidence, StageUnits
from understudy.stats.srm import Split
from understudy.verdicts import Outcome

NAMES = ("origin=JFK", "origin=LGA")
UNITS = st.sampled_from([0, 1, 2, 30, 300, 3000])
HARM = st.sampled_from([-0.1, -0.03, 0.0, 0.015, 0.03, 0.1])
GATES = {
    *("fresh", "split_as_planned", "one_arm_each", "each_event_once", "nearly_all_counted"),
    *("soaked", "enough_units", "within_tolerance", "budget_open"),
}


@st.composite
def cells(draw: st.DrawFn) -> list[Cell]:
    found = []
    for cohort in ("all", *NAMES):
        if draw(st.integers(0, 5)) == 0:
            continue
        units, spread = draw(UNITS), draw(st.sampled_from([0.0, 0.2]))
        arms = arm(0.3, units, spread), arm(0.3 + draw(HARM), units, spread, seed=2)
        found.append(cell("brier", *arms, cohort))
        if draw(st.booleans()):
            found.append(errors(min(draw(st.sampled_from([0, 1, 20, 200])), units), units, 0, cohort))
    return found


@st.composite
def looks(draw: st.DrawFn) -> Look:
    seen = evidence(
        stages=(StageUnits(1, draw(UNITS), draw(UNITS), 0.1, 0.1, 0),),
        splits=(Split((1,), (draw(st.sampled_from([900, 1000])), 1000), (0.1, 0.1)),),
        newest_received_at=draw(st.sampled_from([None, NOW - 1, NOW - 1, NOW - 99, NOW + 99])),
        multi_arm_units=draw(st.sampled_from([0, 0, 0, 1])),
        duplicates=draw(st.sampled_from([0, 0, 0, 7])),
    )
    counters = [draw(st.integers(0, 3)) for _ in range(3)]
    return Look(
        evidence=replace(seen, cells=Cells.stack(draw(cells()), (1,))),
        stage=1,
        seconds_in_stage=draw(st.sampled_from([0.0, 60.0, 60.0, 301.0])),
        now=NOW,
        cohorts=NAMES,
        contained=draw(st.sampled_from([(), (), NAMES[:1]])),
        history=History(*counters, spent_before={"errors": draw(st.sampled_from([0.0, 99.0]))}),
    )


SPECS = st.fixed_dictionaries(
    {
        "cohort_harm": st.sampled_from(["roll_back", "contain"]),
        "limits": st.sampled_from([{}, {"failures": 1, "errors": 2, "inconclusive": 2}]),
        "budgets": st.sampled_from(
            [
                [],
                [{"metric": "errors", "service": 100, "on_spent": "hold"}],
                [{"metric": "errors", "service": 100}],
            ]
        ),
    }
)
EVERY_LOOK = settings(max_examples=80, deadline=None)


def decide(look: Look, spec: dict[str, Any]) -> Decision:
    return policy.decide(declared.experiment(**spec), look)


@EVERY_LOOK
@given(looks(), SPECS)
def test_a_look_is_decided_alike_whenever_and_wherever_it_is_decided(
    look: Look, spec: dict[str, Any]
) -> None:
    stored = json.loads(json.dumps(look.to_dict(), allow_nan=False))
    decision = decide(look, spec)
    assert decision == decide(look, spec) == decide(Look.from_dict(stored), spec)
    json.dumps(decision.verdict.to_dict(), allow_nan=False)


@EVERY_LOOK
@given(looks(), SPECS)
def test_exposure_rises_only_when_every_gate_has_passed(look: Look, spec: dict[str, Any]) -> None:
    decision = decide(look, spec)
    assert (decision.kind is Kind.ADVANCE) == decision.verdict.passed
    if decision.kind is not Kind.ADVANCE:
        assert decision.verdict.outcome is not Outcome.PASS
        return
    deciding = [part for part in decision.verdict.parts if part.evidence.get("decides", True)]
    assert {part.reason for part in deciding if part.cohort in (None, "all")} <= GATES
    assert all(part.passed for part in deciding if part.cohort in (None, "all"))
    assert not any(part.outcome is Outcome.FAIL for part in deciding)
    judged = {part.metric for part in deciding if part.reason == "within_tolerance"}
    assert judged == {"brier", "errors"}
    assert decision.renew_lease
    assert decision.contain == ()


@EVERY_LOOK
@given(looks(), SPECS)
def test_a_lease_is_renewed_only_while_evidence_is_fresh_and_nothing_is_taken_back(
    look: Look, spec: dict[str, Any]
) -> None:
    decision = decide(look, spec)
    newest = look.evidence.quality.newest_received_at
    fresh = newest is not None and abs(look.now - newest) <= 20
    assert decision.renew_lease == (fresh and decision.kind is not Kind.ROLL_BACK)


def with_more_harm(seen: Evidence, cohort: str, harm: float) -> Evidence:
    """Return the same evidence with every challenger event of a cohort worse by so much."""
    worse = []
    for found in seen.cells:
        if (found.metric, found.cohort) == ("brier", cohort):
            challenger = replace(
                found.challenger, sum_n=found.challenger.sum_n + harm * found.challenger.sum_d
            )
            found = replace(found, challenger=challenger)
        worse.append(found)
    return replace(seen, cells=Cells.stack(worse, (1,)))


@EVERY_LOOK
@given(looks(), SPECS, st.sampled_from(["all", *NAMES]), st.floats(0, 0.5))
def test_more_harm_never_raises_exposure(look: Look, spec: dict[str, Any], cohort: str, harm: float) -> None:
    before = decide(look, spec)
    after = decide(replace(look, evidence=with_more_harm(look.evidence, cohort, harm)), spec)
    if before.kind is not Kind.ADVANCE:
        assert after.kind is not Kind.ADVANCE
    if before.verdict.reason == "guardrail_breached" and before.kind is Kind.ROLL_BACK:
        assert after.kind is Kind.ROLL_BACK


@EVERY_LOOK
@given(looks(), SPECS)
def test_only_live_cohorts_are_contained_and_only_while_the_run_goes_on(
    look: Look, spec: dict[str, Any]
) -> None:
    decision = decide(look, spec)
    assert set(decision.contain) <= set(look.cohorts) - set(look.contained)
    assert not decision.contain or (decision.kind is Kind.HOLD and spec["cohort_harm"] == "contain")
    assert len({*decision.contain, *look.contained}) <= 1


@EVERY_LOOK
@given(looks(), SPECS)
def test_nothing_ships_that_would_not_have_advanced_a_finished_ladder(
    look: Look, spec: dict[str, Any]
) -> None:
    experiment = declared.experiment(**spec)
    verdict = policy.compare_online(experiment, look.evidence, cohorts=look.cohorts, contained=look.contained)
    if verdict.passed:
        assert not look.contained
        found = policy.states(experiment, look.cohorts, look.evidence.cells)
        assert not policy.harmed_overall(found)
        assert policy.tolerated(policy.tolerances(experiment, look.cohorts, look.evidence.cells))
