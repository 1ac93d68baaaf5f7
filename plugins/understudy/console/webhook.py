"""Takes rollbacks from monitoring systems, which hold no account of Airflow's: each request is signed with a shared secret.

It is an application of its own, beside the console under ``/understudy-webhook``, so that the console stays closed to
everybody without an account whatever is changed here.

A request carries ``X-Understudy-Timestamp`` (Unix seconds) and ``X-Understudy-Signature``: ``sha256=`` and the hex digits of
HMAC-SHA256 (RFC 2104) over the timestamp, a full stop and the body, keyed with ``UNDERSTUDY_WEBHOOK_KEY``. What is signed names
the model and an idempotency key, so that a request that somebody repeats does nothing that was not done.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import time
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from understudy.console import way_back
from understudy.errors import BadParameter, SettingMissing, SignatureRefused, UnderstudyError
from understudy.settings import Settings

__all__ = ["Asked", "create_webhook", "signature"]

log = logging.getLogger(__name__)

_WINDOW = 300.0
_LIMIT = 16_384
_CODES = {SettingMissing: 503, SignatureRefused: 401, BadParameter: 422}

router = APIRouter()


class Asked(BaseModel):
    """The body of the request."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(min_length=1, max_length=250)
    reason: str = Field(min_length=5, max_length=500)
    key: str = Field(pattern=way_back.KEY)
    target_version: str | None = Field(None, pattern=way_back.VERSION)


def create_webhook() -> FastAPI:
    """Build the application: one route, and nothing that describes it."""
    app = FastAPI(
        title="Understudy webhook", openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.include_router(router)
    app.add_exception_handler(UnderstudyError, _refused)
    return app


def signature(secret: bytes, timestamp: str, body: bytes) -> str:
    """Return what ``X-Understudy-Signature`` has to be.

    Args:
        secret: The shared secret.
        timestamp: ``X-Understudy-Timestamp`` as it is sent.
        body: The body, byte by byte.
    """
    return f"sha256={hmac.new(secret, timestamp.encode() + b'.' + body, hashlib.sha256).hexdigest()}"


async def _signed(request: Request) -> bytes:
    """Return the body of a request that is signed and fresh.

    Raises:
        SettingMissing: No secret is set, so nobody can sign.
        SignatureRefused: It is not signed with the secret, or was signed too long ago.
    """
    secret = Settings.from_env().webhook_key
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _LIMIT:
            raise BadParameter(f"The body is longer than {_LIMIT} bytes, which no rollback needs.")
    timestamp = request.headers.get("x-understudy-timestamp", "")
    found = request.headers.get("x-understudy-signature", "")
    # Both are always computed, so that how long it takes tells nobody which one is wrong.
    fits = hmac.compare_digest(found.encode(), signature(secret, timestamp, body).encode())
    fresh = timestamp.isascii() and timestamp.isdigit() and abs(time.time() - int(timestamp[:12])) <= _WINDOW
    if not (fits and fresh):
        log.warning("A rollback by webhook was refused: %s.", "too old" if fits else "wrong signature")
        raise SignatureRefused(
            "The request is not signed with UNDERSTUDY_WEBHOOK_KEY over its timestamp, a full stop and its body, or its "
            f"timestamp is further than {_WINDOW:g} s from this machine's clock. Nothing was changed."
        )
    return body


@router.post("/rollback")
def roll_back(body: Annotated[bytes, Depends(_signed)]) -> JSONResponse:
    """Carry a rollback out here and now. A repeat with the same ``key`` gets the first answer."""
    try:
        asked = Asked.model_validate_json(body)
    except ValidationError as error:
        wrong = sorted({".".join(map(str, found["loc"])) or "the body" for found in error.errors()})
        raise BadParameter(
            f"The request is signed, but cannot be used: {', '.join(wrong)}. It must be a JSON object with `model`, `reason` "
            "(5 to 500 characters), `key` and, where wanted, `target_version`."
        ) from None
    return way_back.answer(
        asked.model, asked.reason, "webhook", f"webhook/{asked.key}", target_version=asked.target_version
    )


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, UnderstudyError)
    return JSONResponse({"error": error.to_dict()}, _CODES.get(type(error), 500))
