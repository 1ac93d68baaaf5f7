"""A real OpenTelemetry collector's front door: OTLP over HTTP, decoded with the protocol's own messages."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.servers import wait_until


@dataclass(frozen=True)
class Received:
    """One span as it arrived."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    error: str
    attributes: dict[str, Any]
    links: tuple[str, ...]
    started_at: float
    ended_at: float


@dataclass
class Collector:
    """What was received so far."""

    url: str
    spans: list[Received] = field(default_factory=list)

    def named(self, name: str, trace_id: str | None = None) -> list[Received]:
        """Return the spans of a name, of one trace or of all."""
        return [span for span in self.spans if span.name == name and trace_id in (None, span.trace_id)]

    def wait_for(self, name: str, trace_id: str | None = None) -> Received:
        """Wait until a span of this name has arrived and return the newest."""
        found: list[Received] = wait_until(lambda: self.named(name, trace_id), f"span {name}")
        return found[-1]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Receive spans on a free port."""
    collector = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            collector.spans += _decoded(body)
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.end_headers()
            self.wfile.write(ExportTraceServiceResponse().SerializeToString())

        def log_message(self, *_: object) -> None:
            """Say nothing on the tests' own output."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector.url = f"http://127.0.0.1:{server.server_port}"
    serving = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    serving.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()


def _decoded(body: bytes) -> list[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Received(
            service=_attributes(part.resource.attributes)["service.name"],
            name=span.name,
            trace_id=span.trace_id.hex(),
            span_id=span.span_id.hex(),
            parent_id=span.parent_span_id.hex(),
            kind=span.kind,
            error=span.status.message,
            attributes=_attributes(span.attributes),
            links=tuple(link.trace_id.hex() for link in span.links),
            started_at=span.start_time_unix_nano / 1e9,
            ended_at=span.end_time_unix_nano / 1e9,
        )
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def _attributes(found: Any) -> dict[str, Any]:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in found}
