"""A recorded look is decided again, and whatever differs is listed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tests import declared
from tests.policy.scenes import HARM, NEVER, SILENT, UNDECIDED, brier, evidence, look
from understudy import policy
from understudy.policy import History, Look, Mismatch
from understudy.policy.replay import differences
from understudy.stats.evidence import Evidence
from understudy.verdicts import Outcome, Verdict

EXPERIMENT = declared.experiment()
NAMES = ("origin=JFK",)
SEEN = {
    "better": evidence(),
    "harmful": HARM,
    "undecided": UNDECIDED,
    "silent": SILENT,
    "with a cohort": evidence(brier(-0.05), NEVER, brier(0.12, 800, NAMES[0])),
}


def stored(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN.keys())
def test_what_was_recorded_is_reproduced(seen: Evidence) -> None:
    first = look(seen, cohorts=NAMES, history=History(0, 1, 2, {"errors": 3.0}))
    decision = policy.decide(EXPERIMENT, first)
    recorded = Verdict.from_dict(stored(policy.record_of(decision).to_dict()))
    again = Look.from_dict(stored(first.to_dict()))
    assert policy.reproduce(EXPERIMENT, again, recorded, decision.kind.value) == ()
    shipped = policy.compare_online(EXPERIMENT, seen, cohorts=NAMES)
    assert policy.reproduce_ship(EXPERIMENT, again.evidence, shipped, NAMES) == ()


def test_evidence_that_is_kept_elsewhere_is_put_back_by_its_digest() -> None:
    first = look(UNDECIDED)
    kept = stored(first.to_dict(with_evidence=False))
    assert set(kept["evidence"]) == {"digest"}
    again = Look.from_dict(kept, UNDECIDED)
    assert policy.decide(EXPERIMENT, again) == policy.decide(EXPERIMENT, first)
    with pytest.raises(ValueError, match="judged from evidence"):
        Look.from_dict(kept, HARM)


def test_a_number_that_was_changed_afterwards_is_found() -> None:
    decision = policy.decide(EXPERIMENT, look(UNDECIDED))
    data = stored(decision.verdict.to_dict())
    place = next(n for n, part in enumerate(data["parts"]) if part["metric"] == "brier")
    data["parts"][place]["evidence"]["lower"] += 0.001
    found = policy.reproduce(EXPERIMENT, look(UNDECIDED), Verdict.from_dict(data))
    assert [item.path for item in found] == [f"parts[{place}].evidence.lower"]
    assert found[0].recorded == pytest.approx(found[0].again + 0.001)
    json.dumps([item.to_dict() for item in found])


def test_another_action_another_spec_and_another_history_are_found() -> None:
    decision = policy.decide(EXPERIMENT, look(HARM))
    acted = policy.reproduce(EXPERIMENT, look(HARM), decision.verdict, "ADVANCE")
    assert acted == (Mismatch("kind", "ADVANCE", "ROLL_BACK"),)
    tolerant = declared.experiment(limits={"failures": 1})
    assert "kind" in {
        item.path for item in policy.reproduce(tolerant, look(HARM), decision.verdict, "ROLL_BACK")
    }
    later = replace(look(HARM), seconds_in_stage=1.0)
    assert {
        item.path.rpartition(".")[2] for item in policy.reproduce(EXPERIMENT, later, decision.verdict)
    } >= {"seconds"}


def test_parts_that_were_taken_away_are_missed() -> None:
    decision = policy.decide(EXPERIMENT, look(HARM))
    bare = replace(decision.verdict, parts=())
    assert policy.reproduce(EXPERIMENT, look(HARM), bare, decision.kind.value) != ()


COHORTS = tuple(f"origin={name}" for name in ("JFK", "LGA", "EWR", "BOS", "DCA"))


def of_cohorts(worse_at_jfk: float = 0.0, impossible: float = 0.0) -> Look:
    """Return an undecided look with a cohort that may be worse, two quiet ones, one in doubt and one without data."""
    seen = evidence(
        *(brier(0.03), NEVER, brier(worse_at_jfk, 2000, COHORTS[0])),
        *(brier(harm, 500, cohort) for harm, cohort in ((0.0, COHORTS[1]), (0.001, COHORTS[2]))),
        brier(impossible, 500, COHORTS[3]),
    )
    return look(seen, cohorts=COHORTS)


def kept(record: Verdict) -> set[tuple[str | None, str]]:
    return {(part.cohort, part.reason) for part in record.parts if part.cohort in COHORTS}


def test_a_look_that_only_holds_keeps_the_cohorts_that_matter_and_counts_the_rest() -> None:
    decision = policy.decide(EXPERIMENT, of_cohorts(0.03, impossible=-5.0))
    record = policy.record_of(decision)
    assert decision.kind is policy.Kind.HOLD
    assert replace(record, parts=()) == replace(decision.verdict, parts=())
    assert kept(record) == {(COHORTS[0], "deteriorated"), (COHORTS[3], "undetermined")}
    about_everyone = [part for part in decision.verdict.parts if part.cohort not in COHORTS]
    assert [part for part in record.parts if part.cohort not in COHORTS][:-1] == about_everyone
    rest = record.parts[-1]
    assert (rest.reason, rest.outcome) == (policy.QUIET_COHORTS, Outcome.INCONCLUSIVE)
    assert rest.evidence["reasons"] == {"no_data": 6, "no_harm_proven": 2}
    assert (
        rest.sentence == "8 more judgements on cohorts: 2 found no proven harm, 6 cannot be determined yet."
    )


def test_what_was_said_of_quiet_cohorts_is_reproduced_without_being_kept() -> None:
    first = of_cohorts(0.001)
    record = Verdict.from_dict(stored(policy.record_of(policy.decide(EXPERIMENT, first)).to_dict()))
    assert policy.reproduce(EXPERIMENT, first, record, "HOLD") == ()
    found = policy.reproduce(EXPERIMENT, of_cohorts(0.002), record, "HOLD")
    assert [item.path.rpartition(".")[2] for item in found] == ["digest"]


@pytest.mark.parametrize(
    ("seen", "changes", "kind"),
    [
        (evidence(brier(-0.1), NEVER, brier(-0.1, 2000, COHORTS[0])), {}, "ADVANCE"),
        (evidence(brier(0.1), NEVER, brier(0.0, 2000, COHORTS[0])), {}, "ROLL_BACK"),
        (evidence(brier(0.0), NEVER, brier(0.3, 2000, COHORTS[0])), {"cohort_harm": "contain"}, "HOLD"),
    ],
    ids=["advances", "rolls back", "contains"],
)
def test_a_look_that_acts_keeps_every_judgement(seen: Evidence, changes: dict[str, Any], kind: str) -> None:
    decision = policy.decide(declared.experiment(**changes), look(seen, cohorts=COHORTS))
    assert (decision.kind.value, bool(decision.contain)) == (kind, bool(changes))
    assert {part.cohort for part in decision.verdict.parts} >= set(COHORTS[1:])
    assert policy.record_of(decision) == decision.verdict


@pytest.mark.parametrize(
    ("recorded", "again", "paths"),
    [
        ({"a": 1.0}, {"a": 1.0 + 1e-12}, []),
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1.0}, {"a": 1.0 + 1e-6}, ["a"]),
        ({"a": True}, {"a": 1}, ["a"]),
        ({"a": None}, {"a": 0.0}, ["a"]),
        ({"a": 1}, {"b": 1}, ["a", "b"]),
        ({"a": [1, 2]}, {"a": [1]}, ["a[1]"]),
        ({"a": [1]}, {"a": {"b": 1}}, ["a"]),
        ({"a": {"b": [{"c": "x"}]}}, {"a": {"b": [{"c": "y"}]}}, ["a.b[0].c"]),
    ],
)
def test_differences_are_told_by_their_place(recorded: Any, again: Any, paths: list[str]) -> None:
    assert [item.path for item in differences(recorded, again)] == paths
