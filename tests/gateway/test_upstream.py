"""What is sent to the server of a version, what is taken from it as an answer, and which addresses are none."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd
import pytest

from understudy.errors import BadUpstream
from understudy.gateway.upstream import (
    LARGEST_ANSWER,
    TOKEN,
    UpstreamBadAnswer,
    UpstreamFailed,
    UpstreamModel,
    UpstreamRejected,
    UpstreamTimeout,
    UpstreamUnreachable,
    address_in,
)

ROWS = pd.DataFrame({"origin": ["JFK", "LGA"], "distance": [200.5, float("nan")]})
Say = Callable[["Stub"], None]


class Stub(BaseHTTPRequestHandler):
    """A server that says what it is told to say."""

    protocol_version = "HTTP/1.1"
    say: Say
    over: threading.Event
    asked: list[tuple[str, dict[str, str], Any]]

    def do_GET(self) -> None:
        self.answer(200, b"3.17.2")

    def parse_request(self) -> bool:
        # A connection outlives its server, and nobody is there any more.
        if self.over.is_set():
            self.close_connection = True
            return False
        return super().parse_request()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.asked.append(
            (self.path, {key.lower(): value for key, value in self.headers.items()}, json.loads(body))
        )
        type(self).say(self)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def saying(say: Say) -> Iterator[tuple[str, type[Stub]]]:
    """Run a stub and yield its address and what it was asked."""
    handler = type("Scripted", (Stub,), {"say": staticmethod(say), "over": threading.Event(), "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", handler
        finally:
            handler.over.set()
            server.shutdown()
            thread.join()


def predictions(*values: Any) -> bytes:
    return json.dumps({"predictions": list(values)}).encode()


def well(stub: Stub) -> None:
    stub.answer(200, predictions(0.25, 0.5))


def silent(stub: Stub) -> None:
    stub.over.wait()


def dripping(stub: Stub) -> None:
    stub.send_response(200)
    stub.send_header("Content-Length", "1000")
    stub.end_headers()
    with suppress(OSError):  # nobody reads it any more
        while not stub.over.wait(0.05):
            stub.wfile.write(b" ")


def endless(stub: Stub) -> None:
    stub.send_response(200)
    stub.send_header("Transfer-Encoding", "chunked")
    stub.end_headers()
    part = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with suppress(OSError):
        for _ in range(2 * LARGEST_ANSWER // 0x100000):
            stub.wfile.write(part)


def told(status: int, body: bytes = b"", **headers: str) -> Say:
    return lambda stub: stub.answer(status, body, **headers)


def hang_up(stub: Stub) -> None:
    stub.close_connection = True


@pytest.mark.parametrize(
    ("say", "error"),
    [
        (told(500, b"private"), UpstreamBadAnswer),
        (told(401), UpstreamBadAnswer),
        (told(204), UpstreamBadAnswer),
        (told(302, Location="http://127.0.0.1:9/elsewhere"), UpstreamBadAnswer),
        (told(200, b"private, not JSON"), UpstreamBadAnswer),
        (told(200, b"[" * 100_000), UpstreamBadAnswer),
        (told(200, b"[1, 2]"), UpstreamBadAnswer),
        (told(200, b'{"error": "private"}'), UpstreamBadAnswer),
        (told(200, predictions(0.5)), UpstreamBadAnswer),
        (told(200, predictions(0.5, 0.5, 0.5)), UpstreamBadAnswer),
        (told(200, b'{"predictions": 7}'), UpstreamBadAnswer),
        (told(200, b'{"predictions": {"a": [1, 2], "b": [1]}}'), UpstreamBadAnswer),
        (told(200, predictions(1, 2), **{"Content-Encoding": "gzip"}), None),
        (told(200, b"\x1f\x8b\x08\x00", **{"Content-Encoding": "gzip"}), UpstreamBadAnswer),
        (told(400, b'{"error_code": "BAD_REQUEST", "message": "private"}'), UpstreamRejected),
        (endless, UpstreamBadAnswer),
        (silent, UpstreamTimeout),
        (dripping, UpstreamTimeout),
        (hang_up, UpstreamUnreachable),
    ],
)
def test_only_one_answer_for_each_row_is_an_answer(say: Say, error: type[Exception] | None) -> None:
    with saying(say) as (address, _):
        model = UpstreamModel(address, 0.4 if error is UpstreamTimeout else 30.0)
        if error is None:
            assert model.predict(ROWS) == [1, 2]
            return
        with pytest.raises(error) as raised:
            model.predict(ROWS)
        assert "private" not in str(raised.value)
        assert address.rpartition("/")[2] not in str(raised.value)


def test_what_fails_is_told_in_mlflows_shape_with_a_name_and_a_status() -> None:
    with pytest.raises(UpstreamUnreachable) as raised:
        UpstreamModel("http://127.0.0.1:9", 1.0).predict(ROWS)
    told = json.loads(raised.value.serialize_as_json())
    assert (told["error_code"], raised.value.get_http_status_code()) == ("UPSTREAM_UNREACHABLE", 503)
    statuses = {kind.code: kind.status for kind in (UpstreamBadAnswer, UpstreamUnreachable, UpstreamTimeout)}
    assert statuses == {"UPSTREAM_BAD_ANSWER": 502, "UPSTREAM_UNREACHABLE": 503, "UPSTREAM_TIMEOUT": 504}


@pytest.mark.parametrize(
    ("data", "params", "sent"),
    [
        (
            ROWS,
            {"factor": 2.0},
            {
                "dataframe_split": {
                    "columns": ["origin", "distance"],
                    "data": [["JFK", 200.5], ["LGA", None]],
                },
                "params": {"factor": 2.0},
            },
        ),
        (
            pd.DataFrame({"at": pd.to_datetime(["2013-01-01", None]), "blob": [b"a", b"b"]}),
            None,
            {
                "dataframe_split": {
                    "columns": ["at", "blob"],
                    "data": [["2013-01-01T00:00:00", "YQ==\n"], [None, "Yg==\n"]],
                }
            },
        ),
        (np.array([[1, 2], [3, 4]], "float32"), None, {"inputs": [[1.0, 2.0], [3.0, 4.0]]}),
        (
            {"pixels": np.ones((2, 1)), "count": np.array([7, 8])},
            {},
            {"inputs": {"pixels": [[1.0], [1.0]], "count": [7, 8]}},
        ),
        ([{"a": 1}, {"a": 2}], None, {"inputs": [{"a": 1}, {"a": 2}]}),
    ],
    ids=["table", "moments and bytes", "tensor", "named tensors", "list"],
)
def test_rows_are_sent_in_mlflows_protocol(data: Any, params: Any, sent: Any) -> None:
    with saying(well) as (address, stub):
        assert UpstreamModel(address + "/model", 5.0).predict(data, params) == [0.25, 0.5]
    ((path, _, body),) = stub.asked
    assert (path, body) == ("/model/invocations", sent)


def test_a_request_of_a_language_model_goes_as_it_came_and_comes_back_whole() -> None:
    with saying(told(200, b'{"choices": []}')) as (address, stub):
        assert UpstreamModel(address, 5.0).predict({"messages": []}, {"n": 1}) == {"choices": []}
    assert stub.asked[0][2] == {"messages": [], "n": 1}


def test_the_token_comes_from_the_environment_and_nothing_else_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv(TOKEN, " a.b-c \n")
    with saying(well) as (address, stub):
        UpstreamModel(address, 5.0).predict(ROWS)
        monkeypatch.delenv(TOKEN)
        UpstreamModel(address, 5.0).predict(ROWS)
    assert [headers.get("authorization") for _, headers, _ in stub.asked] == ["Bearer a.b-c", None]
    monkeypatch.setenv(TOKEN, "two words")
    with pytest.raises(BadUpstream, match=TOKEN) as raised:
        UpstreamModel(address, 5.0)
    assert "two words" not in str(raised.value)


def test_a_server_that_is_not_well_or_speaks_something_else_is_refused() -> None:
    with saying(well) as (address, stub):
        UpstreamModel(address, 5.0).probe()
        stub.do_GET = lambda self: self.answer(404, b"")  # type: ignore[method-assign]
        with pytest.raises(UpstreamBadAnswer, match="not ready"):
            UpstreamModel(address, 5.0).probe()
        stub.do_GET = lambda self: self.answer(404 if self.path == "/version" else 200, b"")  # type: ignore[method-assign]
        with pytest.raises(UpstreamBadAnswer, match="/version"):
            UpstreamModel(address, 5.0).probe()
    with pytest.raises(UpstreamFailed):
        UpstreamModel(address, 5.0).probe()


@pytest.mark.parametrize(
    "tag",
    [
        "",
        "host:80",
        "ftp://host",
        "file:///etc/passwd",
        "//host",
        "http://",
        "http://:80",
        "http://host:port",
        "http://host:99999",
        "http://ann:secret@host",
        "http://secret@host",
        " http://host",
        "http://host\n",
        "http://ho st",
        "http://host\t/secret",
        "http://host\\secret",
        "http://host/?secret",
        "http://host#secret",
        "http://hóst",
        "http://[::1",
    ],
)
def test_what_is_no_plain_address_is_refused_without_being_quoted(tag: str) -> None:
    with pytest.raises(BadUpstream, match=r"understudy\.upstream of delay version 2") as raised:
        address_in(tag, "delay version 2")
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("tag", "address"),
    [
        ("http://host:8080/", "http://host:8080"),
        ("https://host/models/delay", "https://host/models/delay"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_address_may_have_a_port_and_a_path(tag: str, address: str) -> None:
    assert address_in(tag, "delay version 2") == address
