from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.gateway.conftest import COLUMNS, MODEL, Registered, row, split
from tests.servers import RunningGateway

ROWS = [row(number) for number in range(7)]
PLAIN = [{name: one[name] for name in COLUMNS} for one in ROWS]


def csv_of(rows: list[dict[str, Any]]) -> str:
    return "\n".join([",".join(rows[0])] + [",".join(str(cell) for cell in one.values()) for one in rows])


def columns_of(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [one[name] for one in rows] for name in rows[0]}


FORMS: dict[str, tuple[str, Callable[[list[dict[str, Any]]], str]]] = {
    "dataframe_split": ("application/json", lambda rows: json.dumps(split(rows))),
    "dataframe_split with an index": (
        "application/json; charset=utf-8",
        lambda rows: json.dumps(
            {"dataframe_split": split(rows)["dataframe_split"] | {"index": list("gfedcba")}}
        ),
    ),
    "dataframe_records": ("application/json", lambda rows: json.dumps({"dataframe_records": rows})),
    "instances": ("application/json", lambda rows: json.dumps({"instances": rows})),
    "inputs": ("application/json", lambda rows: json.dumps({"inputs": columns_of(rows)})),
    "csv": ("text/csv", csv_of),
}


@pytest.fixture(scope="module")
def mlflows_own(registered: Registered) -> Iterator[TestClient]:
    """MLflow's scoring server with the same model version."""
    from mlflow import pyfunc
    from mlflow.pyfunc import scoring_server

    with TestClient(scoring_server.init(pyfunc.load_model(f"models:/{MODEL}/{registered.good}"))) as client:
        yield client


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_answered_as_mlflows_server_does(
    gateway: RunningGateway, mlflows_own: TestClient, form: str
) -> None:
    content_type, body_of = FORMS[form]
    headers = {"Content-Type": content_type}
    expected = mlflows_own.post("/invocations", content=body_of(PLAIN), headers=headers)
    for rows in (PLAIN, ROWS):
        answer = gateway.client.post("/invocations", content=body_of(rows), headers=headers)
        assert (answer.status_code, answer.json()) == (200, expected.json())
        assert answer.headers["content-type"] == expected.headers["content-type"]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_split_by_row_and_put_together_in_order(
    gateway: RunningGateway, expose: Callable[..., Any], registered: Registered, form: str
) -> None:
    content_type, body_of = FORMS[form]
    headers = {"Content-Type": content_type}
    alone = {}
    for version in (registered.good, registered.better):
        expose(champion=version)
        answer = gateway.client.post("/invocations", content=body_of(ROWS), headers=headers)
        alone[version] = answer.json()["predictions"]
    expose(challenger=registered.better, percent=50.0)
    both = gateway.client.post("/invocations", content=body_of(ROWS), headers=headers)
    answered_by = [
        registered.better if mixed == second else registered.good
        for mixed, second in zip(both.json()["predictions"], alone[registered.better], strict=True)
    ]
    assert set(answered_by) == {registered.good, registered.better}
    assert both.json()["predictions"] == [
        alone[version][number] for number, version in enumerate(answered_by)
    ]
    assert set(both.headers["x-understudy-version"].split(",")) == set(answered_by)


def test_health_and_version_are_mlflows(gateway: RunningGateway, mlflows_own: TestClient) -> None:
    for path in ("/ping", "/health", "/version", "/nowhere"):
        ours, theirs = gateway.client.get(path), mlflows_own.get(path)
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
    assert (
        gateway.client.get("/invocations").status_code == mlflows_own.get("/invocations").status_code == 405
    )


