"""One look at one stage: the rules decide, the verdicts say why."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from understudy.policy.budgets import Spending, budgets_allow, spending
from understudy.policy.decision import Decision, History, Kind, Look
from understudy.policy.endings import conclude
from understudy.policy.gates import budget_verdict, soak_verdict, stage_units, units_verdict
from understudy.policy.judgements import harm_verdict, tolerance_verdict
from understudy.policy.outlook import pace
from understudy.policy.plan import mask_of
from understudy.policy.quality import quality_verdicts
from understudy.policy.row_states import States, states, tolerances
from understudy.policy.rules import (
    ADVANCE,
    ROLL_BACK,
    Counters,
    Signals,
    apply_rules,
    enough_units,
    harmed_cohorts,
    harmed_overall,
    soaked,
    timed_out,
    tolerated,
)
from understudy.spec import Experiment
from understudy.verdicts import Outcome, Verdict

__all__ = ["decide"]

_KINDS = {ROLL_BACK: Kind.ROLL_BACK, ADVANCE: Kind.ADVANCE}


@dataclass(frozen=True)
class _Findings:
    harm: States
    within: States
    spent: tuple[Spending, ...]
    quality: tuple[Verdict, ...]
    units: tuple[int, int]


def decide(experiment: Experiment, look: Look) -> Decision:
    """Decide one look at one stage.

    Args:
        experiment: The frozen spec.
        look: Everything that the decision is made from.

    Returns:
        ROLL_BACK on proven harm, unsound evidence, a spent budget, too many looks in a row or time-out; ADVANCE when
        everything asked for is proven; else HOLD, with the cohorts to send back now in ``contain``.
    """
    found = _findings(experiment, look)
    standing = apply_rules(experiment, _signals(experiment, look, found))
    contain = tuple(
        cohort for cohort, goes in zip(look.cohorts, standing.contain.tolist(), strict=True) if goes
    )
    gone = {*look.contained, *contain}
    verdict = conclude(
        experiment, look, standing, contain, *_verdicts(experiment, look, found, gone - set(contain))
    )
    counters = standing.counters
    return Decision(
        _KINDS.get(int(standing.kind), Kind.HOLD),
        verdict,
        bool(standing.renew_lease),
        contain,
        History(
            int(counters.failures),
            int(counters.errors),
            int(counters.inconclusive),
            look.history.spent_before,
        ),
    )


def _findings(experiment: Experiment, look: Look) -> _Findings:
    cells = look.evidence.cells
    plan = experiment.stages[look.stage - 1]
    contained = mask_of(look.cohorts, look.contained)
    return _Findings(
        harm=states(experiment, look.cohorts, cells, contained),
        within=tolerances(experiment, look.cohorts, cells, plan.margin_scale, contained),
        spent=spending(experiment, cells, look.stage, dict(look.history.spent_before)),
        quality=quality_verdicts(experiment, look.evidence, look.now),
        units=stage_units(look.stage, look.evidence),
    )


def _signals(experiment: Experiment, look: Look, found: _Findings) -> Signals:
    plan = experiment.stages[look.stage - 1]
    contained = mask_of(look.cohorts, look.contained)
    outcomes = {part.outcome for part in found.quality}
    budget_open, budget_spent = budgets_allow(found.spent)
    history = look.history
    return Signals(
        harmed=harmed_overall(found.harm),
        harmed_cohorts=harmed_cohorts(experiment, found.harm, contained),
        contained=contained,
        tolerated=tolerated(found.within),
        soaked=soaked(plan, look.seconds_in_stage),
        enough_units=enough_units(plan, *found.units),
        timed_out=timed_out(plan, look.seconds_in_stage),
        measured=np.asarray(Outcome.ERROR not in outcomes),
        sound=np.asarray(Outcome.FAIL not in outcomes),
        clean=np.asarray(Outcome.INCONCLUSIVE not in outcomes),
        budget_open=budget_open,
        budget_spent=budget_spent,
        counters=Counters.of(history.failures, history.errors, history.inconclusive),
    )


def _verdicts(
    experiment: Experiment, look: Look, found: _Findings, gone: set[str]
) -> tuple[tuple[Verdict, ...], tuple[Verdict, ...], tuple[Verdict, ...]]:
    """Return the verdicts of gates, of harm by row, and of tolerance by metric."""
    plan = experiment.stages[look.stage - 1]
    gates = (
        *found.quality,
        soak_verdict(plan, look.seconds_in_stage),
        units_verdict(plan, *found.units),
        *(budget_verdict(item) for item in found.spent),
    )
    harm = tuple(
        harm_verdict(found.harm, row)
        for row, cohort in enumerate(found.harm.rows.cohorts)
        if cohort not in gone
    )
    speed = pace(look.evidence.cells, look.stage, look.seconds_in_stage, plan.timeout)
    within = tuple(tolerance_verdict(found.within, row, speed) for row in range(len(found.within.rows)))
    return gates, harm, within
