"""HTTP in front of a gateway: an ASGI application without a framework, because a request is short."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from mlflow.exceptions import MlflowException

from understudy.exposure import document
from understudy.gateway import protocol
from understudy.gateway.connection import Deliver
from understudy.gateway.service import Gateway, GatewayTimeout, Reply
from understudy.telemetry import trace_id_of

__all__ = ["App"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain; charset=utf-8")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
# Bytes of bodies that are held at once, over all requests.
_MOST_HELD = 256 * 1024 * 1024
_log = logging.getLogger(__name__)


class _TooLarge(Exception):
    """The body is longer than this gateway reads."""


class _Gone(Exception):
    """The client has left before its body was complete, so there is nobody to answer."""


class _Request:
    """What an endpoint is called with.

    Attributes:
        headers: By lower-case name.
        receive: Brings the body.
        id: Correlation id: the client's if it is harmless, else a new one.
        held: Bytes of the body so far.
    """

    __slots__ = ("headers", "held", "id", "receive")

    def __init__(self, headers: Mapping[str, str], receive: Receive) -> None:
        self.headers = headers
        self.receive = receive
        self.id = _request_id(headers)
        self.held = 0


class _Answer(msgspec.Struct):
    status: int
    body: bytes
    headers: Sequence[Header] = (_JSON,)


_Endpoint = Callable[[_Request], Awaitable[_Answer]]


class App:
    """The ASGI application of one gateway.

    Args:
        gateway: It is started and stopped with the application.
    """

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._limit = gateway.config.max_body_bytes
        self._held = 0
        self._endpoints: dict[str, tuple[str, _Endpoint]] = {
            "/ping": ("GET", self._ping),
            "/health": ("GET", self._ping),
            "/version": ("GET", self._version),
            "/invocations": ("POST", self._invocations),
            "/outcomes": ("POST", self._outcomes),
            "/status": ("GET", self._status),
            "/flags": ("GET", self._flags),
            "/metrics": ("GET", self._metrics),
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one connection's event as ASGI 3 asks."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        request = _Request(_headers(scope["headers"]), receive)
        try:
            method, endpoint = self._endpoints.get(scope["path"], (None, None))
            if endpoint is None or method != scope["method"]:
                answer = self._no_such_page(scope, method)
            else:
                answer = await endpoint(request)
        except _Gone:
            return
        except Exception as error:
            answer = _error_answer(error, self._limit, request)
            kind = getattr(error, "error_code", None) or type(error).__name__.lstrip("_")
            self._gateway.metrics.failed(answer.status, kind)
        finally:
            self._held -= request.held
        headers = [*answer.headers, (b"x-request-id", request.id.encode())]
        if answer.status != 304:
            headers.append((b"content-length", b"%d" % len(answer.body)))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    def answer_now(
        self, scope: Mapping[str, Any], body: bytes, deliver: Deliver, leave: Callable[[], None]
    ) -> bool:
        """Answer a scoring request in this turn of the event loop if it can; see `understudy.gateway.connection.AnswerNow`."""
        if scope["path"] != "/invocations" or len(body) > self._limit:
            return False
        headers = _headers(scope["headers"])
        request_id = _request_id(headers)

        def tell(reply: Reply | None) -> None:
            if reply is None:
                leave()
            else:
                length = (b"content-length", b"%d" % len(reply.body))
                named = (b"x-request-id", request_id.encode())
                deliver([_JSON, *reply.headers, named, length], reply.body)

        try:
            return self._gateway.invoke_now(body, headers.get("content-type"), request_id, headers, tell)
        except Exception:  # nothing was logged or counted yet: the long way says what is wrong
            return False

    async def _live(self, receive: Receive, send: Send) -> None:
        """Start the gateway with the server and stop it with the server."""
        await receive()
        self._gateway.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._gateway.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def _body(self, request: _Request) -> bytes:
        declared = request.headers.get("content-length", "")
        if declared.isdigit() and int(declared) > self._limit:
            raise _TooLarge
        parts: list[bytes] = []
        more = True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            more = message.get("more_body", False)
            parts.append(part)
            request.held += len(part)
            self._held += len(part)
            if request.held > self._limit:
                raise _TooLarge
            if self._held > max(_MOST_HELD, self._limit):
                raise protocol.unavailable("Too many large requests are being read at once; try again.")
        return b"".join(parts)

    async def _ping(self, _: _Request) -> _Answer:
        return _Answer(200 if self._gateway.ready else 404, b"\n")

    async def _version(self, _: _Request) -> _Answer:
        return _Answer(200, protocol.VERSION.encode())

    async def _invocations(self, request: _Request) -> _Answer:
        body = await self._body(request)
        headers = request.headers
        reply = await self._gateway.invoke(body, headers.get("content-type"), request.id, headers)
        return _Answer(200, reply.body, [_JSON, *reply.headers])

    async def _outcomes(self, request: _Request) -> _Answer:
        body = await self._body(request)
        return _json(200, {"accepted": self._gateway.record_outcomes(body)})

    async def _status(self, _: _Request) -> _Answer:
        return _json(200, self._gateway.status())

    async def _metrics(self, _: _Request) -> _Answer:
        content_type = self._gateway.metrics.content_type.encode()
        return _Answer(200, self._gateway.prometheus(), [(b"content-type", content_type)])

    async def _flags(self, request: _Request) -> _Answer:
        exposure = self._gateway.flags()
        if exposure is None:
            raise protocol.unavailable(
                "Nothing is served yet, so there are no flags; see /status, then try again."
            )
        body = json.dumps(document([exposure]), sort_keys=True).encode()
        etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
        tagged = (b"etag", etag.encode())
        seen = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if etag in seen or "*" in seen:
            return _Answer(304, b"", [tagged])
        return _Answer(200, body, [_JSON, tagged, (b"cache-control", b"no-cache")])

    def _no_such_page(self, scope: Message, method: str | None) -> _Answer:
        """Answer an unknown path or method as MLflow's server does."""
        if method is not None:
            answer = _json(405, {"detail": "Method Not Allowed"})
            answer.headers = [*answer.headers, (b"allow", method.encode())]
            return answer
        path = scope["path"].removesuffix("/")
        if path in self._endpoints:
            query = b"?" + scope["query_string"] if scope["query_string"] else b""
            return _Answer(307, b"", [(b"location", path.encode() + query)])
        return _json(404, {"detail": "Not Found"})


