"""Asks the challenger single requests whose answers are checked, before anybody real asks it.

They are made up, with the range in which each answer must lie. Where nobody has made up any, they are the newest of the
log, and each must be answered with a finite number.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from understudy.errors import DataMissing, VersionIncompatible
from understudy.events.lookups import answered_requests
from understudy.lifecycle.check_data import nothing_logged
from understudy.lifecycle.trial import NOT_MEASURED, not_measured, trial_gateway, undeclared
from understudy.scoring import one_per_row
from understudy.session import Passage, session
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict, worst_of

if TYPE_CHECKING:
    import httpx

__all__ = ["Case", "Cases", "critical_path", "read_cases"]

_MOST_CASES = 1000
_MOST_BYTES = 16 * 1024 * 1024
_PATIENCE = 10.0
_NO_ANSWER = "no_answer"
_LOG = "the newest requests of the log"


class Case(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One request and what must come of it: an answer in a range, a refusal, or where neither is asked for any number.

    Attributes:
        name: What messages call it.
        row: The request's only row, by column.
        low: Smallest right answer.
        high: Largest right answer.
        refused: Whether it must be refused with a status of 4xx instead.
    """

    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    row: Annotated[dict[str, Any], msgspec.Meta(min_length=1)]
    low: float | None = None
    high: float | None = None
    refused: bool = False

    def __post_init__(self) -> None:
        ranged = self.low is not None or self.high is not None
        if self.refused and ranged:
            raise ValueError("it must have either low and high, or refused: true")
        if ranged and not (
            self.low is not None and self.high is not None and -math.inf < self.low <= self.high < math.inf
        ):
            raise ValueError("low and high must both be numbers, low not above high")

    @property
    def told(self) -> bool:
        """Whether it says what must come of it."""
        return self.refused or self.low is not None


@dataclass(frozen=True)
class Cases:
    """The critical path of a spec.

    Attributes:
        cases: The cases, in their order.
        source: Where they come from, in words.
        sha256: SHA-256 of the file, or of the requests as JSON lines; in hex digits.
    """

    cases: tuple[Case, ...]
    source: str
    sha256: str


def critical_path(run_id: str) -> dict[str, Any]:
    """Ask every case of the spec's critical path on a gateway where the challenger answers everything.

    Raises:
        StepNotPassed: An answer is not what the case says, or there is none.
        BadParameter: The frozen spec declares no critical path.
    """
    import httpx

    passage = session().passage(run_id)
    rules = passage.experiment.trial.critical_path
    if rules is None:
        raise undeclared(passage, "critical_path")
    record = StepRecord(params={"source": rules.file or _LOG})
    try:
        found = (
            read_cases(passage.session.settings.data, rules.file)
            if rules.file
            else _logged_cases(passage, rules.requests)
        )
        with trial_gateway(passage) as gateway:
            gateway.serve(passage.run.version)
            with httpx.Client(base_url=gateway.url, timeout=_PATIENCE, trust_env=False) as client:
                parts = _walk(client, found.cases)
            ending = gateway.ending() if parts[-1].reason == _NO_ANSWER else ""
    except NOT_MEASURED as error:
        verdict = not_measured(error)
    else:
        verdict = _fold(found, parts, ending)
        record = StepRecord(
            metrics={"cases": len(found.cases), "passed": sum(part.passed for part in parts)},
            params={"source": found.source, "sha256": found.sha256},
            artifacts={"critical_path.csv": _table(parts)},
        )
    return passage.conclude("critical_path", verdict, record)


def read_cases(data: Path, relative: str) -> Cases:
    """Read a file of cases, one JSON object a line.

    Args:
        data: The data folder.
        relative: The file's path in it.

    Raises:
        DataMissing: It cannot be read, holds nothing, or a line is no case.
    """
    try:
        with (data / relative).open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _unusable(relative, f"cannot be read from {data} ({type(error).__name__})") from error
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if not lines:
        raise _unusable(relative, "has no cases, and no case never passes")
    if len(content) > _MOST_BYTES or len(lines) > _MOST_CASES:
        raise _unusable(relative, f"has more than {_MOST_CASES} cases or {_MOST_BYTES} bytes")
    cases: dict[str, Case] = {}
    for number, line in lines:
        try:
            case = _decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            # The message names the place and the type, never a value.
            raise _unusable(relative, f"has no case in line {number}: {error}") from error
        if not case.told:
            why = "it must have either low and high, or refused: true"
            raise _unusable(relative, f"has no case in line {number}: {why}")
        if cases.setdefault(case.name, case) is not case:
            raise _unusable(
                relative, f"has a second case {case.name!r} in line {number}; give each its own name"
            )
    return Cases(tuple(cases.values()), relative, hashlib.sha256(content).hexdigest())


def _logged_cases(passage: Passage, limit: int) -> Cases:
    """Return the newest rows that the champion answered, each as a request of its own.

    Raises:
        DataMissing: Nothing is logged.
    """
    unit = passage.experiment.traffic.unit
    requests = answered_requests(passage.session.settings.events_dir, passage.run.model, limit)
    # Neither the unit nor what is private is in the log; no model gets either, but a gateway looks for the unit.
    rows = [{unit: f"trial-{number}"} | row for number, row in enumerate(chain(*requests), 1)]
    if not rows:
        raise nothing_logged(passage)
    cases = [Case(f"logged request {number}", row) for number, row in enumerate(rows[:limit], 1)]
    content = "".join(json.dumps(row) + "\n" for row in rows[:limit])
    return Cases(tuple(cases), _LOG, hashlib.sha256(content.encode()).hexdigest())


