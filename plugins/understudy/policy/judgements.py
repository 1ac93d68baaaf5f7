"""One verdict a row: what its interval says, the numbers, and what would change it."""

from __future__ import annotations

from dataclasses import replace

from understudy.policy.outlook import Pace, clear_text
from understudy.policy.row_states import State, States
from understudy.policy.words import missing_words, number, where
from understudy.spec import Better
from understudy.stats.cells import ALL
from understudy.stats.sequences import Interval
from understudy.verdicts import Outcome, Verdict

__all__ = ["harm_verdict", "tolerance_verdict", "win_verdict"]

_SAYS_NOTHING = 1000.0
"""A bound so many times beyond its limit says nothing but that hardly any unit stands behind it."""

_FINAL = "Nothing: proven harm is final for this run. A better version needs a new run."


def harm_verdict(found: States, index: int) -> Verdict:
    """Judge one row of a live look for harm; FAIL when harm beyond its margin is proven."""
    verdict = _harm(found, index)
    metric = found.rows.metrics[index]
    if metric.dry_run:
        return replace(
            verdict,
            sentence=f"(dry run) {verdict.sentence}",
            evidence={**verdict.evidence, "decides": False},
            change=f"It is a dry run, so it decides nothing. {verdict.change}",
        )
    if not metric.decides:
        change = "It is only watched, so it decides nothing."
        return replace(verdict, evidence={**verdict.evidence, "decides": False}, change=change)
    return verdict


def _harm(found: States, index: int) -> Verdict:
    metric, cohort, state = (
        found.rows.metrics[index],
        found.rows.cohorts[index],
        State(int(found.code[index])),
    )
    interval = found.interval(index)
    margin = None if metric.margin is None else float(metric.margin)
    numbers = vars(interval) | {"limit": margin, "state": state.name.lower()}
    at = where(cohort, ALL)
    if state is State.UNDETERMINED or interval.lower is None:
        return _undetermined(interval, numbers, metric.name, cohort)
    changed = "has changed" if metric.better is Better.SAME else "is worse"
    if state is State.HARMFUL:
        sentence = (
            f"{metric.name}{at} {changed} by at least {number(interval.lower)} (estimate {_estimate(interval)}); "
            f"the margin is {margin:g}."
        )
        return Verdict(
            Outcome.FAIL, "guardrail_breached", sentence, numbers, metric.name, cohort, change=_FINAL
        )
    if state is State.DETERIORATED:
        sentence = f"{metric.name}{at} {changed} by at least {number(interval.lower)}"
        sentence += "." if margin is None else f"; whether by more than the margin of {margin:g} is open."
        outcome, reason = Outcome.INCONCLUSIVE, "deteriorated"
    else:
        sentence = (
            f"{metric.name}{at} is not proven {'changed' if metric.better is Better.SAME else 'worse'}."
        )
        outcome, reason = Outcome.PASS, "no_harm_proven"
    change = "It never stops anything." if margin is None else _harm_change(interval.lower, margin)
    return Verdict(outcome, reason, sentence, numbers, metric.name, cohort, change=change)


def _harm_change(lower: float, margin: float) -> str:
    sure = "none of it is proven now" if lower <= 0 else f"{number(lower)} is proven now"
    return f"Proof of more than {margin:g} worse would stop it; {sure}."


def tolerance_verdict(found: States, index: int, speed: Pace | None = None) -> Verdict:
    """Judge one metric of a live look against its tolerance; PASS only when the tolerance is proven."""
    metric, limit = found.rows.metrics[index], float(found.rows.margin[index])
    interval = found.interval(index)
    numbers = vars(interval) | {"limit": limit}
    if State(int(found.code[index])) is State.UNDETERMINED or interval.upper is None:
        return _undetermined(interval, numbers, metric.name, ALL)
    if found.safe[index]:
        sentence = f"{metric.name} is at most {number(interval.upper)} worse; tolerated here is {limit:g}."
        if metric.better is Better.SAME:
            sentence = (
                f"{metric.name} has changed by at most {number(interval.upper)}; tolerated here is {limit:g}."
            )
        if interval.upper < 0:
            sentence = f"{metric.name} is better, by at least {number(-interval.upper)}."
        change = f"Later events that leave more than {limit:g} of harm possible."
        return Verdict(Outcome.PASS, "within_tolerance", sentence, numbers, metric.name, ALL, change=change)
    could = "far" if interval.upper > _SAYS_NOTHING * limit else number(interval.upper)
    sentence = f"{metric.name} could still be {could} worse, and {limit:g} is tolerated here."
    change = clear_text(
        found, index, limit, speed, f"beyond the tolerated {limit:g}", f"the tolerated {limit:g}"
    )
    return Verdict(
        Outcome.INCONCLUSIVE, "could_be_harmful", sentence, numbers, metric.name, ALL, change=change
    )


def win_verdict(found: States, index: int) -> Verdict:
    """Judge whether the primary has won; PASS only when an improvement is proven."""
    metric, interval = found.rows.metrics[index], found.interval(index)
    numbers = dict(vars(interval))
    if (
        State(int(found.code[index])) is State.UNDETERMINED
        or interval.upper is None
        or interval.estimate is None
    ):
        lost = _undetermined(interval, numbers, metric.name, ALL)
        return replace(lost, sentence=f"{lost.sentence} So nothing was won.")
    if found.better[index]:
        sentence = (
            f"{metric.name} improved by {number(-interval.estimate)}, at least {number(-interval.upper)}."
        )
        change = "Nothing: the win is proven, and this is the planned end."
        return Verdict(Outcome.PASS, "primary_won", sentence, numbers, metric.name, ALL, change=change)
    size = number(abs(interval.estimate))
    sentence = f"{metric.name} is worse by {size}, so nothing was won."
    if interval.estimate < 0:
        sentence = f"{metric.name} is better by {size}, but that is not proven."
    change = clear_text(found, index, 0.0, None, "no improvement", "no change")
    return Verdict(
        Outcome.INCONCLUSIVE, "primary_not_won", sentence, numbers, metric.name, ALL, change=change
    )


def _undetermined(interval: Interval, numbers: dict[str, object], metric: str, cohort: str) -> Verdict:
    why, change = missing_words(interval.reason)
    sentence = f"{metric}{where(cohort, ALL)} cannot be determined yet: {why}."
    return Verdict(Outcome.INCONCLUSIVE, "undetermined", sentence, numbers, metric, cohort, change=change)


def _estimate(interval: Interval) -> str:
    return "unknown" if interval.estimate is None else number(interval.estimate)
