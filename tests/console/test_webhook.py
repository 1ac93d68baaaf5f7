"""The webhook takes what is signed with the shared secret and fresh, once, and nothing else."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.console import scenes
from understudy.console.webhook import create_webhook, signature
from understudy.store import Store, exposures, ledger

pytestmark = pytest.mark.airflow

SECRET = "a-secret-of-monitoring-and-nobody-else"
ASKED = {"model": "flight-delay", "reason": "latency_spike: p99 at 3 s", "key": "alert-17"}


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("UNDERSTUDY_WEBHOOK_KEY", SECRET)
    return SECRET


@pytest.fixture
def hook(store: Store) -> TestClient:
    """A client without any account, and a model that is exposed."""
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 1)
    return TestClient(create_webhook(), raise_server_exceptions=False)


def send(hook: TestClient, asked: Any = ASKED, *, late: float = 0.0, path: str = "/rollback") -> Any:
    """Send what a monitoring system would."""
    body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
    at = str(int(time.time() - late))
    headers = {"X-Understudy-Timestamp": at, "X-Understudy-Signature": signature(SECRET.encode(), at, body)}
    return hook.post(path, content=body, headers=headers)


def exposed(store: Store) -> bool:
    with store.read() as connection:
        found = exposures.find(connection, "flight-delay")
    assert found is not None
    return found.exposed


def test_a_signed_request_takes_exposure_to_zero_with_mlflow_down(
    hook: TestClient, store: Store, secret: str
) -> None:
    answer = send(hook)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNREACHABLE")
    assert not exposed(store)
    with store.read() as connection:
        (dropped,) = ledger.entries(connection, model="flight-delay", actions=("exposure.dropped",))
    assert (dropped.actor, dropped.reason) == ("webhook", ASKED["reason"])


def test_a_repeat_with_the_same_key_gets_the_first_answer(
    hook: TestClient, store: Store, secret: str
) -> None:
    with store.write() as connection:
        for action, body in (("started", {"plan": _PLAN}), ("finished", {"target": "1"})):
            ledger.append(
                connection,
                at=1.0,
                actor="webhook",
                action=f"rollback.{action}",
                model="flight-delay",
                reason="r",
                body={"key": "webhook/alert-17", **body},
            )
    for _ in range(2):
        answer = send(hook)
        assert (answer.status_code, answer.json()["target"]) == (200, "1")
    assert exposed(store), "a repeat does nothing"
    assert send(hook, ASKED | {"key": "alert-18"}).status_code == 503
    assert not exposed(store)


_PLAN = {
    "model": "flight-delay",
    "current": "2",
    "target": "1",
    "taken_back": "2",
    "run_id": None,
    "why": "A test.",
}


def test_it_is_reached_through_airflows_own_server(airflow_web: Any, store: Store, secret: str) -> None:
    scenes.expose(store, scenes.prepare(store, "flight-delay"), 1)
    client = TestClient(airflow_web, raise_server_exceptions=False, follow_redirects=False)
    assert send(client, path="/understudy-webhook/rollback").status_code == 503
    assert not exposed(store)
    assert client.post("/understudy-webhook/rollback", json=ASKED).status_code == 401


@pytest.mark.parametrize("key", ["", "too-short"])
def test_without_a_secret_nothing_is_taken(
    hook: TestClient, store: Store, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("UNDERSTUDY_WEBHOOK_KEY", key)
    body, at = json.dumps(ASKED).encode(), str(int(time.time()))
    headers = {"X-Understudy-Timestamp": at, "X-Understudy-Signature": signature(key.encode(), at, body)}
    answer = hook.post("/rollback", content=body, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "SETTING_MISSING")
    assert exposed(store)


def _signed(late: float = 0.0, at: str = "", **changed: str) -> Callable[[bytes], dict[str, str]]:
    def headers(body: bytes) -> dict[str, str]:
        when = at or str(int(time.time() - late))
        good = {"timestamp": when, "signature": signature(SECRET.encode(), when, body)}
        return good | changed

    return headers


REFUSED: dict[str, Callable[[bytes], dict[str, str]]] = {
    "no signature": _signed(signature=""),
    "no timestamp": _signed(timestamp=""),
    "another secret": lambda body: _signed(signature=signature(b"x" * 32, "17", body))(body),
    "another body": lambda body: _signed()(body.replace(b"flight", b"ground")),
    "another timestamp": lambda body: _signed(timestamp=str(int(time.time()) + 7))(body),
    "from before": _signed(late=301),
    "from the future": _signed(late=-400),
    "a timestamp that is none": _signed(at="now"),
    "a timestamp with a sign": _signed(at="-1700000000"),
    "an endless timestamp": _signed(at="9" * 4000),
    "a signature that is no text": _signed(signature="sha256=\u00e9"),
}


@pytest.mark.parametrize("headers", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_signed_and_fresh_is_refused_and_nothing_happens(
    hook: TestClient,
    store: Store,
    secret: str,
    headers: Callable[[bytes], dict[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    body = json.dumps(ASKED).encode()
    sent = {f"X-Understudy-{name}": value.encode("latin-1") for name, value in headers(body).items()}
    answer = hook.post("/rollback", content=body, headers=sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "SIGNATURE_REFUSED")
    assert exposed(store)
    assert SECRET not in caplog.text + answer.text


BAD: dict[str, Any] = {
    "no model": {"reason": "Drivers complain.", "key": "k"},
    "no key": {"model": "flight-delay", "reason": "Drivers complain."},
    "an unknown field": ASKED | {"force": True},
    "a version that is none": ASKED | {"target_version": "latest"},
    "no JSON": b"\xff\xfe",
    "a list": [ASKED],
    "a long body": ASKED | {"reason": "x" * 20_000},
}


@pytest.mark.parametrize("asked", BAD.values(), ids=BAD.keys())
def test_a_signed_request_that_makes_no_sense_names_what_is_wrong(
    hook: TestClient, store: Store, secret: str, asked: Any
) -> None:
    answer = send(hook, asked)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "BAD_PARAMETER")
    assert exposed(store)


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/rollback", "/rollback/flight-delay"])
def test_nothing_else_is_there(hook: TestClient, path: str) -> None:
    assert hook.get(path).status_code in (404, 405)
