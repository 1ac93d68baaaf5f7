"""Evidence and spec in, decision out. Pure: the same evidence always gives the same decision.

Harm may act at any look: a proven breach of a margin, or evidence that is provably unsound, rolls back. Everything else
(time, units, fresh data, tight bounds) only ever gates advancement. Only PASS raises exposure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from understudy.exposure import CHALLENGER, CONTROL, TOTAL_WEIGHT, weights
from understudy.spec import Experiment, Metric, Stage
from understudy.stats.cells import ALL, Cell, Cells, interval_table
from understudy.stats.evidence import Evidence, split_test
from understudy.stats.sequences import Interval, undetermined
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["SPLIT_ALPHA", "Decision", "Kind", "compare_online", "judge_stage", "online_interval", "shares"]

SPLIT_ALPHA = 0.001
"""Error budget of the sample-ratio test over a whole run."""

_COHORT_BUDGET = 0.5
"""Part of alpha that is spent on cohorts; the rest is spent on everyone together."""


class Kind(StrEnum):
    """What to do."""

    ADVANCE = "ADVANCE"
    HOLD = "HOLD"
    ROLL_BACK = "ROLL_BACK"


@dataclass(frozen=True)
class Decision:
    """What to do, and why.

    Attributes:
        kind: The action.
        verdict: The judgement behind it.
        renew_lease: Whether the evidence is fresh and sound enough to keep units exposed.
    """

    kind: Kind
    verdict: Verdict
    renew_lease: bool = False


def shares(percent: float) -> dict[str, float]:
    """Return the planned shares of control and challenger at a stage, as parts of all units."""
    challenger, _, control = weights(percent)
    return {CONTROL: control / TOTAL_WEIGHT, CHALLENGER: challenger / TOTAL_WEIGHT}


def judge_stage(
    experiment: Experiment,
    *,
    stage: int,
    cohorts: tuple[str, ...],
    evidence: Evidence,
    seconds_in_stage: float,
    now: float,
) -> Decision:
    """Decide one look at one stage.

    Args:
        experiment: The frozen spec.
        stage: Index of the stage, from 1.
        cohorts: The cohorts that were registered before exposure, like ``"origin=JFK"``; others only count in "all".
        evidence: The look.
        seconds_in_stage: Since the stage was entered.
        now: Wall clock of the look, Unix seconds.

    Returns:
        ROLL_BACK on proven harm, unsound evidence or time-out; ADVANCE when everything asked for is proven; else HOLD.
    """
    plan = experiment.stages[stage - 1]
    found = _intervals(experiment, cohorts, evidence)
    parts = tuple(_harm(experiment, metric, cohort, cell) for (metric, cohort), cell in found.items())
    harmful = [part for part in parts if part.outcome is Outcome.FAIL]
    if harmful:
        return Decision(Kind.ROLL_BACK, _fold(harmful, parts))
    quality = _quality(experiment, evidence, now)
    unsound = [part for part in quality if part.outcome is Outcome.FAIL]
    if unsound:
        return Decision(Kind.ROLL_BACK, _fold(unsound, (*quality, *parts)))
    gates = (*quality, _soaked(plan, seconds_in_stage), _enough_units(plan, stage, evidence))
    overall = _tolerances(experiment, evidence, plan.margin_scale)
    every = (*gates, *overall, *(part for part in parts if part.cohort != ALL))
    still_open = [part for part in (*gates, *overall) if not part.passed]
    if not still_open:
        sentence = f"Stage {stage} ({plan.percent:g} %) passed. {_summary(overall)}"
        passed = Verdict(Outcome.PASS, "stage_passed", sentence, parts=every)
        return Decision(Kind.ADVANCE, passed, renew_lease=True)
    if seconds_in_stage > plan.timeout:
        why = worst_of(still_open, "").sentence
        sentence = (
            f"Stage {stage} was not decided within {plan.timeout:g} s, and undecided never goes on. {why}"
        )
        return Decision(
            Kind.ROLL_BACK, Verdict(Outcome.INCONCLUSIVE, "stage_timed_out", sentence, parts=every)
        )
    measured = all(part.outcome is not Outcome.ERROR for part in quality)
    return Decision(Kind.HOLD, _fold(still_open, every), renew_lease=measured)


def compare_online(experiment: Experiment, evidence: Evidence) -> Verdict:
    """Judge a whole run by the ship rule: the primary has won and no guardrail is worse than its margin.

    Source: Schultzberg, Ankargren, Franberg (2024), arXiv 2402.11609. The rule tests one success metric at alpha and
    each guardrail at alpha, without division; the intervals hold at any look, so also at this one.

    Returns:
        PASS only when both are proven; one part a metric.
    """
    primary = experiment.primary
    won = _win(primary, _undivided(experiment, primary, evidence))
    guardrails = (part for part in _tolerances(experiment, evidence, 1.0) if part.metric != primary.name)
    parts = (won, *guardrails)
    return worst_of(parts, f"The challenger won and nothing got worse. {_summary(parts)}")


def online_interval(experiment: Experiment, cell: Cell) -> Interval:
    """Return the two-sided interval of one cell at the whole alpha, for showing beside a forecast."""
    return interval_table(Cells.stack([cell]), experiment.alpha, _tightest(experiment), "two").row(0)


def _tolerances(experiment: Experiment, evidence: Evidence, scale: float) -> tuple[Verdict, ...]:
    """Judge each deciding metric against its tolerance, at the whole alpha.

    Dividing alpha protects against false alarms. Here the error is to pass a metric that is worse than tolerated, and
    since all of them must pass, asking more of each adds nothing.
    """
    return tuple(
        _tolerated(metric, _undivided(experiment, metric, evidence), scale) for metric in experiment.deciding
    )


def _undivided(experiment: Experiment, metric: Metric, evidence: Evidence) -> Interval:
    return _interval(experiment, evidence, metric, ALL, experiment.alpha)


def _intervals(
    experiment: Experiment, cohorts: tuple[str, ...], evidence: Evidence
) -> dict[tuple[str, str], Interval]:
    """Give every metric and registered cohort its interval, with the error budget of rollback divided over them."""
    metrics = len(experiment.deciding)
    overall = experiment.alpha / metrics * (1 - _COHORT_BUDGET if cohorts else 1)
    each = experiment.alpha * _COHORT_BUDGET / (metrics * len(cohorts)) if cohorts else 0.0
    found = {}
    for metric in experiment.deciding:
        for cohort in (ALL, *cohorts):
            alpha = overall if cohort == ALL else each
            found[metric.name, cohort] = _interval(experiment, evidence, metric, cohort, alpha)
    return found


def _interval(
    experiment: Experiment, evidence: Evidence, metric: Metric, cohort: str, alpha: float
) -> Interval:
    """Return the interval of one cell; a cell that is not there says nothing, and nothing never passes."""
    index = evidence.cells.index(metric.name, cohort)
    if index is None:
        return undetermined("no_data", 0, alpha)
    return interval_table(evidence.cells.rows([index]), alpha, _tightest(experiment)).row(0)


def _tightest(experiment: Experiment) -> float:
    """Tune the intervals for the early stages: they have the least evidence, and late ones lose little by it."""
    return experiment.planned_events / 10


def _harm(experiment: Experiment, name: str, cohort: str, interval: Interval) -> Verdict:
    """Judge one cell for harm: FAIL when harm beyond the margin is proven."""
    metric = next(item for item in experiment.metrics if item.name == name)
    margin = float(metric.margin or 0.0)
    where = "" if cohort == ALL else f" in cohort {cohort}"
    evidence = interval.to_dict() | {"limit": margin}
    if not interval.determined or interval.lower is None:
        sentence = f"{name}{where} cannot be determined yet ({interval.reason or 'no data'})."
        return Verdict(Outcome.INCONCLUSIVE, "undetermined", sentence, evidence, name, cohort)
    if interval.lower > margin:
        sentence = (
            f"{name}{where} is worse by at least {interval.lower:.4g} (estimate {interval.estimate:.4g}); the margin is "
            f"{margin:g}."
        )
        return Verdict(Outcome.FAIL, "guardrail_breached", sentence, evidence, name, cohort)
    return Verdict(
        Outcome.PASS, "no_harm_proven", f"{name}{where} is not proven worse.", evidence, name, cohort
    )


def _tolerated(metric: Metric, interval: Interval, scale: float) -> Verdict:
    limit = float(metric.margin or 0.0) * scale
    evidence = interval.to_dict() | {"limit": limit}
    if not interval.determined or interval.upper is None:
        sentence = f"{metric.name} cannot be determined yet ({interval.reason or 'no data'})."
        return Verdict(Outcome.INCONCLUSIVE, "undetermined", sentence, evidence, metric.name, ALL)
    if interval.upper <= limit:
        sentence = f"{metric.name} is at most {interval.upper:.4g} worse; tolerated here is {limit:g}."
        if interval.upper < 0:
            sentence = f"{metric.name} is better, by at least {-interval.upper:.4g}."
        return Verdict(Outcome.PASS, "within_tolerance", sentence, evidence, metric.name, ALL)
    sentence = f"{metric.name} could still be {interval.upper:.4g} worse, and {limit:g} is tolerated here; more data will tell."
    return Verdict(Outcome.INCONCLUSIVE, "could_be_harmful", sentence, evidence, metric.name, ALL)


def _win(metric: Metric, interval: Interval) -> Verdict:
    evidence = interval.to_dict()
    if not interval.determined or interval.upper is None or interval.estimate is None:
        sentence = f"{metric.name} cannot be determined ({interval.reason or 'no data'}), so nothing was won."
        return Verdict(Outcome.INCONCLUSIVE, "undetermined", sentence, evidence, metric.name, ALL)
    if interval.upper < 0:
        sentence = f"{metric.name} improved by {-interval.estimate:.4g}, at least {-interval.upper:.4g}."
        return Verdict(Outcome.PASS, "primary_won", sentence, evidence, metric.name, ALL)
    sentence = f"{metric.name} changed by {interval.estimate:+.4g}, and an improvement is not proven."
    return Verdict(Outcome.INCONCLUSIVE, "primary_not_won", sentence, evidence, metric.name, ALL)


def _quality(experiment: Experiment, evidence: Evidence, now: float) -> tuple[Verdict, ...]:
    return (_fresh(experiment, evidence, now), _split(evidence), _one_arm(evidence))


def _fresh(experiment: Experiment, evidence: Evidence, now: float) -> Verdict:
    newest = evidence.quality.newest_received_at
    if newest is None:
        return Verdict(
            Outcome.ERROR, "no_events", "No request of this run has been logged yet; nothing is measured."
        )
    age = now - newest
    numbers = {"newest_age": age, "stale_after": experiment.stale_after}
    if not age <= experiment.stale_after:
        sentence = f"The newest request is {age:.0f} s old; older than {experiment.stale_after:g} s counts as not measured."
        return Verdict(Outcome.ERROR, "stale_events", sentence, numbers)
    return Verdict(Outcome.PASS, "fresh", f"The newest request is {max(age, 0):.0f} s old.", numbers)


def _split(evidence: Evidence) -> Verdict:
    test = split_test(evidence, SPLIT_ALPHA)
    if test.alarm:
        sentence = (
            f"The arms are not split as planned ({test.reason}), so their comparison cannot be trusted."
        )
        return Verdict(Outcome.FAIL, "sample_ratio_mismatch", sentence, test.to_dict())
    return Verdict(Outcome.PASS, "split_as_planned", "The arms are split as planned.", test.to_dict())


def _one_arm(evidence: Evidence) -> Verdict:
    both = evidence.quality.multi_arm_units
    numbers: Mapping[str, int] = {"multi_arm_units": both}
    if both:
        sentence = f"{both} units were seen in both arms of one stage; assignment is broken."
        return Verdict(Outcome.FAIL, "multi_exposure", sentence, numbers)
    return Verdict(Outcome.PASS, "one_arm_each", "Every unit stayed in one arm.", numbers)


def _soaked(plan: Stage, seconds: float) -> Verdict:
    numbers = {"seconds": seconds, "soak": plan.soak}
    if not seconds >= plan.soak:
        sentence = f"{seconds:.0f} of {plan.soak:g} s of soak are over."
        return Verdict(Outcome.INCONCLUSIVE, "soaking", sentence, numbers)
    return Verdict(Outcome.PASS, "soaked", f"The soak of {plan.soak:g} s is over.", numbers)


def _enough_units(plan: Stage, stage: int, evidence: Evidence) -> Verdict:
    counts = next((item for item in evidence.quality.stages if item.stage == stage), None)
    control, challenger = (counts.control, counts.challenger) if counts else (0, 0)
    numbers = {"control": control, "challenger": challenger, "min_units": plan.min_units}
    # Past 50 % control is a holdback on purpose, so each arm is asked for its own share of the minimum.
    planned = shares(plan.percent)
    needed_control = min(plan.min_units, round(plan.min_units * planned[CONTROL] / planned[CHALLENGER]))
    if challenger < plan.min_units or control < needed_control:
        sentence = (
            f"{challenger} challenger and {control} control units were seen at this stage; {plan.min_units} and "
            f"{needed_control} are needed."
        )
        return Verdict(Outcome.INCONCLUSIVE, "too_few_units", sentence, numbers)
    sentence = f"{challenger} challenger and {control} control units were seen."
    return Verdict(Outcome.PASS, "enough_units", sentence, numbers)


def _fold(deciding: list[Verdict], every: tuple[Verdict, ...]) -> Verdict:
    """Return the worst of the deciding verdicts, with every verdict kept beside it."""
    worst = worst_of(deciding, "")
    return Verdict(
        worst.outcome, worst.reason, worst.sentence, worst.evidence, worst.metric, worst.cohort, every
    )


def _summary(parts: list[Verdict] | tuple[Verdict, ...]) -> str:
    return " ".join(part.sentence for part in parts)
