"""HTTP in front of a gateway."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import blake2b
from uuid import uuid4

from mlflow.exceptions import MlflowException
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from understudy.exposure import document
from understudy.gateway import protocol
from understudy.gateway.service import Gateway, GatewayTimeout

__all__ = ["create_app"]

_JSON = "application/json"
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}")
_log = logging.getLogger(__name__)


class _TooLarge(Exception):
    """The body is longer than this gateway reads."""


def create_app(gateway: Gateway) -> Starlette:
    """Return the ASGI application of one gateway.

    Args:
        gateway: It is started and stopped with the application.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        gateway.start()
        yield
        await gateway.stop()

    pages = _Pages(gateway)
    table = (
        ("/ping", pages.ping, "GET"),
        ("/health", pages.ping, "GET"),
        ("/version", pages.version, "GET"),
        ("/invocations", pages.invocations, "POST"),
        ("/outcomes", pages.outcomes, "POST"),
        ("/status", pages.status, "GET"),
        ("/flags", pages.flags, "GET"),
        ("/metrics", pages.metrics, "GET"),
    )
    routes = [Route(path, _guarded(gateway, endpoint), methods=[method]) for path, endpoint, method in table]
    return Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: _not_found})


class _Pages:
    """The endpoints; each returns its answer or raises what :func:`_error_response` knows."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def ping(self, _: Request) -> Response:
        return Response("\n", 200 if self._gateway.ready else 404, media_type=_JSON)

    async def version(self, _: Request) -> Response:
        return Response(protocol.VERSION, media_type=_JSON)

    async def invocations(self, request: Request) -> Response:
        body = await _body(request, self._gateway.config.max_body_bytes)
        reply = await self._gateway.invoke(
            body, request.headers.get("content-type"), request.state.request_id
        )
        return Response(reply.body, media_type=_JSON, headers=reply.headers)

    async def outcomes(self, request: Request) -> Response:
        body = await _body(request, self._gateway.config.max_body_bytes)
        return JSONResponse({"accepted": self._gateway.record_outcomes(body)})

    async def status(self, _: Request) -> Response:
        return JSONResponse(self._gateway.status())

    async def metrics(self, _: Request) -> Response:
        return Response(
            self._gateway.prometheus(), headers={"Content-Type": self._gateway.metrics.content_type}
        )

    async def flags(self, request: Request) -> Response:
        exposure = self._gateway.flags()
        if exposure is None:
            raise protocol.unavailable(
                "Nothing is served yet, so there are no flags; see /status, then try again."
            )
        body = json.dumps(document([exposure]), sort_keys=True).encode()
        etag = f'"{blake2b(body, digest_size=16).hexdigest()}"'
        seen = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if etag in seen or "*" in seen:
            return Response(status_code=304, headers={"ETag": etag})
        return Response(body, media_type=_JSON, headers={"ETag": etag, "Cache-Control": "no-cache"})


Endpoint = Callable[[Request], Awaitable[Response]]


def _guarded(gateway: Gateway, endpoint: Endpoint) -> Endpoint:
    """Turn every error of an endpoint into an answer; nothing of it reaches the server's own traceback log."""

    async def guarded(request: Request) -> Response:
        request.state.request_id = _request_id(request)
        try:
            response = await endpoint(request)
        except Exception as error:
            response = _error_response(error, gateway.config.max_body_bytes)
            gateway.metrics.errors.labels(str(response.status_code)).inc()
        response.headers["X-Request-Id"] = request.state.request_id
        return response

    return guarded


def _error_response(error: Exception, max_body_bytes: int) -> Response:
    if isinstance(error, MlflowException):
        return Response(protocol.error_body(error), error.get_http_status_code(), media_type=_JSON)
    if isinstance(error, protocol.UnsupportedMediaType):
        return Response(str(error), 415, media_type="text/plain")
    if isinstance(error, _TooLarge):
        refused = protocol.bad_request(
            f"The body is larger than {max_body_bytes} bytes, the most that is read here. Send fewer rows at once."
        )
        return Response(protocol.error_body(refused), 413, media_type=_JSON, headers={"Connection": "close"})
    if isinstance(error, GatewayTimeout):
        return Response("Request processing time exceeded limit", 504, media_type=_JSON)
    if isinstance(error, ClientDisconnect):
        return Response(status_code=400)
    # Only the place is logged: the message may quote the request.
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename}:{place.tb_lineno}" if place else "unknown"
    _log.error("unexpected %s at %s", type(error).__name__, where)
    failed = protocol.internal_error(f"The gateway failed on this request ({type(error).__name__}).")
    return Response(protocol.error_body(failed), 500, media_type=_JSON)


async def _body(request: Request, limit: int) -> bytes:
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _TooLarge
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise _TooLarge
        parts.append(part)
    return b"".join(parts)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


async def _not_found(_: Request, error: Exception) -> Response:
    """Answer unknown paths and methods as MLflow's server does."""
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"detail": error.detail}, status_code=error.status_code, headers=error.headers)
