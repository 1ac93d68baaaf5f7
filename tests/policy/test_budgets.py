"""Error budgets: the last answer of a budget spends it, and a budget that cannot be counted is not open."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import brier, came_to, cell, errors, evidence, judge, part
from understudy import policy
from understudy.policy import History, Kind
from understudy.stats.cells import Cells
from understudy.stats.evidence import StageUnits
from understudy.stats.ratio import ArmMoments
from understudy.verdicts import Outcome

UNITS = 60_000


def budget(**changes: Any) -> list[dict[str, Any]]:
    return [{"metric": "errors", "service": 100} | changes]


def spent(bad: int, before: float = 0.0, **changes: Any) -> policy.Decision:
    seen = evidence(brier(-0.05), errors(bad, UNITS, control_bad=bad))
    return judge(seen, history=History(spent_before={"errors": before}), budgets=budget(**changes))


@pytest.mark.parametrize(
    ("bad", "before", "changes", "reason"),
    [
        (99, 0, {}, "stage_passed"),
        (100, 0, {}, "budget_spent"),
        (49, 50, {}, "stage_passed"),
        (50, 50, {}, "budget_spent"),
        (19, 0, {"stage": 20}, "stage_passed"),
        (20, 0, {"stage": 20}, "budget_spent"),
        (19, 81, {"stage": 20}, "budget_spent"),
    ],
)
@pytest.mark.parametrize(("on_spent", "kind"), [("hold", Kind.HOLD), ("roll_back", Kind.ROLL_BACK)])
def test_the_last_answer_of_a_budget_spends_it(
    bad: int, before: float, changes: dict[str, Any], reason: str, on_spent: str, kind: Kind
) -> None:
    decision = spent(bad, before, on_spent=on_spent, **changes)
    expected = Kind.ADVANCE if reason == "stage_passed" else kind
    assert came_to(decision) == (expected, reason)
    if kind is Kind.HOLD:
        assert decision.renew_lease


def test_a_spent_budget_that_holds_ends_with_the_stage() -> None:
    seen = evidence(brier(-0.05), errors(100, UNITS, control_bad=100))
    decision = judge(seen, 301.0, budgets=budget(on_spent="hold"))
    assert came_to(decision) == (Kind.ROLL_BACK, "stage_timed_out")
    assert "error budget is spent" in decision.verdict.sentence


def test_what_the_stage_cost_counts_this_stage_only_and_the_run_counts_all_of_them() -> None:
    bad = np.zeros((UNITS, 2))
    bad[:30, 0], bad[:5, 1] = 1.0, 1.0
    arm = ArmMoments.from_units(bad, np.ones_like(bad), (1, 2))
    cells = Cells.stack([cell("errors", arm, arm)])
    experiment = declared.experiment(budgets=budget(stage=10))
    found = {number: policy.spending(experiment, cells, number, {"errors": 2.0})[0] for number in (1, 2, 3)}
    assert [float(found[number].stage) for number in found] == [30.0, 5.0, 0.0]
    assert [float(found[number].service) for number in found] == [37.0, 37.0, 37.0]
    assert [bool(found[number].spent) for number in found] == [True, False, False]


def test_only_the_challenger_spends() -> None:
    seen = evidence(brier(-0.05), errors(0, UNITS, control_bad=500))
    assert judge(seen, budgets=budget()).kind is Kind.ADVANCE


def test_a_budget_that_cannot_be_counted_never_advances() -> None:
    decision = judge(evidence(brier(-0.05)), budgets=budget())
    assert decision.kind is Kind.HOLD
    judged = next(found for found in decision.verdict.parts if found.reason == "budget_unknown")
    assert judged.outcome is Outcome.INCONCLUSIVE


def test_what_others_spent_counts_only_for_their_metric() -> None:
    seen = evidence(brier(-0.05), errors(1, UNITS, control_bad=1))
    history = History(spent_before={"slow": 1e9})
    assert judge(seen, history=history, budgets=budget()).kind is Kind.ADVANCE


@pytest.mark.parametrize("before", [float("nan"), float("inf")])
def test_a_budget_whose_past_is_no_number_is_not_open(before: float) -> None:
    assert spent(0, before).kind is not Kind.ADVANCE


def test_the_verdict_counts_what_is_left() -> None:
    judged = part(spent(97).verdict, "errors")
    budgets = [found for found in spent(97).verdict.parts if found.reason == "budget_open"]
    assert judged.passed
    assert budgets[0].sentence == "97 of 100 bad answers by errors are used up."
    assert budgets[0].change == "3 more bad answers of the challenger."


def test_budgets_of_many_runs_are_counted_at_once() -> None:
    rng = np.random.default_rng(2)
    arms = [
        ArmMoments.from_units((rng.random((7, 1, 500, 2)) < 0.05).astype(float), np.ones((7, 1, 500, 2)))
        for _ in range(2)
    ]
    cells = Cells(("errors",), ("error_rate",), ("all",), *arms)
    found = policy.spending(declared.experiment(budgets=budget(service=50)), cells, 1)
    open_, ended = policy.budgets_allow(found)
    bad = arms[1].sum_n[:, 0, :].sum(axis=-1)
    assert ended.tolist() == (bad >= 50).tolist()
    assert open_.tolist() == (bad < 50).tolist()


def test_units_of_the_stage_are_needed_beside_an_open_budget() -> None:
    seen = evidence(brier(-0.05), errors(0, UNITS), stages=(StageUnits(1, 1, 1, 0.1, 0.1, 0),), splits=())
    assert judge(seen, budgets=budget()).verdict.reason == "too_few_units"
