"""The gateway is held against MLflow's own scoring server: the same request, the same bytes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.conformance_answers import Answer, ask, code_of, excused
from tests.gateway.conformance_requests import EXCUSES, JSON, ROW, TARGETS, Sent, Target, records
from tests.gateway.conformance_servers import MODELS, Pair, started
from tests.gateway.conformance_values import REQUESTS
from tests.gateway.fuzzing import fuzz_both
from tests.servers import wait_until
from understudy.exposure import Exposure, publish

PRIVATE = ("N-private-7", "Private, Ann", "8123456789")


@pytest.fixture(scope="module")
def pairs(
    mlflow_server: tuple[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Pair]]:
    """Both servers of every model, forked from one process: they quote sets, whose order must be the same."""
    with started(mlflow_server[0], tmp_path_factory.mktemp("conformance")) as pairs:
        yield pairs


def enveloped(sent: Sent, units: str | None = None) -> Sent | None:
    """Return a request with a unit, private values and an event in every row, if rows have names.

    Args:
        sent: The request.
        units: What the units of the rows begin with; all have the same by default.
    """
    try:
        body = json.loads(sent.content) if sent.kind == JSON else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict):
        return None
    envelope = {"tailnum": PRIVATE[0], "pilot": {"name": PRIVATE[1], "licence": int(PRIVATE[2])}}
    envelope |= {"event_id": "flight-7", "event_time": 1_370_000_000.5}
    each = [envelope | ({"tailnum": f"{units}-{row}"} if units else {}) for row in range(3)]
    changed = False
    for rows in (body.get(key) for key in ("dataframe_split", "dataframe_records", "instances", "inputs")):
        if isinstance(rows, list) and rows and all(isinstance(row, dict) and row for row in rows):
            for row, added in zip(rows, each, strict=False):
                row |= added
            changed = True
        elif _is_table(rows):
            rows["columns"] = [*envelope, *rows["columns"]]
            rows["data"] = [[*one.values(), *row] for one, row in zip(each, rows["data"], strict=False)]
            changed = True
    return replace(sent, body=body) if changed else None


def _is_table(rows: Any) -> bool:
    if not isinstance(rows, dict) or not isinstance(rows.get("columns"), list) or not rows.get("data"):
        return False
    data, width = rows["data"], len(rows["columns"])
    if any(isinstance(name, list) for name in rows["columns"]):
        return False
    return isinstance(data, list) and all(isinstance(row, list) and len(row) == width for row in data)


@pytest.mark.parametrize(
    ("model", "table"), [(model, table) for model in MODELS for table in REQUESTS[model]]
)
def test_every_request_is_answered_as_mlflows_server_answers_it(
    pairs: dict[str, Pair], model: str, table: str
) -> None:
    pair = pairs[model]
    different = {}
    for name, sent in REQUESTS[model][table].items():
        ours, theirs = (
            ask(pair.ours.client, sent.content, sent.kind),
            excused(ask(pair.theirs, sent.content, sent.kind)),
        )
        if sent.excuse is None and ours != theirs:
            different[name] = {"ours": ours, "theirs": theirs}
        elif sent.excuse is not None:
            assert ours[0] == theirs[0] or (sent.excuse == "fails" and theirs[0] == 500), (name, ours, theirs)
        assert ours[0] < 500 or name == "an answer that JSON cannot write"
    assert not different


@pytest.mark.parametrize("excuse", sorted(EXCUSES.keys() - {"trace", "quoted", "pages"}))
def test_every_excuse_is_needed(pairs: dict[str, Pair], excuse: str) -> None:
    needing: dict[str, bool] = {}
    for model in MODELS:
        for requests in REQUESTS[model].values():
            for name, sent in requests.items():
                if sent.excuse == excuse and not needing.get(name):
                    theirs = excused(ask(pairs[model].theirs, sent.content, sent.kind))
                    needing[name] = ask(pairs[model].ours.client, sent.content, sent.kind) != theirs
    assert needing
    assert all(needing.values()), [name for name, needed in needing.items() if not needed]


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_paths_and_methods_are_mlflows(pairs: dict[str, Pair], target: Target) -> None:
    asked = target.method, target.path
    body = {"content": json.dumps(records(ROW)), "headers": {"Content-Type": JSON}}
    given = body if target.method in ("POST", "PUT", "PATCH") else {}
    ours, theirs = (
        client.request(*asked, **given) for client in (pairs["line"].ours.client, pairs["line"].theirs)
    )
    if target.excuse:
        assert (ours.status_code, ours.content) != (theirs.status_code, theirs.content)
        assert ours.status_code < 500
        return
    assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    for name in ("content-type", "content-length", "allow"):
        assert ours.headers.get(name) == theirs.headers.get(name)
    assert _path(ours.headers.get("location")) == _path(theirs.headers.get("location"))


def _path(location: str | None) -> str | None:
    return None if location is None else httpx.URL(location).raw_path.decode()


@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_feature_changes_no_answer_and_is_nowhere_to_be_found(
    pairs: dict[str, Pair], model: str
) -> None:
    gateway = pairs[model].ours
    different = {}
    told = []
    for requests in REQUESTS[model].values():
        some = list(requests.items())[:: 4 if len(requests) > 200 else 1]
        for name, sent in some:
            if (with_envelope := enveloped(sent)) is None:
                continue
            plain = ask(gateway.client, sent.content, sent.kind)
            ours = ask(gateway.client, with_envelope.content, with_envelope.kind)
            told.append(ours[2])
            if _gist(ours) != _gist(plain):
                different[name] = {"with": ours, "without": plain}
    assert not different
    told += [gateway.client.get(path).content for path in ("/status", "/metrics", "/flags")]
    written = [path for path in gateway.home.rglob("*") if path.is_file()]
    assert gateway.log in written
    assert any("requests" in path.parts for path in written)
    for text in [*told, *(path.read_bytes() for path in written)]:
        assert not [private for private in PRIVATE if private.encode() in text]
    assert "Traceback" not in gateway.log.read_text()


def _gist(answer: Answer) -> tuple[int, bytes]:
    """Return what may not change: of an error its code, since where private values stand more is left out of it."""
    status, _, body = answer
    return status, body if status < 400 else code_of(answer).encode()


def test_two_arms_of_one_model_answer_together_what_mlflows_server_answers(pairs: dict[str, Pair]) -> None:
    pair = pairs["line"]
    exposure = Exposure(
        model="line",
        generation=pair.ours.status()["generation"] + 1,
        champion="1",
        challenger="2",
        run_id="line_test-v2-1",
        stage=1,
        percent=50.0,
        lease_expires_at=int(time.time()) + 600,
    )
    publish(pair.ours.home / "flags.json", [exposure])
    pair.ours.wait_for_generation(exposure.generation)
    wait_until(lambda: "2" in pair.ours.status()["loaded"], "the challenger's load")
    arms, different = set(), {}
    for name, sent in REQUESTS["line"]["shapes"].items():
        split = enveloped(sent, units=name)
        theirs = ask(pair.theirs, sent.content, sent.kind)
        if split is None or theirs[0] != 200:
            continue
        answer = pair.ours.client.post("/invocations", content=split.content, headers={"Content-Type": JSON})
        arms |= set(answer.headers["x-understudy-arm"].split(","))
        if answer.content != theirs[2]:
            different[name] = {"ours": answer.content, "theirs": theirs[2]}
    assert not different
    assert arms == {"challenger", "control"}


@pytest.mark.parametrize("model", ["line", "free"])
def test_hostile_requests_are_answered_as_mlflows_server_answers_them(
    pairs: dict[str, Pair], model: str
) -> None:
    counts = fuzz_both(pairs[model].ours, pairs[model].theirs, 300)
    assert counts["200"] > 20
    assert counts["400"] > 100
