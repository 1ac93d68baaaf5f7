"""Evidence and spec in, decision out. Pure: the same evidence always gives the same decision.

Harm may act at any look: a proven breach of a margin, or evidence that is provably unsound, rolls back. Everything else
(time, units, fresh data, tight bounds) only ever gates advancement. Only PASS raises exposure.

**One look**: ``decide(experiment, Look(...)) -> Decision``.
**A whole run**: ``compare_online(experiment, evidence, cohorts=..., contained=...) -> Verdict`` (the ship rule).
**Again**: ``record_of(decision) -> Verdict`` is what is kept; ``reproduce(experiment, look, verdict, kind) -> differences``
decides a recorded look again.

**Many runs at once** (the rehearsal). The numeric core takes arrays with any leading axes, written (...) below, and the
live path is the same code with none. Per look::

    found = states(experiment, cohorts, cells, contained)              # arrays (..., row); rows: found.rows
    within = tolerances(experiment, cohorts, cells, stage.margin_scale, contained)
    spent = spending(experiment, cells, stage_number, spent_before)
    budget_open, budget_spent = budgets_allow(spent)
    standing = apply_rules(experiment, Signals(
        harmed=harmed_overall(found),                                   # (...)
        harmed_cohorts=harmed_cohorts(experiment, found, contained),    # (..., cohort); contained: bool (..., cohort)
        contained=contained,
        tolerated=tolerated(within),                                    # (...)
        soaked=soaked(stage, seconds), timed_out=timed_out(stage, seconds),
        enough_units=enough_units(stage, control_units, challenger_units),
        measured=..., sound=...,                                        # fresh evidence; split as planned
        budget_open=budget_open, budget_spent=budget_spent,
        counters=counters,                                              # Counters.of(0, 0, 0) at the start of a stage
    ))
    standing.kind       # ROLL_BACK, HOLD, ADVANCE as -1, 0, 1
    standing.cause      # Cause codes: HARM, COHORT_HARM, TIMED_OUT, ...
    standing.contain    # (..., cohort): cohorts to send back now; or them into ``contained``
    standing.counters   # for the next look of this stage

and at the end of the ladder ``shipped(tolerances(experiment, cohorts, cells, 1.0, contained),
contained.any(-1)).shipped``. Of `found` one can read ``found.harmful``, ``found.safe``, ``found.code`` (`State` codes)
and ``found.table`` (estimate, lower, upper, determined ... per row); a metric without a row is undetermined.
"""

from understudy.policy.budgets import Spending, budgets_allow, spending
from understudy.policy.decision import Decision, History, Kind, Look
from understudy.policy.one_look import decide
from understudy.policy.plan import Rows, harm_rows, mask_of, shares, tightest, tolerance_rows
from understudy.policy.quality import SPLIT_ALPHA
from understudy.policy.replay import QUIET_COHORTS, Mismatch, record_of, reproduce, reproduce_ship
from understudy.policy.row_states import State, States, states, tolerances
from understudy.policy.rules import (
    ADVANCE,
    HOLD,
    ROLL_BACK,
    Cause,
    Counters,
    Shipping,
    Signals,
    Standing,
    apply_rules,
    enough_units,
    harmed_cohorts,
    harmed_overall,
    needed_units,
    shipped,
    soaked,
    timed_out,
    tolerated,
)
from understudy.policy.ship import compare_online, online_interval

__all__ = [
    "ADVANCE",
    "HOLD",
    "QUIET_COHORTS",
    "ROLL_BACK",
    "SPLIT_ALPHA",
    "Cause",
    "Counters",
    "Decision",
    "History",
    "Kind",
    "Look",
    "Mismatch",
    "Rows",
    "Shipping",
    "Signals",
    "Spending",
    "Standing",
    "State",
    "States",
    "apply_rules",
    "budgets_allow",
    "compare_online",
    "decide",
    "enough_units",
    "harm_rows",
    "harmed_cohorts",
    "harmed_overall",
    "mask_of",
    "needed_units",
    "online_interval",
    "record_of",
    "reproduce",
    "reproduce_ship",
    "shares",
    "shipped",
    "soaked",
    "spending",
    "states",
    "tightest",
    "timed_out",
    "tolerance_rows",
    "tolerances",
    "tolerated",
]
