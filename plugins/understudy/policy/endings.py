"""The verdict of a whole look: which of its judgements speaks for it, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from understudy.policy.decision import Look
from understudy.policy.rules import Cause, Standing
from understudy.policy.words import duration, number, plural, tolerated
from understudy.spec import Experiment
from understudy.stats.cells import ALL
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["conclude", "decides", "summary"]

_FINAL = "Nothing: the run has ended. A new version, or the same one after a repair, needs a new run."

Parts = tuple[Verdict, ...]


def conclude(
    experiment: Experiment,
    look: Look,
    standing: Standing,
    contain: tuple[str, ...],
    gates: Parts,
    harm: Parts,
    within: Parts,
) -> Verdict:
    """Return the verdict of a look.

    Args:
        experiment: The frozen spec.
        look: The look.
        standing: What the rules came to.
        contain: Cohorts to send back now.
        gates: Verdicts on the evidence, on time, units and budgets.
        harm: Verdicts on harm, one a metric and cohort.
        within: Verdicts on tolerances, one a deciding metric.
    """
    cause = Cause(int(standing.cause))
    beside = tuple(part for part in harm if part.cohort != ALL or not decides(part))
    judged = (*gates, *within, *beside)
    stopped = (*gates, *harm)
    proven = [part for part in harm if part.outcome is Outcome.FAIL and decides(part)]
    if cause is Cause.HARM:
        return _with_looks(experiment, look, _fold([part for part in proven if part.cohort == ALL], stopped))
    if cause is Cause.COHORT_HARM:
        return _with_looks(experiment, look, _fold(proven, stopped))
    if cause is Cause.CONTAINED:
        return _contained(contain, harm, judged)
    if cause is Cause.TOO_MANY_CONTAINED:
        return _too_many(experiment, look, harm, stopped)
    if cause is Cause.HARM_TOLERATED:
        return _tolerated_harm(experiment, look, proven, stopped)
    if cause in (Cause.UNSOUND, Cause.BUDGET_SPENT):
        return _fold([part for part in gates if part.outcome is Outcome.FAIL], stopped)
    if cause is Cause.PASSED:
        return _passed(experiment, look, within, judged)
    still_open = [part for part in (*gates, *within, *proven) if not part.passed]
    if cause is Cause.OPEN:
        return _open(experiment, look, _fold(still_open, judged))
    return _gave_up(experiment, look, cause, worst_of(still_open, "").sentence, judged)


def decides(part: Verdict) -> bool:
    """Tell whether a judgement may decide: watched metrics and dry runs may not."""
    return bool(part.evidence.get("decides", True))


def summary(parts: Sequence[Verdict]) -> str:
    """Return the sentences of several verdicts as one text."""
    return " ".join(part.sentence for part in parts)


def _fold(speaking: Sequence[Verdict], every: Parts) -> Verdict:
    """Return the worst of the speaking verdicts, with every verdict kept beside it."""
    return replace(worst_of(speaking, ""), parts=every)


def _passed(experiment: Experiment, look: Look, within: Parts, judged: Parts) -> Verdict:
    plan = experiment.stages[look.stage - 1]
    last = look.stage == len(experiment.stages)
    sentence = f"Stage {look.stage} ({plan.shown}) passed. {summary(within)}"
    after = "whether it is promoted is judged next" if last else "exposure rises to the next stage"
    change = f"Nothing at this stage: {after}, and harm that is proven later still ends the run."
    return Verdict(Outcome.PASS, "stage_passed", sentence, parts=judged, change=change)


def _open(experiment: Experiment, look: Look, verdict: Verdict) -> Verdict:
    """Say beside what is open how long it may stay open."""
    left = experiment.stages[look.stage - 1].timeout - look.seconds_in_stage
    ends = f"Undecided, the stage ends in {duration(left)}." if left > 0 else ""
    return replace(verdict, change=f"{verdict.change} {ends}".strip())


def _with_looks(experiment: Experiment, look: Look, verdict: Verdict) -> Verdict:
    allowed = experiment.limits.failures
    if not allowed:
        return verdict
    count = look.history.failures + 1
    text = f"It is the {_ordinal(count)} look in a row with proven harm, and {tolerated(allowed)}."
    return replace(verdict, sentence=f"{verdict.sentence} {text}")


def _tolerated_harm(experiment: Experiment, look: Look, proven: list[Verdict], parts: Parts) -> Verdict:
    """Say that harm is proven and the spec waits for more looks like it."""
    if proven:
        verdict = _fold(proven, parts)
    else:
        sentence = "At least one cohort is proven to be harmed, counted together with the other cohorts."
        verdict = Verdict(Outcome.FAIL, "cohort_harmed", sentence, parts=parts)
    left = experiment.limits.failures - look.history.failures
    change = (
        f"{plural(left, 'more look')} in a row like this one, and exposure is taken back; a look without proven harm "
        "starts the count again."
    )
    return replace(_with_looks(experiment, look, verdict), change=change)


def _contained(contain: tuple[str, ...], harm: Parts, judged: Parts) -> Verdict:
    worst = _worst_in(contain, harm)
    names = ", ".join(contain)
    goes = "goes" if len(contain) == 1 else "go"
    sentence = f"{names} {goes} back to the champion, because the challenger harms it: {_harm_in(worst)} Everyone else goes on."
    change = (
        f"Nothing for {names}: it stays on the champion for the rest of the run. Promotion now needs a version that does "
        "not harm it, in a new run."
    )
    numbers = {"contain": list(contain)} | (dict(worst.evidence) if worst else {})
    metric = worst.metric if worst else None
    return Verdict(
        Outcome.FAIL, "cohort_contained", sentence, numbers, metric, contain[0], judged, change=change
    )


def _too_many(experiment: Experiment, look: Look, harm: Parts, parts: Parts) -> Verdict:
    cohorts = tuple(cohort for cohort in look.cohorts if cohort not in look.contained)
    worst = _worst_in(cohorts, harm)
    allowed = experiment.max_contained
    sentence = (
        f"More than {plural(allowed, 'cohort')} would have to go back to the champion, which ends the run. "
        f"{_harm_in(worst)}"
    )
    numbers = {"contained": list(look.contained), "max_contained": allowed}
    metric, cohort = (worst.metric, worst.cohort) if worst else (None, None)
    return Verdict(
        Outcome.FAIL, "too_many_contained", sentence, numbers, metric, cohort, parts, change=_FINAL
    )


def _worst_in(cohorts: tuple[str, ...], harm: Parts) -> Verdict | None:
    """Return the judgement in some cohorts whose estimate lies farthest beyond its margin."""
    inside = [
        part
        for part in harm
        if part.cohort in cohorts and decides(part) and isinstance(part.evidence.get("estimate"), float)
    ]
    return max(inside, key=lambda part: _excess(part), default=None)


def _excess(part: Verdict) -> float:
    """Return how far the estimate lies beyond the margin, in half-widths of its interval."""
    estimate, lower, limit = (part.evidence.get(name) for name in ("estimate", "lower", "limit"))
    if estimate is None or lower is None or limit is None or not estimate > lower:
        return -float("inf")
    return float((estimate - limit) / (estimate - lower))


def _harm_in(worst: Verdict | None) -> str:
    if worst is None:
        return "It is harmed beyond its margin."
    estimate, limit = worst.evidence["estimate"], worst.evidence["limit"]
    return f"{worst.metric} is worse by about {number(estimate)} in cohort {worst.cohort}, and the margin is {limit:g}."


def _gave_up(experiment: Experiment, look: Look, cause: Cause, why: str, judged: Parts) -> Verdict:
    plan, limits, history = experiment.stages[look.stage - 1], experiment.limits, look.history
    if cause is Cause.TOO_MANY_ERRORS:
        count = _ordinal(history.errors + 1)
        sentence = f"This is the {count} look in a row that could not measure, and {tolerated(limits.errors or 0)}. {why}"
        return Verdict(Outcome.ERROR, "too_many_errors", sentence, parts=judged, change=_FINAL)
    if cause is Cause.TOO_MANY_INCONCLUSIVE:
        count = _ordinal(history.inconclusive + 1)
        sentence = f"This is the {count} look in a row that could not decide, and {tolerated(limits.inconclusive or 0)}. {why}"
        return Verdict(Outcome.INCONCLUSIVE, "too_many_inconclusive", sentence, parts=judged, change=_FINAL)
    sentence = (
        f"Stage {look.stage} was not decided within {plan.timeout:g} s, and undecided never goes on. {why}"
    )
    return Verdict(Outcome.INCONCLUSIVE, "stage_timed_out", sentence, parts=judged, change=_FINAL)


def _ordinal(count: int) -> str:
    suffix = "th" if 10 < count % 100 < 20 else {1: "st", 2: "nd", 3: "rd"}.get(count % 10, "th")
    return f"{count}{suffix}"