GARBAGE = {
    "empty": ("application/json", b""),
    "torn": ("application/json", b'{"dataframe_split": {"columns": ["a"'),
    "not UTF-8": ("application/json", b"\xff\xfe\x00"),
    "a list": ("application/json", b"[1, 2]"),
    "a number": ("application/json", b"7"),
    "no known key": ("application/json", b'{"rows": [1]}'),
    "two keys": ("application/json", b'{"inputs": [1], "instances": [1]}'),
    "split that is a list": ("application/json", b'{"dataframe_split": [1]}'),
    "split without data": ("application/json", b'{"dataframe_split": {"columns": ["origin"]}}'),
    "split with short rows": (
        "application/json",
        b'{"dataframe_split": {"columns": ["a", "b"], "data": [[1]]}}',
    ),
    "records that are an object": ("application/json", b'{"dataframe_records": {"a": 1}}'),
    "records of numbers": ("application/json", b'{"dataframe_records": [1, 2]}'),
    "columns of unequal length": ("application/json", b'{"instances": {"origin": ["JFK"], "hour": [1, 2]}}'),
    "missing columns": ("application/json", b'{"dataframe_records": [{"origin": "JFK"}]}'),
    "wrong type": (
        "application/json",
        b'{"dataframe_records": [{"origin": "JFK", "distance": "far", "hour": 7}]}',
    ),
    "null where a number must be": (
        "application/json",
        b'{"dataframe_records": [{"origin": "JFK", "distance": 1.0, "hour": null}]}',
    ),
    "empty csv": ("text/csv", b""),
    "csv with too many cells": ("text/csv", b"origin,distance,hour\nJFK,1,2\nJFK,1,2,3,4\n"),
    "csv that is not UTF-8": ("text/csv", b"\xff\xfe\x00"),
    "csv of the wrong type": ("text/csv", b"origin,distance,hour\nJFK,far,2\n"),
    "not parquet": ("application/vnd.apache.parquet", b"PAR1"),
    "unknown type": ("application/xml", b"<a/>"),
    "wrong charset": ("application/json; charset=latin-1", b"{}"),
    "unknown parameter": ("application/json; colour=red", b"{}"),
}


@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_gets_mlflows_own_error_without_a_traceback(
    gateway: RunningGateway, mlflows_own: TestClient, what: str
) -> None:
    content_type, body = GARBAGE[what]
    headers = {"Content-Type": content_type}
    ours = gateway.client.post("/invocations", content=body, headers=headers)
    theirs = mlflows_own.post("/invocations", content=body, headers=headers)
    assert ours.status_code == theirs.status_code
    assert 400 <= ours.status_code < 500
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    if ours.headers["content-type"] == "application/json":
        expected = theirs.json()
        expected.pop("stack_trace", None)
        assert ours.json().keys() == expected.keys()
        assert ours.json() | {"message": ""} == expected | {"message": ""}
    assert "Traceback" not in ours.text
    assert gateway.client.get("/ping").status_code == 200


def test_deeply_nested_json_is_refused(gateway: RunningGateway) -> None:
    body = b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = gateway.client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error_code"] == "BAD_REQUEST"


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"event_time": "yesterday"}, "event_time"),
        ({"event_time": True}, "event_time"),
        ({"event_time": 10**400}, "event_time"),
        ({"tailnum": ["N1"]}, "tailnum"),
        ({"event_id": {"a": 1}}, "event_id"),
        ({"tailnum": "\ud800"}, "tailnum"),
    ],
)
def test_an_envelope_that_cannot_be_used_is_refused_by_row_and_column(
    gateway: RunningGateway, changes: dict[str, Any], column: str
) -> None:
    body = json.dumps({"dataframe_records": [row(0), row(1, **changes)]})
    answer = gateway.client.post("/invocations", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"Row 1: column '{column}'")


def test_a_body_over_the_limit_is_refused_in_mlflows_shape(gateway_with: Callable[..., Any]) -> None:
    with gateway_with("--max-body-bytes", "1000") as small:
        body = json.dumps(split([row(number) for number in range(50)]))

        def piecewise() -> Iterator[bytes]:
            for start in range(0, len(body), 100):
                yield body[start : start + 100].encode()

        for content in (body, piecewise()):
            answer = small.client.post(
                "/invocations", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 413
            assert answer.json()["error_code"] == "BAD_REQUEST"
            assert "1000 bytes" in answer.json()["message"]
        assert small.client.post("/invocations", json=split([row(1)])).status_code == 200


def test_parameters_reach_the_model(gateway_with: Callable[..., Any]) -> None:
    with gateway_with(model="scaled") as scaled:
        body = split([row(3)])
        once = scaled.client.post("/invocations", json=body).json()["predictions"]
        thrice = scaled.client.post("/invocations", json=body | {"params": {"factor": 3.0}}).json()[
            "predictions"
        ]
        assert thrice == [3 * once[0]]


def test_a_correlation_id_is_kept_if_it_is_harmless_and_made_otherwise(gateway: RunningGateway) -> None:
    for given, kept in (("abc-123", True), ("a b", False), ("x" * 500, False)):
        answer = gateway.client.post("/invocations", json=split([row(1)]), headers={"X-Request-Id": given})
        assert (answer.headers["x-request-id"] == given) is kept
        assert answer.headers["x-request-id"]


def test_nothing_unexpected_is_in_the_servers_log(gateway: RunningGateway) -> None:
    text = gateway.log.read_text()
    assert "Traceback" not in text
    assert "unexpected" not in text
