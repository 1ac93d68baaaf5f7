"""Makes every decision of a run again from what the store kept, and says where the answer differs.

Looks and the ship rule are decided again from the stored moments and the frozen spec, without event log, registry or
gateway. Data checks and offline evaluation are judged again from the copies of their data, the evaluation with the versions
from MLflow; datasets and log may be gone or changed since. Of other steps the numbers they kept are held against their limits
again, and their parts are folded again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from understudy import policy
from understudy.errors import NoWayBack, SnapshotBroken, UnderstudyError, Unreachable
from understudy.lifecycle.check_data import judged as data_judged
from understudy.lifecycle.compare import ONLINE_RESULT
from understudy.lifecycle.evaluate import judged as versions_judged
from understudy.lifecycle.evidence import Past
from understudy.lifecycle.provenance import core_digest
from understudy.points import point
from understudy.points.verify import altered_copies
from understudy.policy import Look, Mismatch
from understudy.policy.replay import differences
from understudy.session import Passage, session
from understudy.spec import Experiment
from understudy.store import records
from understudy.store.records import RecordedVerdict
from understudy.verdicts import Outcome, Verdict, worst_of

__all__ = ["Reproduced", "reproduce"]

_OVERTAKEN = frozenset({"lease_lapsed", "not_contained"})
"""Reasons that are not in the evidence: the exposure was gone, or a gateway did not follow."""


@dataclass(frozen=True)
class Reproduced:
    """One recorded verdict, made again.

    Attributes:
        step: The step it belongs to.
        number: Its place among the run's verdicts, from 1.
        outcome: What was recorded.
        how: "moments" (decided again from stored moments), "copies" (judged again on copies of its data), "numbers" (its
            numbers held against their limits again) or "parts" (folded again from its parts).
        differences: What came out differently; nothing means it was reproduced.
    """

    step: str
    number: int
    outcome: str
    how: str
    differences: tuple[Mapping[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        shown = [dict(item) for item in self.differences]
        return {
            "step": self.step, "number": self.number, "outcome": self.outcome, "how": self.how, "differences": shown
        }  # fmt: skip


def reproduce(run_id: str, progress: Callable[[int, int], None] = lambda done, of: None) -> dict[str, Any]:
    """Make every verdict of a run again.

    Args:
        run_id: The run.
        progress: Called with the verdicts done and their number.

    Returns:
        ``reproduced`` (whether all came out the same from unaltered copies), ``verdicts``, ``altered_copies`` by name, and
        whether spec and code are those that decided.

    Raises:
        NoSuchRun: The store knows no such run.
        StoreError: Stored moments are missing.
    """
    passage = session().passage(run_id)
    with passage.session.store.read() as connection:
        recorded = records.verdicts_of(connection, run_id)
    past, found = Past(passage), []
    for number, item in enumerate(recorded, 1):
        found.append(_again(passage, past, number, item))
        progress(number, len(recorded))
    digest = Experiment.model_validate(passage.run.spec).digest()
    cores = {item.evidence["core"] for item in recorded if item.evidence and "core" in item.evidence}
    same_spec = digest == passage.run.spec_digest
    altered = _altered(passage)
    same = same_spec and not altered and not any(item.differences for item in found)
    return {
        "run_id": run_id,
        "reproduced": bool(found) and same,
        "altered_copies": altered,
        "spec_unchanged": same_spec,
        "same_code": cores <= {core_digest()},
        "verdicts": [item.to_dict() for item in found],
    }


def _again(passage: Passage, past: Past, number: int, item: RecordedVerdict) -> Reproduced:
    how, odd = "parts", list[Mapping[str, Any]]()
    try:
        if item.evidence and "look" in item.evidence:
            how, odd = "moments", _look_again(passage, past, item)
        elif item.step == ONLINE_RESULT and item.evidence:
            how, odd = "moments", _ship_again(passage, past, item)
        elif (judged := _judged_again(passage, item.step, item.verdict)) is not None:
            how, odd = "copies", list(_differs(item.verdict, judged))
        elif any(_limited(part) for part in item.verdict.parts):
            how, odd = "numbers", [*_limits_again(item.verdict), *_fold_again(item)]
        else:
            odd = list(_fold_again(item))
    except SnapshotBroken as error:
        how, odd = "copies", [_difference("data", "the copy that was kept", error.message)]
    except (KeyError, TypeError, ValueError, UnderstudyError) as error:
        # A record that was altered must be named, not end the walk over the others.
        odd = [{"path": "record", "recorded": None, "again": f"{type(error).__name__}: {error}"}]
    return Reproduced(item.step, number, item.verdict.outcome.value, how, tuple(odd))


def _look_again(passage: Passage, past: Past, item: RecordedVerdict) -> list[Mapping[str, Any]]:
    kept = dict(item.evidence or {})
    stored = kept["look"]
    evidence = past.at(int(kept["seq"]), kept["quality"], stored["contained"])
    look = Look.from_dict(stored, evidence)
    if item.verdict.reason in _OVERTAKEN:
        decided = policy.decide(passage.experiment, look).kind.value
        return [] if decided == kept["decided"] else [_difference("decided", kept["decided"], decided)]
    found = policy.reproduce(passage.experiment, look, item.verdict, item.decision)
    return [mismatch.to_dict() for mismatch in found]


def _ship_again(passage: Passage, past: Past, item: RecordedVerdict) -> list[Mapping[str, Any]]:
    kept = dict(item.evidence or {})
    evidence = past.at(int(kept["seq"]), kept["quality"], kept["contained"])
    if evidence.digest != kept["digest"]:
        return [_difference("digest", kept["digest"], evidence.digest)]
    found: tuple[Mismatch, ...] = policy.reproduce_ship(
        passage.experiment, evidence, item.verdict, kept["cohorts"], kept["contained"]
    )
    return [mismatch.to_dict() for mismatch in found]


def _judged_again(passage: Passage, step: str, recorded: Verdict) -> Verdict | None:
    """Judge a step again on the copies of its data; None where it kept none, or needs MLflow and that does not answer."""
    data = recorded.evidence.get("data")
    if data is None:
        return None
    if step == "check_data":
        return data_judged(passage, data)[0]
    try:
        return versions_judged(passage)[0]
    except Unreachable:
        return None


def _differs(recorded: Verdict, again: Verdict) -> Iterator[Mapping[str, Any]]:
    # What would change a verdict is said when it is recorded, and decides nothing.
    told, found = ({**verdict.to_dict(), "change": ""} for verdict in (recorded, again))
    return (mismatch.to_dict() for mismatch in differences(told, json.loads(json.dumps(found))))


def _altered(passage: Passage) -> list[str]:
    """Name the copies of the run that are not what was kept; a run that kept none has none."""
    with passage.session.store.read() as connection:
        try:
            kept = point.find(connection, passage.run.run_id)
        except NoWayBack:
            return []
    return [str(difference) for difference in altered_copies(passage.session, kept)]


def _limited(part: Verdict) -> bool:
    return {"value", "limit"} <= set(part.evidence)


def _limits_again(verdict: Verdict) -> Iterator[Mapping[str, Any]]:
    for index, part in enumerate(verdict.parts):
        if not _limited(part):
            continue
        value, limit = part.evidence["value"], part.evidence["limit"]
        low = part.evidence.get("low", -math.inf)
        if value is None or not math.isfinite(value):
            again = Outcome.ERROR
        else:
            again = Outcome.PASS if low - 1e-12 <= value <= limit + 1e-12 else Outcome.FAIL
        if again is not part.outcome:
            yield _difference(f"parts[{index}].outcome", part.outcome.value, again.value)


def _fold_again(item: RecordedVerdict) -> Iterator[Mapping[str, Any]]:
    """Fold the parts again; parts that are only shown, such as a cohort with too few units, may not decide."""
    parts = [part for part in item.verdict.parts if _decides(part)]
    if item.stage or not parts:
        return  # the verdict that ends a stage repeats its last look; one without parts was not folded
    again = worst_of(parts, item.verdict.sentence)
    if again.outcome is not item.verdict.outcome:
        yield _difference("outcome", item.verdict.outcome.value, again.outcome.value)


def _decides(part: Verdict) -> bool:
    return part.evidence.get("decides", True) is not False and part.reason != "cohort_undetermined"


def _difference(path: str, recorded: object, again: object) -> dict[str, Any]:
    return {"path": path, "recorded": recorded, "again": again}
