"""The door to the gateways: what counts as following, and servers that are no gateway at all."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.servers import free_port
from understudy import gateways
from understudy.errors import GatewayMismatch, Unreachable
from understudy.exposure import Exposure

EXPOSED = Exposure("delay", 7, "1", "2", "run", 1, 5.0, 2_000_000_000)
FOLLOWS = {
    "model": "delay",
    "ready": True,
    "generation": 7,
    "champion": "1",
    "challenger": "2",
    "loaded": ["1", "2"],
}

Serve = Callable[[bytes], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts an HTTP server which answers everything with the same bytes."""
    started: list[ThreadingHTTPServer] = []

    def start(body: bytes, status: int = 200) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        started.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def waits(url: str, exposure: Exposure = EXPOSED) -> None:
    gateways.wait_until_followed([url], exposure, deadline=0.2)


@pytest.mark.parametrize(
    "changes",
    [{}, {"generation": 8}, {"generation": 8, "champion": "2", "loaded": ["2"]}, {"loaded": ["1", "2", "3"]}],
)
def test_a_gateway_at_this_generation_or_a_later_one_follows(serve: Serve, changes: dict[str, Any]) -> None:
    waits(serve(json.dumps(FOLLOWS | changes).encode()))


BEHIND: list[tuple[dict[str, Any], str]] = [
    ({"model": "other"}, "No gateway serves delay"),
    ({"ready": False, "waiting_for": "version 2"}, "is not ready: it waits for version 2"),
    ({"ready": None}, "is not ready"),
    ({"generation": 6}, "is at generation 6"),
    (
        {"generation": 9, "document_error": "It went back to generation 7."},
        "follow the flag document: It went back",
    ),
    ({"generation": None}, "is at generation None"),
    ({"generation": "7"}, "is at generation 7"),
    ({"champion": "3"}, "serves champion 3"),
    ({"loaded": ["1"], "challenger_error": "no such file"}, "has not loaded version 2: no such file"),
    ({"loaded": []}, "has not loaded version 1, 2"),
]


@pytest.mark.parametrize(("changes", "said"), BEHIND)
def test_a_gateway_that_does_not_follow_is_named_with_what_it_does(
    serve: Serve, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(GatewayMismatch, match=said):
        waits(serve(json.dumps(FOLLOWS | changes).encode()))


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b'"ok"', b"<html>", b"\xff"])
def test_a_server_that_is_no_gateway_is_unreachable(serve: Serve, body: bytes) -> None:
    url = serve(body)
    with pytest.raises(Unreachable, match="UNDERSTUDY_GATEWAY_URLS"):
        gateways.status(url)
    with pytest.raises(Unreachable):
        waits(url)


@pytest.mark.parametrize("url", ["http://127.0.0.1:{port}", "http://nowhere.invalid", "no address"])
def test_nobody_at_the_address_is_unreachable(url: str) -> None:
    with pytest.raises(Unreachable):
        waits(url.format(port=free_port()))


def test_every_gateway_must_follow(serve: Serve) -> None:
    good = serve(json.dumps(FOLLOWS).encode())
    bad = serve(json.dumps(FOLLOWS | {"generation": 1}).encode())
    with pytest.raises(GatewayMismatch):
        gateways.wait_until_followed([good, bad], EXPOSED, deadline=0.2)


def test_a_gateway_that_loads_what_was_published_is_given_the_time_to_load(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = FOLLOWS | {"generation": 6, "loading": 7, "waiting_for": "Loading the versions of generation 7."}
    told = iter([loads] * 8)
    url = serve(b"")

    def status(asked: str) -> dict[str, Any]:
        assert asked == url
        return next(told, FOLLOWS)

    monkeypatch.setattr(gateways, "status", status)
    waits(url)
    assert next(told, None) is None


def test_a_gateway_that_loads_another_generation_or_loads_for_too_long_does_not_follow(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    behind = {"generation": 5, "waiting_for": "Loading the versions of generation 6."}
    with pytest.raises(GatewayMismatch, match="is at generation 5: Loading the versions"):
        waits(serve(json.dumps(FOLLOWS | behind | {"loading": 6}).encode()))
    monkeypatch.setattr(gateways, "LOADING_SECONDS", 0.3)
    with pytest.raises(GatewayMismatch, match="is at generation 5"):
        waits(serve(json.dumps(FOLLOWS | behind | {"loading": 7}).encode()))