_decoder = msgspec.json.Decoder(Case)


def _unusable(relative: str, why: str) -> DataMissing:
    return DataMissing(
        f"The critical path {relative} {why}. It must be a file below UNDERSTUDY_DATA with a JSON object a line, such as "
        '{"name": "a calm morning", "row": {"hour": 6}, "low": 0.0, "high": 0.3}.'
    )


def _walk(client: httpx.Client, cases: Sequence[Case]) -> list[Verdict]:
    """Ask the cases one after the other, up to one that is not answered at all: the next would not be either."""
    parts: list[Verdict] = []
    for case in cases:
        parts.append(_ask(client, case))
        if parts[-1].reason == _NO_ANSWER:
            break
    return parts


def _ask(client: httpx.Client, case: Case) -> Verdict:
    import httpx

    body = {"dataframe_split": {"columns": list(case.row), "data": [list(case.row.values())]}}
    try:
        answer = client.post(
            "/invocations", content=json.dumps(body), headers={"Content-Type": "application/json"}
        )
    except httpx.HTTPError as error:
        sentence = f"{case.name}: no answer ({type(error).__name__})."
        return Verdict(Outcome.ERROR, _NO_ANSWER, sentence, {"case": case.name})
    evidence = {"case": case.name, "status": answer.status_code}
    if case.refused:
        return _judge_refusal(case, evidence)
    if answer.status_code != 200:
        sentence = f"{case.name}: refused with status {answer.status_code}, and it must be answered."
        return Verdict(Outcome.FAIL, "not_answered", sentence, evidence)
    return _judge_answer(case, answer.content, evidence)


def _judge_refusal(case: Case, evidence: dict[str, Any]) -> Verdict:
    status = evidence["status"]
    if 400 <= status < 500:
        return Verdict(
            Outcome.PASS, "refused", f"{case.name}: refused with status {status}, as it must be.", evidence
        )
    sentence = f"{case.name}: status {status}, and it must be refused with 4xx."
    return Verdict(Outcome.FAIL, "not_refused", sentence, evidence)


def _judge_answer(case: Case, content: bytes, evidence: dict[str, Any]) -> Verdict:
    value = _number_in(content)
    if value is None or not math.isfinite(value):
        sentence = f"{case.name}: the answer is no finite number."
        return Verdict(Outcome.FAIL, "not_a_number", sentence, evidence)
    if case.low is None or case.high is None:
        sentence = f"{case.name}: answered with {value:.4g}."
        return Verdict(Outcome.PASS, "answered", sentence, evidence | {"value": value})
    evidence |= {"value": value, "low": case.low, "limit": case.high}
    around = f"{case.low:g} to {case.high:g}"
    if case.low - 1e-12 <= value <= case.high + 1e-12:
        return Verdict(Outcome.PASS, "in_range", f"{case.name}: {value:.4g} lies within {around}.", evidence)
    return Verdict(Outcome.FAIL, "out_of_range", f"{case.name}: {value:.4g} lies outside {around}.", evidence)


def _number_in(content: bytes) -> float | None:
    """Return the one answer of a response; nothing where there is none."""
    try:
        # Not the stricter decoder: a model that answers NaN must be told apart from one that answers nothing.
        rows = json.loads(content)["predictions"]
        rows = [list(row.values()) if isinstance(row, dict) else row for row in rows]
        return float(one_per_row(rows, 1)[0])
    except (ValueError, TypeError, KeyError, RecursionError, VersionIncompatible):
        return None


def _fold(found: Cases, parts: Sequence[Verdict], ending: str) -> Verdict:
    verdict = worst_of(parts, _all_well(found))
    if not verdict.passed:
        wrong = sum(not part.passed for part in parts)
        told = [f"{wrong} of {len(found.cases)} cases did not go as they must. {verdict.sentence}", ending]
        if len(parts) < len(found.cases):
            told.append(f"{len(found.cases) - len(parts)} more were not asked.")
        verdict = replace(verdict, sentence=" ".join(filter(None, told)))
    evidence = dict(verdict.evidence) | {"sha256": found.sha256, "cases": len(found.cases)}
    return replace(verdict, evidence=evidence)


def _all_well(found: Cases) -> str:
    """Return what is said where everything went as it must."""
    count, refusals = len(found.cases), sum(case.refused for case in found.cases)
    if not all(case.told for case in found.cases):
        return f"All {count} of {found.source} were answered with a finite number."
    return (
        f"All {count} made-up requests of the critical path went as they must: {count - refusals} answered within their "
        f"range, {refusals} refused."
    )


def _table(parts: Sequence[Verdict]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = ("case", "status", "value", "low", "limit")
    writer.writerow(("outcome", "reason", *columns))
    for part in parts:
        writer.writerow((part.outcome.value, part.reason, *(part.evidence.get(name) for name in columns)))
    return text.getvalue()
