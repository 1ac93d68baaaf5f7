"""The end of a run: promotion needs a proven win, and nothing that could be worse than its margin."""

from __future__ import annotations

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import EXPERIMENT, NEVER, arm, brier, cell, evidence
from understudy import policy
from understudy.policy.row_states import States
from understudy.stats.cells import Cells
from understudy.stats.evidence import Evidence
from understudy.stats.ratio import ArmMoments
from understudy.stats.srm import Split
from understudy.verdicts import Outcome

EMPTY = ArmMoments.from_units(np.zeros((0, 1)), np.zeros((0, 1)))


SHIP = {
    "won and nothing worse": (evidence(), Outcome.PASS, "all_passed"),
    "no difference": (evidence(brier(0.0), NEVER), Outcome.INCONCLUSIVE, "primary_not_won"),
    "slightly worse": (evidence(brier(0.01), NEVER), Outcome.INCONCLUSIVE, "primary_not_won"),
    "harmful": (evidence(brier(0.1), NEVER), Outcome.FAIL, "guardrail_breached"),
    "a split that differs from the plan": (
        evidence(splits=(Split((1,), (700, 1000), (0.1, 0.1)),)),
        Outcome.FAIL,
        "sample_ratio_mismatch",
    ),
    "a unit in both arms": (evidence(multi_arm_units=1), Outcome.FAIL, "multi_exposure"),
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
    assert {found.metric for found in verdict.parts} - {None} == {"brier", "errors"}


def test_harm_proven_in_one_registered_cohort_forbids_promotion() -> None:
    seen = evidence(brier(-0.05), NEVER, brier(0.12, 800, "origin=JFK"))
    assert policy.compare_online(EXPERIMENT, seen).passed
    verdict = policy.compare_online(EXPERIMENT, seen, cohorts=("origin=JFK", "origin=LGA"))
    assert (verdict.outcome, verdict.cohort) == (Outcome.FAIL, "origin=JFK")


def test_an_upper_bound_of_exactly_zero_is_no_win() -> None:
    found = policy.tolerances(EXPERIMENT, (), evidence().cells)
    for upper, won in ((0.0, False), (np.nextafter(0.0, -1), True)):
        table = found.table
        table.upper[0] = upper
        shifted = States(found.rows, table, found.doubt, found.missing)
        assert bool(policy.shipped(shifted).won) is won


def test_the_ship_rule_divides_alpha_over_nothing() -> None:
    within = policy.tolerances(EXPERIMENT, ("origin=JFK",), evidence().cells)
    assert within.rows.alpha.tolist() == [EXPERIMENT.alpha] * 2


def test_many_runs_are_shipped_as_each_of_them_alone() -> None:
    rng = np.random.default_rng(8)
    gains = rng.uniform(-0.06, 0.06, 40)
    singles = [[brier(float(gain), 400), cell("errors", arm(0.1), arm(0.1, seed=2))] for gain in gains]
    tables = [Cells.stack(cells) for cells in singles]
    names = ("units", "together", "total", "sum_n", "sum_d", "rr", "rd", "dd", "non_finite")
    arms = [
        ArmMoments(
            (1,), **{name: np.stack([getattr(getattr(t, side), name) for t in tables]) for name in names}
        )
        for side in ("control", "challenger")
    ]
    many = Cells(tables[0].metrics, tables[0].kinds, tables[0].cohorts, *arms)
    together = policy.shipped(policy.tolerances(EXPERIMENT, (), many)).shipped
    alone = [policy.compare_online(EXPERIMENT, evidence(*cells)).passed for cells in singles]
    assert together.tolist() == alone
    assert 5 < sum(alone) < 35


def test_the_whole_interval_of_one_cell_is_two_sided_at_the_whole_alpha() -> None:
    whole = policy.online_interval(declared.experiment(), brier(-0.05))
    assert whole.alpha == 0.05
    assert whole.lower is not None
    assert whole.upper is not None
    assert whole.lower < -0.05 < whole.upper < 0
