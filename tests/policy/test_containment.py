"""One harmed cohort goes back to the champion, and the rest goes on; more than that ends the run."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import HARM, NEVER, brier, came_to, cell, evidence, judge, part
from understudy import policy
from understudy.policy import Decision, History, Kind
from understudy.stats.cells import Cell, Cells
from understudy.stats.evidence import Evidence
from understudy.stats.ratio import ArmMoments
from understudy.verdicts import Outcome

NAMES = ("origin=EWR", "origin=JFK", "origin=LGA")
CONTAIN = {"cohort_harm": "contain"}


def cohort(name: str, harm: float, units: int = 1500) -> list[Cell]:
    return [brier(harm, units, name), replace(NEVER, cohort=name)]


def world(ewr: float = -0.05, jfk: float = -0.05, lga: float = -0.05, everyone: float = -0.05) -> Evidence:
    inside = [*cohort(NAMES[0], ewr), *cohort(NAMES[1], jfk), *cohort(NAMES[2], lga)]
    return evidence(brier(everyone), NEVER, *inside)


def contain(seen: Evidence, contained: tuple[str, ...] = (), **changes: Any) -> Decision:
    return judge(seen, cohorts=NAMES, contained=contained, **(CONTAIN | changes))


def test_a_harmed_cohort_is_sent_back_and_everyone_else_goes_on() -> None:
    decision = contain(world(jfk=0.12))
    assert came_to(decision) == (Kind.HOLD, "cohort_contained")
    assert decision.contain == ("origin=JFK",)
    assert decision.renew_lease
    assert decision.verdict.outcome is Outcome.FAIL
    assert "origin=JFK goes back to the champion" in decision.verdict.sentence
    assert "brier is worse by about 0.12" in decision.verdict.sentence


def test_the_same_harm_rolls_back_a_run_that_does_not_contain() -> None:
    decision = judge(world(jfk=0.12), cohorts=NAMES)
    assert (*came_to(decision), decision.contain) == (Kind.ROLL_BACK, "guardrail_breached", ())


def test_the_look_after_goes_on_without_the_contained_cohort() -> None:
    decision = contain(world(jfk=0.12), contained=("origin=JFK",))
    assert came_to(decision) == (Kind.ADVANCE, "stage_passed")
    assert decision.contain == ()
    assert "origin=JFK" not in {found.cohort for found in decision.verdict.parts}


def test_harm_to_everyone_rolls_back_whatever_could_be_contained() -> None:
    decision = contain(world(jfk=0.12, everyone=0.1))
    assert (*came_to(decision), decision.contain) == (Kind.ROLL_BACK, "guardrail_breached", ())
    assert decision.verdict.cohort == "all"


@pytest.mark.parametrize(
    ("harmed", "contained", "most", "kind"),
    [
        (1, (), 1, Kind.HOLD),
        (2, (), 1, Kind.ROLL_BACK),
        (2, (), 2, Kind.HOLD),
        (1, ("origin=LGA",), 1, Kind.ROLL_BACK),
        (1, ("origin=LGA",), 2, Kind.HOLD),
        (2, ("origin=LGA",), 2, Kind.ROLL_BACK),
    ],
)
def test_as_many_cohorts_may_go_back_as_the_spec_says_and_one_more_ends_the_run(
    harmed: int, contained: tuple[str, ...], most: int, kind: Kind
) -> None:
    seen = world(ewr=0.12, jfk=0.12 if harmed == 2 else -0.05)
    decision = contain(seen, contained, max_contained=most)
    assert decision.kind is kind
    assert decision.contain == (NAMES[:harmed] if kind is Kind.HOLD else ())
    if kind is Kind.ROLL_BACK:
        assert decision.verdict.reason == "too_many_contained"
        assert decision.verdict.outcome is Outcome.FAIL


def test_a_limit_of_looks_holds_for_containing_too() -> None:
    limits = {"failures": 1}
    first = contain(world(jfk=0.12), limits=limits)
    assert (first.kind, first.contain, first.history.failures) == (Kind.HOLD, (), 1)
    second = contain(world(jfk=0.12), limits=limits, history=first.history)
    assert (second.contain, second.history.failures) == (("origin=JFK",), 0)
    assert contain(world(jfk=0.12), history=History(failures=3)).contain == ("origin=JFK",)


def test_a_look_that_contains_does_not_advance_though_all_else_is_proven() -> None:
    assert contain(world()).kind is Kind.ADVANCE
    assert contain(world(jfk=0.12)).kind is Kind.HOLD


def e_value_of(experiment: Any, seen: Evidence) -> np.ndarray:
    found = policy.states(experiment, NAMES, seen.cells)
    each = np.exp(found.log_e()[found.rows.by_cohort])
    return np.asarray(each.mean(axis=-1))


def test_cohorts_are_chosen_by_e_bh_over_the_mean_of_their_metrics() -> None:
    experiment = declared.experiment(**CONTAIN)
    none = np.zeros(3, dtype=bool)
    for harm in np.linspace(0.02, 0.09, 30):
        seen = world(ewr=float(harm), jfk=float(harm) + 0.01, lga=0.0)
        e = np.sort(e_value_of(experiment, seen))[::-1]
        enough = [rank for rank in (1, 2, 3) if rank * e[rank - 1] / 3 >= 1 / 0.025]
        found = policy.harmed_cohorts(experiment, policy.states(experiment, NAMES, seen.cells), none)
        assert found.sum() == max(enough, default=0)


def test_several_harmed_cohorts_lend_each_other_strength() -> None:
    """The second largest e-value needs only half of what the largest needs alone."""
    experiment = declared.experiment(**CONTAIN)
    none = np.zeros(3, dtype=bool)

    def found(ewr: float, jfk: float) -> list[bool]:
        seen = world(ewr=ewr, jfk=jfk, lga=-0.05)
        return list(policy.harmed_cohorts(experiment, policy.states(experiment, NAMES, seen.cells), none))

    alone = next(h for h in np.linspace(0.02, 0.1, 400) if found(float(h), -0.05)[0])
    together = next(h for h in np.linspace(0.02, 0.1, 400) if found(float(h), 0.2)[0])
    assert together < alone


def test_harm_that_bonferroni_would_prove_is_also_contained() -> None:
    experiment = declared.experiment(**CONTAIN)
    none = np.zeros(3, dtype=bool)
    proven = 0
    for harm in np.linspace(0.02, 0.12, 60):
        found = policy.states(experiment, NAMES, world(jfk=float(harm)).cells)
        if found.harmful[found.rows.by_cohort[1]].any():
            proven += 1
            each = found.log_e()[found.rows.by_cohort[1]]
            assert each.max() >= math.log(2 * 3 / 0.025)
            assert policy.harmed_cohorts(experiment, found, none)[1]
    assert proven > 10


def test_a_contained_cohort_still_counts_as_a_question_asked() -> None:
    experiment = declared.experiment(**CONTAIN)
    one_gone = np.array([False, False, True])
    rows = policy.harm_rows(experiment, NAMES)
    before = policy.states(experiment, NAMES, world(jfk=0.12).cells)
    after = policy.states(experiment, NAMES, world(jfk=0.12).cells, one_gone)
    assert after.rows.alpha.tolist() == before.rows.alpha.tolist() == rows.alpha.tolist()
    assert policy.harmed_cohorts(experiment, after, one_gone).tolist() == [False, True, False]


def test_without_any_harm_hardly_a_run_of_looks_contains_a_cohort() -> None:
    """At the margin exactly, under continuous looks, cohorts are sent back in at most alpha / 2 of the runs."""
    experiment = declared.experiment(cohort_harm="contain", alpha=0.2)
    rng = np.random.default_rng(4)
    runs, per_look, looks = 200, 30, 20
    draws = rng.normal(0.0, 0.3, (2, runs, 3, per_look * looks, 1))
    draws[1] += 0.02
    ever = np.zeros(runs, dtype=bool)
    none = np.zeros((runs, 3), dtype=bool)
    for look in range(1, looks + 1):
        arms = [ArmMoments.from_units(d, np.ones_like(d)) for d in draws[..., : look * per_look, :]]
        cells = Cells(("brier",) * 3, ("brier",) * 3, NAMES, *arms)
        ever |= policy.harmed_cohorts(experiment, policy.states(experiment, NAMES, cells), none).any(axis=-1)
    assert ever.mean() <= 0.15  # 0.1 promised; 200 runs stay below 0.15 with more than 98 %


def test_a_run_with_a_contained_cohort_never_ships_and_says_what_to_do() -> None:
    seen = world(jfk=-0.05)
    experiment = declared.experiment(**CONTAIN)
    assert policy.compare_online(experiment, seen, cohorts=NAMES).passed
    verdict = policy.compare_online(experiment, seen, cohorts=NAMES, contained=("origin=JFK",))
    assert (verdict.outcome, verdict.reason) == (Outcome.INCONCLUSIVE, "cohort_contained")
    assert "Promotion would give it that version again" in verdict.sentence
    assert (
        verdict.change
        == "A version that does not harm origin=JFK, in a new run, or a model of its own for origin=JFK."
    )
    assert part(verdict, "brier").passed


def test_a_cohort_of_another_metric_is_judged_too() -> None:
    failed = np.zeros((1500, 1))
    bad = failed.copy()
    bad[:300] = 1.0
    arms = [ArmMoments.from_units(values, np.ones_like(values)) for values in (failed, bad)]
    seen = evidence(
        brier(-0.05), NEVER, brier(-0.05, 1500, "origin=JFK"), cell("errors", *arms, "origin=JFK")
    )
    decision = contain(seen)
    assert decision.contain == ("origin=JFK",)
    assert decision.verdict.metric == "errors"


def test_harm_in_a_cohort_nobody_registered_is_not_contained() -> None:
    seen = evidence(brier(-0.05), NEVER, *cohort("origin=SFO", 0.3))
    assert contain(seen).kind is Kind.ADVANCE


def test_harm_to_everyone_acts_when_every_cohort_is_contained() -> None:
    assert contain(HARM, contained=NAMES, max_contained=3).kind is Kind.ROLL_BACK
