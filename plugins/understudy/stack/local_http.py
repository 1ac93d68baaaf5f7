"""Questions to local servers, never through a proxy, with the standard library only."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

__all__ = ["answers", "get_json", "post_json"]

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get_json(url: str, *, token: str | None = None, timeout: float = 20.0) -> Any:
    """Return the decoded JSON answer of a GET.

    Raises:
        OSError: No connection, no answer in time, or an HTTP error status.
        ValueError: The answer is not JSON.
    """
    return _send(urllib.request.Request(url, headers=_headers(token)), timeout)  # noqa: S310 - address made here


def post_json(url: str, body: Any, *, token: str | None = None, timeout: float = 20.0) -> Any:
    """Return the decoded JSON answer of a POST with a JSON body.

    Raises:
        OSError: No connection, no answer in time, or an HTTP error status.
        ValueError: The answer is not JSON.
    """
    headers = {"Content-Type": "application/json", **_headers(token)}
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers=headers)  # noqa: S310
    return _send(request, timeout)


def answers(url: str, *, timeout: float = 2.0) -> bool:
    """Whether a GET is answered with a 2xx status."""
    try:
        with _DIRECT.open(url, timeout=timeout) as answer:
            status: int = answer.status
    except (OSError, ValueError):
        return False
    return 200 <= status < 300


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _send(request: urllib.request.Request, timeout: float) -> Any:
    with _DIRECT.open(request, timeout=timeout) as answer:
        return json.loads(answer.read())
