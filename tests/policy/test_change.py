"""What would change a verdict: computed from its own numbers, said in words, and said by every verdict."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from tests import declared
from tests.policy.scenes import (
    HARM,
    NEVER,
    SILENT,
    UNDECIDED,
    arm,
    brier,
    cell,
    errors,
    every_verdict,
    evidence,
    judge,
    metrics,
    part,
)
from understudy import policy
from understudy.policy import History, outlook
from understudy.policy.words import about, duration
from understudy.stats.cells import Cells
from understudy.stats.evidence import Evidence, Quality
from understudy.stats.srm import Split
from understudy.verdicts import Verdict

NAMES = ("origin=JFK", "origin=LGA")
COHORTS = (brier(0.12, 800, NAMES[0]), brier(-0.05, 800, NAMES[1]))
GAP = {
    "name": "gap",
    "kind": "fairness_gap",
    "role": "guardrail",
    "margin": 0.1,
    "of": "brier",
    "by": "origin",
}
DRY = {"name": "dry", "kind": "brier", "role": "guardrail", "margin": 0.02, "dry_run": True}
EVERYTHING: dict[str, Any] = {
    "metrics": metrics(GAP, DRY),
    "limits": {"failures": 1, "errors": 1, "inconclusive": 1},
    "budgets": [{"metric": "errors", "service": 10, "stage": 5, "on_spent": "hold"}],
}
UGLY = {
    "better": evidence(),
    "harmful": HARM,
    "undecided": UNDECIDED,
    "silent": SILENT,
    "stale": evidence(newest_received_at=0.0),
    "nothing": Evidence("delay", "r", 0.0, Cells.stack([]), Quality()),
    "split": evidence(splits=(Split((1,), (10, 900), (0.1, 0.1)),)),
    "both arms": evidence(multi_arm_units=1),
    "one unit": evidence(brier(0.0, 1), NEVER),
    "constant": evidence(brier(0.0, spread=0.0), NEVER),
    "repeats": evidence(duplicates=9),
    "a harmed cohort": evidence(brier(-0.05), NEVER, *COHORTS),
    "spent": evidence(brier(-0.05), errors(20, 50_000, 20)),
}


@pytest.mark.parametrize("seen", UGLY.values(), ids=UGLY.keys())
@pytest.mark.parametrize("changes", [{}, EVERYTHING, EVERYTHING | {"cohort_harm": "contain"}], ids=str)
def test_every_verdict_has_a_sentence_its_numbers_and_what_would_change_it(
    seen: Evidence, changes: dict[str, Any]
) -> None:
    decisions = [
        judge(seen, seconds, cohorts=NAMES, history=history, **changes)
        for seconds in (1.0, 60.0, 9999.0)
        for history in (History(), History(1, 1, 1))
    ]
    verdicts = [decision.verdict for decision in decisions]
    verdicts.append(policy.compare_online(declared.experiment(**changes), seen, cohorts=NAMES))
    for verdict in (inner for whole in verdicts for inner in every_verdict(whole)):
        assert verdict.sentence.endswith(".")
        assert verdict.change.endswith("."), verdict
        assert not re.search(
            r"\b(nan|inf|None|HOLD|ROLL_BACK|INCONCLUSIVE|SRM|alpha|e-value)\b", verdict.sentence
        )
        json.dumps(verdict.to_dict(), allow_nan=False)
        if verdict.metric:
            assert verdict.evidence


def grown(harm: float, units: float, spread: float = 0.2) -> Evidence:
    return evidence(brier(harm, round(units), spread=spread), NEVER)


@pytest.mark.parametrize(("harm", "units"), [(0.0, 300), (0.01, 500), (0.03, 1500), (-0.01, 60)])
def test_with_as_many_more_events_as_it_says_the_bound_clears_its_limit(harm: float, units: int) -> None:
    experiment = declared.experiment()
    limit = 0.04  # a margin of 0.02, doubled at the first stage

    def bound(size: float) -> tuple[float, policy.States]:
        found = policy.tolerances(experiment, (), grown(harm, size).cells, 2.0)
        return float(found.table.upper[0]), found

    upper, found = bound(units)
    assert upper > limit
    needed = outlook.more_events(found, 0, limit)
    assert needed is not None
    clock = 4 * units  # two arms, two events a unit
    assert bound(1.15 * (clock + needed) / 4)[0] <= limit
    assert bound(0.85 * (clock + needed) / 4)[0] > limit


def test_a_rate_that_never_happened_says_how_many_more_quiet_events_it_needs() -> None:
    quiet = cell("errors", arm(0, 50, 0), arm(0, 50, 0, seed=2))
    found = policy.tolerances(declared.experiment(), (), Cells.stack([brier(-0.05), quiet]), 1.0)
    needed = outlook.more_events(found, 1, 0.02)
    assert needed is not None
    more = cell("errors", *(arm(0, round(50 * (1 + needed / 200)) + 1, 0, seed=s) for s in (1, 2)))
    assert policy.tolerances(declared.experiment(), (), Cells.stack([brier(-0.05), more]), 1.0).safe[1]


def test_an_estimate_beyond_the_limit_is_not_promised_away() -> None:
    judged = part(judge(evidence(brier(0.05, 300), NEVER)).verdict, "brier")
    assert judged.change.startswith(
        "More of the same will not do: the estimate itself (0.05) is beyond the tolerated 0.04"
    )
    found = policy.tolerances(declared.experiment(), (), evidence(brier(0.05, 300), NEVER).cells, 2.0)
    assert outlook.more_events(found, 0, 0.04) is None


def test_an_estimate_a_hair_below_the_limit_asks_for_no_realistic_number() -> None:
    judged = part(judge(evidence(brier(0.0399999, 300), NEVER)).verdict, "brier")
    assert judged.change.startswith("No realistic number of events")


def test_the_wait_is_told_at_the_present_rate_and_against_the_end_of_the_stage() -> None:
    soon = part(judge(grown(0.0, 300), 100.0).verdict, "brier").change
    assert re.fullmatch(r"About [\d,]+ more events like these; at this rate in about \d+ (s|minutes)\.", soon)
    late = part(judge(grown(0.03, 800), 100.0).verdict, "brier").change
    assert late.endswith("but the stage ends before that.")


def test_a_held_look_says_when_the_stage_ends() -> None:
    assert judge(UNDECIDED, 100.0).verdict.change.endswith("Undecided, the stage ends in 3 minutes.")


def test_final_verdicts_say_that_nothing_changes_them() -> None:
    for decision in (judge(HARM), judge(UNDECIDED, 301.0), judge(evidence(multi_arm_units=1))):
        assert decision.verdict.change.startswith("Nothing")


@pytest.mark.parametrize(
    ("count", "said"), [(0.2, "1"), (7, "7"), (41, "41"), (3391, "3,400"), (1_234_567, "1,300,000")]
)
def test_a_number_of_events_is_told_to_two_digits_rounded_up(count: float, said: str) -> None:
    assert about(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (119, "119 s"), (240, "4 minutes"), (7200, "2 hours"), (3 * 86400, "3 days")],
)
def test_a_span_of_time_is_told_in_one_unit(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_a_stored_verdict_that_says_nothing_of_change_is_read() -> None:
    stored = judge(HARM).verdict.to_dict()
    del stored["change"]
    assert Verdict.from_dict(stored).change == ""


def test_more_events_of_an_undetermined_row_are_unknown() -> None:
    found = policy.tolerances(declared.experiment(), (), Cells.stack([brier(0.0, 1)]), 1.0)
    assert outlook.more_events(found, 0, 0.02) is None
    assert np.isnan(found.table.upper[0])
