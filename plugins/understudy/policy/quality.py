"""Is the evidence itself sound? Fresh, split as planned, one arm a unit, each event once, hardly any left out."""

from __future__ import annotations

import math

from understudy.spec import Experiment
from understudy.stats.evidence import Evidence, split_test
from understudy.verdicts import Outcome, Verdict

__all__ = [
    "LARGEST_SHARE_LEFT_OUT",
    "LARGEST_SHARE_REPEATED",
    "SPLIT_ALPHA",
    "quality_verdicts",
    "soundness_verdicts",
]

SPLIT_ALPHA = 0.001
"""Error budget of the sample-ratio test over a whole run."""

LARGEST_SHARE_REPEATED = 0.5
"""Repeated events count once, so a few do nothing. Past this share of all events something sends them in a loop."""

LARGEST_SHARE_LEFT_OUT = 0.01
"""Events and outcomes that cannot be counted are left out. Past this share, what is left out may be the harm itself."""

_BROKEN = "Nothing in this run: find out why, repair it, and start a new run."


def quality_verdicts(experiment: Experiment, evidence: Evidence, now: float) -> tuple[Verdict, ...]:
    """Judge one look's evidence: ERROR where it could not be measured, FAIL where it cannot be trusted."""
    return (_fresh(experiment, evidence, now), *soundness_verdicts(evidence))


def soundness_verdicts(evidence: Evidence) -> tuple[Verdict, ...]:
    """Judge what does not depend on the hour of the look."""
    return (_split(evidence), _one_arm(evidence), _once(evidence), _counted(evidence))


def _fresh(experiment: Experiment, evidence: Evidence, now: float) -> Verdict:
    newest, stale = evidence.quality.newest_received_at, experiment.stale_after
    if newest is None:
        sentence = "No request of this run has been logged yet; nothing is measured."
        return Verdict(Outcome.ERROR, "no_events", sentence, change="The first logged request of this run.")
    age = now - newest
    numbers = {"newest_age": age if math.isfinite(age) else None, "stale_after": stale}
    if age < -stale:
        sentence = (
            f"The newest request is dated {-age:.0f} s after this look, so the clocks disagree and nothing can be said "
            "about how fresh the evidence is."
        )
        change = "Clocks that agree on the gateways and here."
        return Verdict(Outcome.ERROR, "clocks_disagree", sentence, numbers, change=change)
    if not age <= stale:
        sentence = f"The newest request is {age:.0f} s old; older than {stale:g} s counts as not measured."
        return Verdict(Outcome.ERROR, "stale_events", sentence, numbers, change="A new request of this run.")
    change = f"{stale:g} s without a request."
    return Verdict(
        Outcome.PASS, "fresh", f"The newest request is {max(age, 0):.0f} s old.", numbers, change=change
    )


def _split(evidence: Evidence) -> Verdict:
    test = split_test(evidence, SPLIT_ALPHA)
    if test.alarm:
        why = "the counts differ from the planned shares by more than chance"
        if test.reason == "units_in_an_arm_without_share":
            why = "units were seen in an arm that was to get none"
        sentence = f"The arms are not split as planned ({why}), so their comparison cannot be trusted."
        return Verdict(Outcome.FAIL, "sample_ratio_mismatch", sentence, test.to_dict(), change=_BROKEN)
    change = "Counts of units that differ from the planned shares by more than chance."
    sentence = "The arms are split as planned."
    return Verdict(Outcome.PASS, "split_as_planned", sentence, test.to_dict(), change=change)


def _one_arm(evidence: Evidence) -> Verdict:
    both = evidence.quality.multi_arm_units
    numbers = {"multi_arm_units": both}
    if both:
        sentence = f"{both} {'unit was' if both == 1 else 'units were'} seen in both arms of one stage; assignment is broken."
        return Verdict(Outcome.FAIL, "multi_exposure", sentence, numbers, change=_BROKEN)
    change = "A single unit that is seen in both arms of one stage."
    return Verdict(Outcome.PASS, "one_arm_each", "Every unit stayed in one arm.", numbers, change=change)


def _once(evidence: Evidence) -> Verdict:
    quality = evidence.quality
    events = quality.control.events + quality.challenger.events
    numbers = {"duplicates": quality.duplicates, "events": events}
    if quality.duplicates and quality.duplicates > LARGEST_SHARE_REPEATED * events:
        sentence = (
            f"{quality.duplicates:,} requests came more than once, beside {events:,} that count. Each counts once, but "
            "something sends them in a loop."
        )
        change = "A larger share of requests that come once: repair whatever sends them again."
        return Verdict(Outcome.INCONCLUSIVE, "repeated_events", sentence, numbers, change=change)
    sentence = f"{quality.duplicates:,} repeated requests were counted once."
    change = f"Repeats of more than {LARGEST_SHARE_REPEATED:.0%} of what counts."
    return Verdict(Outcome.PASS, "each_event_once", sentence, numbers, change=change)


def _counted(evidence: Evidence) -> Verdict:
    """Judge whether what could not be counted is too much to be left out in silence."""
    quality = evidence.quality
    arms = (quality.control, quality.challenger)
    events, outcomes = sum(arm.events for arm in arms), sum(arm.labelled + arm.early for arm in arms)
    lost = {
        "name no unit": quality.without_unit,
        "happened after they were received, so the clocks disagree": quality.skewed,
        "belong to an arm that does not exist": quality.unknown_arms,
        "were answered by another version than their arm's": quality.wrong_version,
    }
    told = {
        "came before the event that they belong to": quality.outcomes_before_event,
        "are not numbers": quality.non_finite_outcomes,
    }
    numbers = {
        name: getattr(quality, name)
        for name in (
            "without_unit", "skewed", "unknown_arms", "wrong_version", "outcomes_before_event", "non_finite_outcomes",
        )
    }  # fmt: skip
    too_many = [
        f"{count:,} {what} {why}"
        for what, reasons, sound in (("events", lost, events), ("outcomes", told, outcomes))
        for why, count in reasons.items()
        if count > LARGEST_SHARE_LEFT_OUT * (sound + count)
    ]
    if too_many:
        sentence = f"Too much had to be left out: {'; '.join(too_many)}. What is left out may be the harm."
        change = f"Fewer than {LARGEST_SHARE_LEFT_OUT:.0%} of them: repair whatever sends them."
        return Verdict(Outcome.INCONCLUSIVE, "too_much_left_out", sentence, numbers, change=change)
    sentence = f"{sum(lost.values()):,} events and {sum(told.values()):,} outcomes had to be left out."
    change = f"More than {LARGEST_SHARE_LEFT_OUT:.0%} of events or outcomes that cannot be counted."
    return Verdict(Outcome.PASS, "nearly_all_counted", sentence, numbers, change=change)