def _headers(raw: Iterable[Header]) -> dict[str, str]:
    """Return headers as text: UTF-8 where they are, so that a unit reads as it does in a JSON body."""
    try:
        return {name.decode("latin-1"): value.decode() for name, value in raw}
    except UnicodeDecodeError:
        return {name.decode("latin-1"): value.decode("latin-1") for name, value in raw}


def _request_id(headers: Mapping[str, str]) -> str:
    """Return the client's name for a request if it is harmless, else a new one."""
    given = headers.get("x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) else os.urandom(16).hex()


def _json(status: int, content: Any) -> _Answer:
    return _Answer(status, json.dumps(content, separators=(",", ":")).encode())


def _error_answer(error: Exception, max_body_bytes: int, request: _Request) -> _Answer:
    if isinstance(error, MlflowException):
        return _Answer(error.get_http_status_code(), protocol.error_body(error))
    if isinstance(error, protocol.UnsupportedMediaType):
        return _Answer(415, str(error).encode(), [_TEXT])
    if isinstance(error, _TooLarge):
        refused = protocol.bad_request(
            f"The body is larger than {max_body_bytes} bytes, the most that is read here. Send fewer rows at once."
        )
        return _Answer(413, protocol.error_body(refused), [_JSON, (b"connection", b"close")])
    if isinstance(error, GatewayTimeout):
        return _Answer(504, b"Request processing time exceeded limit")
    # Only the place is logged: the message may quote the request.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
    ids = {"request_id": request.id, "trace_id": trace_id_of(request.headers.get("traceparent"))}
    _log.error("unexpected %s at %s", type(error).__name__, where, extra=ids)
    failed = protocol.internal_error(f"The gateway failed on this request ({type(error).__name__}).")
    return _Answer(500, protocol.error_body(failed))
