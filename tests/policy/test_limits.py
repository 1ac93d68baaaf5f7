"""Looks in a row: N are tolerated, N + 1 act, and no kind of look counts for another."""

from __future__ import annotations

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import HARM, NEVER, SILENT, UNDECIDED, brier, came_to, evidence, judge
from understudy import policy
from understudy.policy import Cause, Counters, History, Kind, Signals
from understudy.stats.evidence import Evidence
from understudy.verdicts import Outcome

LIMITS = {"failures": 2, "errors": 3, "inconclusive": 4}
ACTING = {
    "failures": (HARM, 2, "guardrail_breached"),
    "errors": (SILENT, 3, "too_many_errors"),
    "inconclusive": (UNDECIDED, 4, "too_many_inconclusive"),
}


@pytest.mark.parametrize("kind", ACTING)
def test_a_limit_of_n_tolerates_n_looks_in_a_row_and_acts_at_the_next(kind: str) -> None:
    seen, limit, reason = ACTING[kind]
    for before in range(limit):
        held = judge(seen, history=History(**{kind: before}), limits=LIMITS)
        assert held.kind is Kind.HOLD
        assert getattr(held.history, kind) == before + 1
    acted = judge(seen, history=History(**{kind: limit}), limits=LIMITS)
    assert came_to(acted) == (Kind.ROLL_BACK, reason)


@pytest.mark.parametrize("kind", ACTING)
def test_no_counter_is_moved_by_looks_of_another_kind(kind: str) -> None:
    seen, _, _ = ACTING[kind]
    others = {name: 2 for name in LIMITS if name != kind}
    full = judge(seen, history=History(**others), limits=LIMITS)
    assert full.kind is Kind.HOLD
    assert getattr(full.history, kind) == 1
    assert all(getattr(full.history, name) <= 2 for name in others)


def test_the_first_proof_of_harm_rolls_back_unless_the_spec_says_otherwise() -> None:
    assert judge(HARM).kind is Kind.ROLL_BACK


@pytest.mark.parametrize("kind", ["errors", "inconclusive"])
def test_without_a_limit_only_the_lease_and_the_time_out_end_it(kind: str) -> None:
    seen, _, _ = ACTING[kind]
    held = judge(seen, history=History(**{kind: 10_000}))
    assert held.kind is Kind.HOLD
    assert held.renew_lease is (kind == "inconclusive")


def play(*looks: Evidence, limits: dict[str, int] = LIMITS) -> list[Kind]:
    history, kinds = History(), []
    for seen in looks:
        decision = judge(seen, history=history, limits=limits)
        history = decision.history
        kinds.append(decision.kind)
    return kinds


FINE = evidence()
HOLD, BACK, ON = Kind.HOLD, Kind.ROLL_BACK, Kind.ADVANCE


@pytest.mark.parametrize(
    ("looks", "kinds"),
    [
        ([HARM, HARM, HARM], [HOLD, HOLD, BACK]),
        ([HARM, HARM, UNDECIDED, HARM, HARM, HARM], [HOLD, HOLD, HOLD, HOLD, HOLD, BACK]),
        # A look that could not measure says nothing, so it does not clear the harm before it.
        ([HARM, HARM, SILENT, HARM], [HOLD, HOLD, HOLD, BACK]),
        ([SILENT, SILENT, SILENT, SILENT], [HOLD, HOLD, HOLD, BACK]),
        ([SILENT, SILENT, SILENT, UNDECIDED, SILENT], [HOLD] * 5),
        ([UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED], [HOLD, HOLD, HOLD, HOLD, BACK]),
        ([UNDECIDED, UNDECIDED, UNDECIDED, UNDECIDED, FINE], [HOLD, HOLD, HOLD, HOLD, ON]),
    ],
)
def test_looks_are_counted_in_a_row(looks: list[Evidence], kinds: list[Kind]) -> None:
    assert play(*looks) == kinds


def test_looks_during_the_soak_are_not_counted_as_undecided() -> None:
    held = judge(UNDECIDED, seconds=1.0, limits=LIMITS | {"inconclusive": 0})
    assert (held.kind, held.history.inconclusive) == (Kind.HOLD, 0)
    assert judge(UNDECIDED, seconds=30.0, limits=LIMITS | {"inconclusive": 0}).kind is Kind.ROLL_BACK


def test_tolerated_harm_never_advances_and_says_how_many_looks_are_left() -> None:
    # Harm beyond the margin of 0.02, and yet within the doubled tolerance of the first stage.
    seen = evidence(brier(0.031, 60_000), NEVER)
    held = judge(seen, limits=LIMITS)
    assert came_to(held) == (Kind.HOLD, "guardrail_breached")
    assert held.verdict.outcome is Outcome.FAIL
    assert "1st look in a row with proven harm, and 2 are tolerated" in held.verdict.sentence
    assert held.verdict.change.startswith("2 more looks in a row like this one")
    last = judge(seen, history=History(failures=1), limits=LIMITS)
    assert last.verdict.change.startswith("1 more look in a row")


def test_tolerated_harm_past_the_time_out_is_rolled_back_in_words_about_the_harm() -> None:
    decision = judge(evidence(brier(0.031, 60_000), NEVER), 301.0, limits=LIMITS)
    assert came_to(decision) == (Kind.ROLL_BACK, "stage_timed_out")
    assert "brier is worse by at least" in decision.verdict.sentence


def test_unsound_evidence_is_never_tolerated() -> None:
    assert judge(evidence(multi_arm_units=1), limits=LIMITS).kind is Kind.ROLL_BACK


def test_many_runs_are_counted_as_each_of_them_alone() -> None:
    experiment = declared.experiment(limits=LIMITS)
    rng = np.random.default_rng(5)
    flags = {
        name: rng.random(400) < 0.5
        for name in ("harmed", "tolerated", "soaked", "enough_units", "timed_out", "measured", "sound")
    }
    counters = {name: rng.integers(0, 6, 400) for name in ("failures", "errors", "inconclusive")}
    nothing = np.zeros((400, 0), dtype=bool)
    spent = {"budget_open": rng.random(400) < 0.8, "budget_spent": rng.random(400) < 0.1}
    every = policy.apply_rules(
        experiment,
        Signals(
            **flags, **spent, harmed_cohorts=nothing, contained=nothing, counters=Counters.of(**counters)
        ),
    )
    for run in range(400):
        one = {name: np.asarray(value[run]) for name, value in (flags | spent).items()}
        counts = Counters.of(**{name: value[run] for name, value in counters.items()})
        alone = policy.apply_rules(
            experiment, Signals(**one, harmed_cohorts=nothing[run], contained=nothing[run], counters=counts)
        )
        assert (int(alone.kind), int(alone.cause)) == (int(every.kind[run]), int(every.cause[run]))
        assert int(alone.counters.failures) == int(every.counters.failures[run])
    assert set(every.cause.tolist()) >= {Cause.PASSED, Cause.HARM, Cause.UNSOUND, Cause.BUDGET_SPENT}
