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
from understudy.verdicts import Verdict

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
    recorded = Verdict.from_dict(stored(decision.verdict.to_dict()))
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


def test_a_verdict_that_was_stored_without_its_parts_is_compared_without_them() -> None:
    decision = policy.decide(EXPERIMENT, look(HARM))
    bare = replace(decision.verdict, parts=())
    assert policy.reproduce(EXPERIMENT, look(HARM), bare, decision.kind.value) == ()
    assert policy.reproduce(EXPERIMENT, look(UNDECIDED), bare) != ()


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
