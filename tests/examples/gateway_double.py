"""A small real HTTP server that records what the replayer sends; it can be taken away and brought back on its port."""

from __future__ import annotations

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson


class RecordingGateway:
    """Answers /invocations and /outcomes, and keeps every body in order of arrival.

    Attributes:
        requests: rows as sent, in order.
        outcomes: outcomes as sent, in order.
        batches: rows per accepted request.
        answers: statuses to answer with next instead of 200, by path.
    """

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.outcomes: list[dict[str, Any]] = []
        self.batches: list[int] = []
        self.answers: dict[str, list[int]] = {"/invocations": [], "/outcomes": []}
        self._port = 0
        self._server: ThreadingHTTPServer | None = None
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> RecordingGateway:
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet an answer: two would wait for the peer's delayed acknowledgement
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                gateway._connections.append(self.connection)

            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answers = gateway.answers[self.path]
                status = answers.pop(0) if answers else 200
                if status == 200:
                    gateway.record(self.path, body)
                self.send_response(status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *arguments: object) -> None:
                pass

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        return self

    def close(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
            while self._connections:  # a process that dies takes its kept-alive connections with it
                with contextlib.suppress(OSError):
                    self._connections.pop().shutdown(socket.SHUT_RDWR)

    def record(self, path: str, body: dict[str, Any]) -> None:
        if path == "/outcomes":
            self.outcomes.extend(body["outcomes"])
            return
        split = body["dataframe_split"]
        self.requests.extend(dict(zip(split["columns"], row, strict=True)) for row in split["data"])
        self.batches.append(len(split["data"]))
