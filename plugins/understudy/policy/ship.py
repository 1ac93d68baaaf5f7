"""The end of a run: may the challenger become the champion?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from understudy.policy.endings import decides, summary
from understudy.policy.judgements import harm_verdict, tolerance_verdict, win_verdict
from understudy.policy.plan import mask_of, tightest
from understudy.policy.quality import soundness_verdicts
from understudy.policy.row_states import states, tolerances
from understudy.policy.rules import harmed_cohorts, harmed_overall, shipped
from understudy.spec import Experiment, Role
from understudy.stats.cells import Cell, Cells, interval_table
from understudy.stats.evidence import Evidence
from understudy.stats.sequences import Interval
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["compare_online", "online_interval"]


def compare_online(
    experiment: Experiment,
    evidence: Evidence,
    *,
    cohorts: Sequence[str] = (),
    contained: Sequence[str] = (),
) -> Verdict:
    """Judge a whole run by the ship rule: the primary has won and no guardrail is worse than its margin.

    Source: Schultzberg, Ankargren, Franberg (2024), arXiv 2402.11609. The rule tests one success metric at alpha and
    each guardrail at alpha, without division; the intervals hold at any look, so also at this one. Nothing else may
    speak against it: harm proven anywhere, evidence that is not sound, or a cohort that was sent back to the champion.

    Args:
        experiment: The frozen spec.
        evidence: The whole run, without the contained cohorts.
        cohorts: The cohorts that were registered before exposure.
        contained: Those of them that were sent back to the champion.

    Returns:
        PASS only when all of it is proven; a part for each metric, and for each cohort that speaks against it.
    """
    mask = mask_of(cohorts, contained)
    within = tolerances(experiment, cohorts, evidence.cells, 1.0, mask)
    harm = states(experiment, cohorts, evidence.cells, mask)
    metrics = range(len(within.rows))
    primary = [row for row in metrics if within.rows.metrics[row].role is Role.PRIMARY]
    parts = [win_verdict(within, row) for row in primary]
    parts += [tolerance_verdict(within, row) for row in metrics if row not in primary]
    summed = summary(parts)
    rule = shipped(within, bool(mask.any()))
    harmed = bool(harmed_overall(harm)) or bool(harmed_cohorts(experiment, harm, mask).any())
    if harmed:
        every = (
            harm_verdict(harm, row)
            for row in range(len(harm.rows))
            if harm.rows.cohorts[row] not in contained
        )
        proven = [part for part in every if part.outcome is Outcome.FAIL and decides(part)]
        parts += proven or [_harmed_cohort()]
    parts += [part for part in soundness_verdicts(evidence) if not part.passed]
    parts += [_contained(cohort) for cohort in contained]
    verdict = worst_of(parts, f"The challenger won and nothing got worse. {summed}")
    if verdict.passed and not bool(
        rule.shipped
    ):  # words and numbers are two ways to say one thing; if not, neither
        return replace(
            verdict, outcome=Outcome.ERROR, reason="rule_not_met", sentence="The ship rule is not met."
        )
    if verdict.passed:
        change = "Nothing: this is the planned end, and it is decided once."
        return replace(verdict, change=change)
    if verdict.reason in ("primary_not_won", "could_be_harmful"):
        return replace(
            verdict,
            change=f"{verdict.change} This run ends here: it takes a new one, with a longer last stage.",
        )
    return verdict


def _harmed_cohort() -> Verdict:
    sentence = "At least one cohort is proven to be harmed, counted together with the other cohorts."
    change = "Nothing in this run: train a version that harms no cohort, and start a new run."
    return Verdict(Outcome.FAIL, "cohort_harmed", sentence, change=change)


def _contained(cohort: str) -> Verdict:
    sentence = (
        f"{cohort} was sent back to the champion because the challenger harmed it. Promotion would give it that version "
        "again, so the run ends without one."
    )
    change = f"A version that does not harm {cohort}, in a new run, or a model of its own for {cohort}."
    return Verdict(Outcome.INCONCLUSIVE, "cohort_contained", sentence, {}, None, cohort, change=change)


def online_interval(experiment: Experiment, cell: Cell) -> Interval:
    """Return the two-sided interval of one cell at the whole alpha, for showing beside a forecast."""
    return interval_table(Cells.stack([cell]), experiment.alpha, tightest(experiment), "two").row(0)
