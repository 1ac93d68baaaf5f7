"""Made-up requests with known answers: read strictly, asked on a real gateway, and nothing but the right answer passes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.lifecycle.conftest import STEPS_BEFORE_EXPOSURE, World, flights
from tests.lifecycle.test_steps import artifacts, log_requests, refused
from tests.servers import free_port
from understudy import lifecycle
from understudy.errors import BadParameter, DataMissing, StaleGeneration
from understudy.lifecycle import trial
from understudy.lifecycle.critical_path import Case, _judge_answer, _walk, read_cases
from understudy.lifecycle.report import render
from understudy.lifecycle.reproduce import reproduce
from understudy.processes.process import ProcessEnded
from understudy.store import runs

Tried = Callable[..., tuple[World, str, Path]]
CALM = {"name": "a calm morning", "row": {"hour": 6.0, "wind": 1.0}, "low": 0, "high": 0.3}
STORM = {"name": "a stormy evening", "row": {"hour": 21.0, "wind": 29.0}, "low": 0.7, "high": 1}
WORDS = {"name": "an hour in words", "row": {"hour": "late", "wind": 29.0}, "refused": True}


def only(**rules: Any) -> dict[str, Any]:
    """Return a trial without a burst."""
    return {"critical_path": rules, "spike": None}


def write(folder: Path, *cases: Any, name: str = "path.jsonl") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("".join(json.dumps(case) + "\n" for case in cases))
    return path


@pytest.fixture
def tried(make_world: Callable[..., World]) -> Callable[..., tuple[World, str, Path]]:
    """Return a builder of a run whose spec asks for cases, with their file."""

    def make(*cases: Any, versions: tuple[str, str] = ("plain", "good")) -> tuple[World, str, Path]:
        world = make_world(versions=versions)
        path = write(world.settings.data, *cases, name=f"{world.model}.jsonl")
        world.declare(trial=only(file=path.name))
        return world, world.started("2"), path

    return make


# reading the file

BROKEN: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "has no cases"),
    "blank lines": (b"\n  \n\r\n", "has no cases"),
    "no JSON": (b"a calm morning\n", "no case in line 1"),
    "a torn line": (json.dumps(CALM).encode()[:-5], "no case in line 1"),
    "a second line that is broken": (json.dumps(CALM).encode() + b"\n{}\n", "no case in line 2"),
    "no object": (b"[1, 2]", "no case in line 1: Expected `object`"),
    "not text": (b'{"name": "\xff\xfe", "row": {"hour": 1}, "low": 0, "high": 1}', "no case in line 1"),
    "no row": (b'{"name": "x", "low": 0, "high": 1}', "missing required field `row`"),
    "an empty row": (b'{"name": "x", "row": {}, "low": 0, "high": 1}', "length >= 1 - at `$.row`"),
    "a row of values": (b'{"name": "x", "row": [1], "low": 0, "high": 1}', "Expected `object`"),
    "no name": (b'{"row": {"hour": 1}, "low": 0, "high": 1}', "missing required field `name`"),
    "no expectation": (b'{"name": "x", "row": {"hour": 1}}', "either low and high, or refused"),
    "two expectations": (
        b'{"name": "x", "row": {"hour": 1}, "low": 0, "high": 1, "refused": true}',
        "either low and high, or refused",
    ),
    "half a range": (b'{"name": "x", "row": {"hour": 1}, "low": 0}', "both be numbers"),
    "a range upside down": (b'{"name": "x", "row": {"hour": 1}, "low": 1, "high": 0}', "low not above high"),
    "a range without an end": (b'{"name": "x", "row": {"hour": 1}, "low": 0, "high": 1e999}', "line 1"),
    "NaN": (b'{"name": "x", "row": {"hour": 1}, "low": NaN, "high": 1}', "no case in line 1"),
    "a misspelt field": (b'{"name": "x", "row": {"hour": 1}, "lo": 0, "high": 1}', "unknown field `lo`"),
    "a name twice": (json.dumps(CALM).encode() + b"\n" + json.dumps(CALM).encode(), "second case"),
    "too many": (
        b"".join(json.dumps(CALM | {"name": str(n)}).encode() + b"\n" for n in range(1001)),
        "more than",
    ),
}


@pytest.mark.parametrize(("content", "said"), BROKEN.values(), ids=BROKEN.keys())
def test_a_file_that_holds_anything_but_cases_is_named_with_the_place(
    tmp_path: Path, content: bytes, said: str
) -> None:
    (tmp_path / "path.jsonl").write_bytes(content)
    with pytest.raises(DataMissing, match=r"path\.jsonl") as caught:
        read_cases(tmp_path, "path.jsonl")
    assert said in caught.value.message
    assert '{"name": "a calm morning"' in caught.value.message, "an example of a case"


@pytest.mark.parametrize("name", ["nowhere.jsonl", "folder"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataMissing, match=f"{name} cannot be read"):
        read_cases(tmp_path, name)


def test_no_value_of_a_row_is_quoted_when_its_line_is_refused(tmp_path: Path) -> None:
    write(tmp_path, CALM | {"row": {"hour": "N-SECRET-1"}, "low": "N-SECRET-2"})
    with pytest.raises(DataMissing) as caught:
        read_cases(tmp_path, "path.jsonl")
    assert "N-SECRET" not in caught.value.message


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, CALM, WORDS)
    found = read_cases(tmp_path, "path.jsonl")
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [case.name for case in found.cases] == ["a calm morning", "an hour in words"]


# judging an answer

ANSWERS = {
    b'{"predictions": [0.25]}': "in_range",
    b'{"predictions": [0]}': "in_range",
    b'{"predictions": [0.30000000000000004]}': "in_range",
    b'{"predictions": [[0.8, 0.2]]}': "in_range",
    b'{"predictions": [{"0": 0.8, "1": 0.2}]}': "in_range",
    b'{"predictions": [0.31]}': "out_of_range",
    b'{"predictions": [-0.1]}': "out_of_range",
    b'{"predictions": [[0.2, 0.8]]}': "out_of_range",
    b'{"predictions": [NaN]}': "not_a_number",
    b'{"predictions": [Infinity]}': "not_a_number",
    b'{"predictions": [null]}': "not_a_number",
    b'{"predictions": ["low"]}': "not_a_number",
    b'{"predictions": []}': "not_a_number",
    b'{"predictions": [0.1, 0.2]}': "not_a_number",
    b'{"predictions": [[0.1, 0.1, 0.8]]}': "not_a_number",
    b'{"predictions": 0.1}': "not_a_number",
    b'{"predictions": null}': "not_a_number",
    b"[0.1]": "not_a_number",
    b"{}": "not_a_number",
    b"": "not_a_number",
    b"<html>": "not_a_number",
}


@pytest.mark.parametrize(("content", "reason"), ANSWERS.items())
def test_only_one_finite_number_in_the_range_passes(content: bytes, reason: str) -> None:
    found = _judge_answer(Case("x", {"hour": 1}, 0.0, 0.3), content, {"case": "x", "status": 200})
    assert found.reason == reason
    assert found.passed == (reason == "in_range")


def test_a_gateway_out_of_reach_is_an_error_and_the_rest_is_not_asked() -> None:
    cases = [Case(name, {"hour": 1}, 0.0, 1.0) for name in ("first", "second")]
    with httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", trust_env=False) as client:
        (only,) = _walk(client, cases)
    assert (only.outcome, only.reason, only.evidence["case"]) == ("ERROR", "no_answer", "first")


# the step


def test_a_challenger_that_answers_every_case_passes_with_the_digest_on_record(tried: Tried) -> None:
    world, run_id, path = tried(CALM, STORM, WORDS)
    answer = lifecycle.critical_path(run_id)
    assert (answer["outcome"], len(answer["parts"])) == ("PASS", 3)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert answer["evidence"] == {"sha256": digest, "cases": 3}
    assert "2 answered within their range, 1 refused" in answer["sentence"]
    assert reproduce(run_id)["reproduced"]
    assert answer["sentence"] in render(world.session.passage(run_id))


def test_every_case_that_goes_wrong_is_named_and_none_passes(tried: Tried) -> None:
    wrong = [
        CALM | {"low": 0.9, "high": 1.0},
        STORM | {"low": 0, "high": 0.1},
        WORDS | {"refused": False, "low": 0, "high": 1},
        CALM | {"name": "nothing wrong with it"} | {"low": None, "high": None, "refused": True},
        CALM | {"name": "right"},
    ]
    _, run_id, _ = tried(*wrong)
    verdict = refused(lifecycle.critical_path, run_id)
    reasons = [part["reason"] for part in verdict["parts"]]
    assert reasons == ["out_of_range", "out_of_range", "not_answered", "not_refused", "in_range"]
    assert verdict["outcome"] == "FAIL"
    assert verdict["sentence"].startswith("4 of 5 cases did not go as they must. a calm morning: ")
    assert reproduce(run_id)["reproduced"]


def test_a_challenger_that_answers_nan_or_dies_on_a_case_does_not_pass(tried: Tried) -> None:
    nan = {"name": "no number", "row": {"hour": 200.0, "wind": 1.0}, "low": 0, "high": 1}
    crash = {"name": "the end", "row": {"hour": 6.0, "wind": 200.0}, "low": 0, "high": 1}
    _, run_id, _ = tried(nan, CALM | {"high": 1}, crash, STORM, versions=("plain", "moody"))
    verdict = refused(lifecycle.critical_path, run_id)
    reasons = [part["reason"] for part in verdict["parts"]]
    assert reasons == ["not_a_number", "in_range", "no_answer"]
    assert verdict["outcome"] == "FAIL"
    assert "ended with status -9. 1 more were not asked." in verdict["sentence"]


def test_a_gateway_that_does_not_come_up_is_an_error(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    _, run_id, _ = tried(CALM)

    def dead(*_: object) -> None:
        raise ProcessEnded("The trial gateway ended with status 2.")

    monkeypatch.setattr(trial.TrialGateway, "serve", dead)
    verdict = refused(lifecycle.critical_path, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("ERROR", "process_ended")


def test_a_file_that_was_broken_after_the_start_is_an_error(tried: Tried) -> None:
    _, run_id, path = tried(CALM)
    path.write_text("")
    verdict = refused(lifecycle.critical_path, run_id)
    assert (verdict["outcome"], verdict["reason"]) == ("ERROR", "data_missing")


def test_without_a_file_the_newest_requests_of_the_log_must_be_answered(world: World) -> None:
    log_requests(world, 30)
    world.declare(trial=only(requests=12))
    run_id = world.started("2")
    answer = lifecycle.critical_path(run_id)
    assert answer["outcome"] == "PASS"
    assert (
        answer["sentence"] == "All 12 of the newest requests of the log were answered with a finite number."
    )
    assert [part["reason"] for part in answer["parts"]] == ["answered"] * 12
    assert "f" * 32 not in json.dumps(answer), "the pseudonym of a unit"
    assert reproduce(run_id)["reproduced"]


def test_a_logged_request_that_gets_no_number_does_not_pass(make_world: Callable[..., World]) -> None:
    world = make_world(versions=("plain", "moody"))
    log_requests(world, 3, flights(5, 3).assign(hour=[6.0, 200.0, 7.0]))
    world.declare(trial=only())
    run_id = world.started("2")
    verdict = refused(lifecycle.critical_path, run_id)
    assert sorted(part["reason"] for part in verdict["parts"]) == ["answered", "answered", "not_a_number"]
    assert verdict["outcome"] == "FAIL"
    page = render(world.session.passage(run_id))
    assert "Cases of the critical path that went wrong" in page


def test_without_a_file_and_without_a_log_there_is_nothing_to_pass(world: World) -> None:
    world.declare(trial=only())
    verdict = refused(lifecycle.critical_path, world.started("2"))
    assert (verdict["outcome"], verdict["reason"]) == ("ERROR", "data_missing")


def test_a_run_whose_cases_cannot_be_read_does_not_begin(world: World) -> None:
    world.declare(trial=only(file="nowhere.jsonl"))
    with pytest.raises(DataMissing, match=r"nowhere\.jsonl"):
        world.begin("2")
    assert world.active() is None


def test_a_step_that_the_frozen_spec_does_not_ask_for_is_refused(world: World) -> None:
    run_id = world.started("2")
    for step in (lifecycle.critical_path, lifecycle.spike):
        with pytest.raises(BadParameter, match="registered without trial"):
            step(run_id)


@pytest.mark.parametrize("done", [(), ("critical_path",), ("spike",)])
def test_nobody_is_exposed_before_every_declared_trial_has_passed(
    world: World, done: tuple[str, ...]
) -> None:
    world.declare(trial={})
    run_id = world.started("2")
    world.record(run_id, *STEPS_BEFORE_EXPOSURE, *done)
    with pytest.raises(StaleGeneration, match="has no verdict"):
        lifecycle.raise_exposure(run_id, 1)
    world.record(run_id, "critical_path", "spike")
    lifecycle.raise_exposure(run_id, 1)
    assert world.published().exposed


def test_the_cases_are_kept_in_mlflow(tried: Tried) -> None:
    world, run_id, _ = tried(CALM)
    mlflow_run = world.session.tracking.start("delay_test", run_id, {}, {})
    with world.store.write() as connection:
        runs.set_mlflow_run(connection, run_id, mlflow_run)
    answer = lifecycle.critical_path(run_id)
    table = artifacts(world, answer)["critical_path.csv"].splitlines()
    assert table[0] == "outcome,reason,case,status,value,low,limit"
    assert table[1].startswith("PASS,in_range,a calm morning,200,0.0")
    kept = world.client.get_run(answer["mlflow_url"].rpartition("/")[2])
    assert kept.data.params["sha256"] == answer["evidence"]["sha256"]
    assert kept.data.params["source"].endswith(".jsonl")
    assert kept.data.metrics == {"cases": 1.0, "passed": 1.0}
