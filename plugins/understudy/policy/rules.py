"""The rules of a look, as arrays: states, gates and counters in, one of three actions out.

Every array is (...): nothing for a live look, (replicate,) for the rehearsal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.exposure import CHALLENGER, CONTROL
from understudy.policy.plan import shares
from understudy.policy.row_states import States
from understudy.spec import Experiment, Role, Stage
from understudy.stats.multiplicity import e_bh

__all__ = [
    "ADVANCE",
    "HOLD",
    "ROLL_BACK",
    "Cause",
    "Counters",
    "Shipping",
    "Signals",
    "Standing",
    "apply_rules",
    "enough_units",
    "harmed_cohorts",
    "harmed_overall",
    "needed_units",
    "shipped",
    "soaked",
    "timed_out",
    "tolerated",
]

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]

ROLL_BACK, HOLD, ADVANCE = -1, 0, 1


class Cause(IntEnum):
    """Why a look came to its action."""

    PASSED = 0
    OPEN = 1
    """Something is not proven yet."""
    HARM_TOLERATED = 2
    """Harm is proven, and the spec tolerates some looks of it."""
    CONTAINED = 3
    HARM = 4
    COHORT_HARM = 5
    TOO_MANY_CONTAINED = 6
    UNSOUND = 7
    BUDGET_SPENT = 8
    TOO_MANY_ERRORS = 9
    TOO_MANY_INCONCLUSIVE = 10
    TIMED_OUT = 11


@dataclass(frozen=True, eq=False)
class Counters:
    """Looks in a row of each kind; whole numbers of any shape."""

    failures: Counts
    errors: Counts
    inconclusive: Counts

    @classmethod
    def of(cls, failures: ArrayLike = 0, errors: ArrayLike = 0, inconclusive: ArrayLike = 0) -> Counters:
        """Return counters from anything that looks like numbers."""
        return cls(*(np.asarray(count, dtype=np.int64) for count in (failures, errors, inconclusive)))


@dataclass(frozen=True, eq=False)
class Signals:
    """What a look found, each a truth value of shape (...), before anything is decided.

    Attributes:
        harmed: harm beyond a margin is proven for everyone together.
        harmed_cohorts: the same by registered cohort, (..., cohort), contained ones left out.
        contained: cohorts that were sent back before, (..., cohort).
        tolerated: every deciding metric is proven to stay within its tolerance of this stage.
        soaked: the stage has lasted long enough.
        enough_units: each arm has seen enough units.
        timed_out: the stage has lasted too long.
        measured: the evidence is fresh and readable.
        sound: the arms are split as planned and nobody was in both.
        budget_open: no budget that holds is spent, and each could be counted.
        budget_spent: a budget that rolls back is spent.
        counters: looks in a row before this one.
        clean: nothing else about the evidence is in question.
    """

    harmed: Mask
    harmed_cohorts: Mask
    contained: Mask
    tolerated: Mask
    soaked: Mask
    enough_units: Mask
    timed_out: Mask
    measured: Mask
    sound: Mask
    budget_open: Mask
    budget_spent: Mask
    counters: Counters
    clean: Mask = field(default_factory=lambda: np.asarray(True))


@dataclass(frozen=True, eq=False)
class Standing:
    """What the rules came to.

    Attributes:
        kind: ROLL_BACK, HOLD or ADVANCE, as -1, 0, 1.
        cause: `Cause` codes.
        contain: cohorts to send back now, (..., cohort).
        renew_lease: whether exposure may be kept until the next look.
        counters: for the next look of this stage.
    """

    kind: NDArray[np.int8]
    cause: NDArray[np.int8]
    contain: Mask
    renew_lease: Mask
    counters: Counters


class Shipping(NamedTuple):
    """What the ship rule came to: the primary has won, every guardrail is within its margin, the run may be promoted."""

    won: Mask
    within: Mask
    shipped: Mask


def apply_rules(experiment: Experiment, found: Signals) -> Standing:
    """Decide looks.

    Harm acts at any look, whatever else is open; then unsound evidence, then a spent budget. Everything else only gates
    advancement. ADVANCE needs every gate, so nothing that is missing, unknown or too late can raise exposure.
    """
    limits = experiment.limits
    newly = found.harmed_cohorts & ~found.contained
    failing = found.harmed | newly.any(axis=-1)
    acts = failing & (found.counters.failures >= limits.failures)
    containing = np.full(acts.shape, experiment.cohort_harm == "contain") & acts & ~found.harmed
    too_many = containing & ((found.contained | newly).sum(axis=-1) > experiment.max_contained)
    evidence = found.measured & found.sound & found.clean
    gates = found.soaked & found.enough_units & found.budget_open & ~found.budget_spent
    passing = found.tolerated & evidence & gates & ~failing
    undecided = found.measured & found.soaked & ~passing & ~failing
    conditions = {
        Cause.HARM: acts & found.harmed,
        Cause.TOO_MANY_CONTAINED: too_many,
        Cause.COHORT_HARM: acts & ~containing,
        Cause.UNSOUND: ~found.sound,
        Cause.BUDGET_SPENT: found.budget_spent,
        Cause.CONTAINED: containing,
        Cause.PASSED: passing,
        Cause.TOO_MANY_ERRORS: ~found.measured & _reached(found.counters.errors, limits.errors),
        Cause.TOO_MANY_INCONCLUSIVE: undecided & _reached(found.counters.inconclusive, limits.inconclusive),
        Cause.TIMED_OUT: found.timed_out,
        Cause.HARM_TOLERATED: failing,
    }
    cause = np.select([np.asarray(c) for c in conditions.values()], [int(c) for c in conditions], Cause.OPEN)
    kind = np.where(cause == Cause.PASSED, ADVANCE, np.where(cause <= Cause.CONTAINED, HOLD, ROLL_BACK))
    contain = newly & (cause == Cause.CONTAINED)[..., None]
    counters = Counters(
        np.where(
            failing & ~containing,
            found.counters.failures + 1,
            np.where(found.measured, 0, found.counters.failures),
        ),
        np.where(found.measured, 0, found.counters.errors + 1),
        np.where(
            undecided,
            found.counters.inconclusive + 1,
            np.where(found.measured, 0, found.counters.inconclusive),
        ),
    )
    renew = (kind != ROLL_BACK) & found.measured
    return Standing(kind.astype(np.int8), cause.astype(np.int8), contain, np.asarray(renew), counters)


def _reached(count: Counts, limit: int | None) -> Mask:
    """So many looks in a row are tolerated and were seen: this one is the one too many."""
    return np.full(count.shape, False) if limit is None else np.asarray(count >= limit)


def harmed_overall(found: States) -> Mask:
    """Tell whether harm is proven for everyone together in any deciding metric."""
    return np.asarray((found.harmful & found.rows.deciding & found.rows.overall).any(axis=-1))


def harmed_cohorts(experiment: Experiment, found: States, contained: Mask) -> Mask:
    """Tell which registered cohorts are proven to be harmed, (..., cohort); contained ones are left out.

    With ``cohort_harm: roll_back`` a cohort is harmed when any of its rows is, at its share of alpha (Bonferroni: one false
    alarm costs the run). With ``contain`` cohorts are chosen by e-BH (Wang, Ramdas 2022), which bounds the share of
    cohorts that are sent back for nothing, under any dependence and at any look: the e-value of a cohort is the mean of
    its metrics' e-values, alpha is the cohorts' part, and contained cohorts still count as questions asked.
    """
    rows = found.rows.by_cohort
    if not rows.size:
        return np.zeros((*found.doubt.shape[:-1], rows.shape[0]), dtype=bool)
    if experiment.cohort_harm == "roll_back":
        return np.asarray(found.harmful[..., rows].any(axis=-1) & ~contained)
    each = found.log_e()[..., rows]
    mean = np.logaddexp.reduce(each, axis=-1) - np.log(rows.shape[1])
    asked = np.where(contained, np.nan, mean)
    return np.asarray(e_bh(asked, float(found.rows.alpha[rows].sum())).rejected & ~contained)


def tolerated(found: States) -> Mask:
    """Tell whether every deciding metric is proven to be within its tolerance; a missing row is not."""
    return np.asarray(found.safe.all(axis=-1) & (len(found.rows) > 0))


def soaked(plan: Stage, seconds: ArrayLike) -> Mask:
    """Tell whether a stage has lasted long enough; an unknown time has not."""
    return np.asarray(np.asarray(seconds, dtype=float) >= plan.soak)


def timed_out(plan: Stage, seconds: ArrayLike) -> Mask:
    """Tell whether a stage has lasted too long."""
    return np.asarray(np.asarray(seconds, dtype=float) > plan.timeout)


def needed_units(plan: Stage) -> tuple[int, int]:
    """Return how many control and challenger units a stage needs.

    Past 50 % control is a holdback on purpose, so each arm is asked for its own share of the minimum.
    """
    planned = shares(plan.percent)
    control = round(plan.min_units * planned[CONTROL] / planned[CHALLENGER])
    return min(plan.min_units, control), plan.min_units


def enough_units(plan: Stage, control: ArrayLike, challenger: ArrayLike) -> Mask:
    """Tell whether each arm has seen enough units at this stage."""
    needed = needed_units(plan)
    return np.asarray((np.asarray(control) >= needed[0]) & (np.asarray(challenger) >= needed[1]))


def shipped(overall: States, any_contained: ArrayLike = False) -> Shipping:
    """Apply the ship rule to tolerances at scale 1: the primary has won and nothing could be worse than its margin.

    Source: Schultzberg, Ankargren, Franberg (2024), arXiv 2402.11609. One success metric is tested at alpha and each
    guardrail at alpha, without division; all guardrails must pass, so more of them ask for more power, not for a smaller
    alpha. A deterioration that matters lies beyond a margin, and then the guardrail has not passed. A contained cohort
    forbids promotion: it would get the version back that harmed it.

    Returns:
        Truth values of shape (...).
    """
    primary = np.array([metric.role is Role.PRIMARY for metric in overall.rows.metrics], dtype=bool)
    won = (overall.better & primary).any(axis=-1)
    within = (overall.safe | primary).all(axis=-1)
    return Shipping(won, within, won & within & ~np.asarray(any_contained, dtype=bool))
