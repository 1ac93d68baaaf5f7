"""The four verdicts: how they fold, and that they survive being data."""

from __future__ import annotations

import itertools
import json

import pytest

from understudy.verdicts import Outcome, Verdict, worst_of

P, I, E, F = Outcome.PASS, Outcome.INCONCLUSIVE, Outcome.ERROR, Outcome.FAIL  # noqa: E741 - one letter a column


def verdict(outcome: Outcome, reason: str = "r") -> Verdict:
    change = f"More of {reason}."
    return Verdict(outcome, reason, f"{reason} came to {outcome}.", {"n": 1}, "brier", "all", change=change)


@pytest.mark.parametrize(
    ("parts", "worst"),
    [
        ([P], P),
        ([P, P, P], P),
        ([P, I], I),
        ([I, I], I),
        ([I, E], E),
        ([P, E], E),
        ([E, F], F),
        ([P, F], F),
        ([I, F], F),
        ([P, I, E, F], F),
    ],
)
def test_the_worst_part_decides_in_whatever_order_they_come(parts: list[Outcome], worst: Outcome) -> None:
    for order in itertools.permutations(parts):
        assert worst_of(map(verdict, order), "fine").outcome is worst


def test_nothing_to_fold_is_an_error_and_never_a_pass() -> None:
    folded = worst_of([], "fine")
    assert folded.outcome is E
    assert folded.reason == "nothing_measured"


def test_a_fold_keeps_every_part_and_speaks_for_the_first_of_the_worst() -> None:
    parts = (verdict(P), verdict(I, "first"), verdict(I, "second"))
    folded = worst_of(parts, "fine")
    assert folded.parts == parts
    assert (folded.reason, folded.metric, folded.cohort, folded.evidence) == (
        "first",
        "brier",
        "all",
        {"n": 1},
    )


def test_a_fold_says_what_would_change_the_worst_of_it_or_all_of_a_pass() -> None:
    assert worst_of([verdict(P), verdict(I, "first"), verdict(I, "second")], "").change == "More of first."
    assert worst_of([verdict(P, "a"), verdict(P, "b"), verdict(P, "a")], "").change == "More of a. More of b."
    assert worst_of([], "").change == "Anything that can be measured."


def test_a_verdict_that_was_stored_before_there_was_change_is_read() -> None:
    stored = worst_of([verdict(P), verdict(F)], "").to_dict()
    for data in (stored, *stored["parts"]):
        del data["change"]
    read = Verdict.from_dict(stored)
    assert (read.change, [part.change for part in read.parts]) == ("", ["", ""])


def test_a_fold_of_passes_says_what_it_was_told_to_say() -> None:
    assert worst_of([verdict(P)], "All is well.").sentence == "All is well."


@pytest.mark.parametrize("outcome", list(Outcome))
def test_only_pass_has_passed(outcome: Outcome) -> None:
    assert verdict(outcome).passed is (outcome is P)


def test_a_verdict_survives_being_json() -> None:
    whole = worst_of([verdict(P), worst_of([verdict(F), Verdict(E, "bare", "Nothing else.")], "")], "")
    assert Verdict.from_dict(json.loads(json.dumps(whole.to_dict(), allow_nan=False))) == whole


def test_an_unknown_outcome_is_refused() -> None:
    with pytest.raises(ValueError, match="MAYBE"):
        Verdict.from_dict(verdict(P).to_dict() | {"outcome": "MAYBE"})
