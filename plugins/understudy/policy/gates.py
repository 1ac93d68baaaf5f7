"""The verdicts of gates: time, units, budgets. They hold advancement back and, budgets apart, never end anything."""

from __future__ import annotations

import math

from understudy.policy.budgets import Spending
from understudy.policy.rules import enough_units, needed_units, soaked
from understudy.policy.words import duration
from understudy.spec import Stage
from understudy.stats.evidence import Evidence
from understudy.verdicts import Outcome, Verdict

__all__ = ["budget_verdict", "soak_verdict", "stage_units", "units_verdict"]


def soak_verdict(plan: Stage, seconds: float) -> Verdict:
    """Judge whether the stage has lasted long enough."""
    known = math.isfinite(seconds)
    numbers = {"seconds": seconds if known else None, "soak": plan.soak}
    if not soaked(plan, seconds):
        sentence = f"{seconds:.0f} of {plan.soak:g} s of soak are over."
        change = f"Another {duration(plan.soak - seconds)}." if known else "A clock that can be read."
        return Verdict(Outcome.INCONCLUSIVE, "soaking", sentence, numbers, change=change)
    sentence = f"The soak of {plan.soak:g} s is over."
    return Verdict(Outcome.PASS, "soaked", sentence, numbers, change="Nothing: time does not run back.")


def stage_units(stage: int, evidence: Evidence) -> tuple[int, int]:
    """Return how many control and challenger units were seen at a stage."""
    counts = next((item for item in evidence.quality.stages if item.stage == stage), None)
    return (counts.control, counts.challenger) if counts else (0, 0)


def units_verdict(plan: Stage, control: int, challenger: int) -> Verdict:
    """Judge whether each arm has seen enough units at this stage."""
    needed_control, needed = needed_units(plan)
    numbers = {"control": control, "challenger": challenger, "min_units": plan.min_units}
    if not enough_units(plan, control, challenger):
        sentence = (
            f"{challenger} challenger and {control} control units were seen at this stage; {needed} and "
            f"{needed_control} are needed."
        )
        change = (
            f"{max(needed - challenger, 0):,} more challenger and {max(needed_control - control, 0):,} more control units "
            "at this stage."
        )
        return Verdict(Outcome.INCONCLUSIVE, "too_few_units", sentence, numbers, change=change)
    sentence = f"{challenger} challenger and {control} control units were seen."
    change = "Nothing: units that were seen stay seen."
    return Verdict(Outcome.PASS, "enough_units", sentence, numbers, change=change)


def budget_verdict(found: Spending) -> Verdict:
    """Judge one error budget of a live look. It is a gate, not an interval, so it names its metric in its numbers only."""
    budget = found.budget
    if not found.counted:
        sentence = (
            f"Bad answers by {budget.metric} cannot be counted yet, so its budget is not known to be open."
        )
        change = "The first events of it, in both arms."
        known = {"counts": budget.metric, "stage_budget": budget.stage, "service_budget": budget.service}
        return Verdict(Outcome.INCONCLUSIVE, "budget_unknown", sentence, known, change=change)
    stage, service = float(found.stage), float(found.service)
    numbers = {
        "counts": budget.metric,
        "stage": stage,
        "stage_budget": budget.stage,
        "service": service,
        "service_budget": budget.service,
    }
    used = f"{service:,.0f} of {budget.service:,} bad answers by {budget.metric} are used up"
    if budget.stage is not None:
        used += f", {stage:,.0f} of {budget.stage:,} at this stage"
    if not found.spent:
        left = (
            budget.service - service
            if budget.stage is None
            else min(budget.service - service, budget.stage - stage)
        )
        change = f"{left:,.0f} more bad answers of the challenger."
        return Verdict(Outcome.PASS, "budget_open", f"{used}.", numbers, change=change)
    if budget.on_spent == "roll_back":
        change = "Nothing in this run: the budget is spent. It refills as old runs leave its window."
        sentence = f"The error budget is spent, which ends the run: {used}."
        return Verdict(Outcome.FAIL, "budget_spent", sentence, numbers, change=change)
    sentence = f"The error budget is spent, so exposure does not rise any more: {used}."
    change = f"A larger budget, or runs that leave its window of {duration(budget.window)}; this stage will time out."
    return Verdict(Outcome.INCONCLUSIVE, "budget_spent", sentence, numbers, change=change)
