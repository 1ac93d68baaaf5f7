"""The only door to the serving gateways: what each one serves, and waiting until all follow what was published."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.errors import GatewayMismatch, Unreachable
from understudy.exposure import Exposure

__all__ = ["score", "status", "wait_until_followed"]

_TIMEOUT = 5.0


def status(url: str) -> Mapping[str, Any]:
    """Return what a gateway says of itself.

    Args:
        url: Its base URL.

    Raises:
        Unreachable: It does not answer.
    """
    import httpx

    try:
        answer = httpx.get(f"{url}/status", timeout=_TIMEOUT)
        answer.raise_for_status()
        found = answer.json()
        if not isinstance(found, dict):
            raise ValueError("its status is not an object; is this an Understudy gateway?")
        return found
    except (httpx.HTTPError, ValueError) as error:
        raise _unreachable(url, error) from error


def wait_until_followed(urls: Sequence[str], exposure: Exposure, deadline: float = 20.0) -> None:
    """Wait until every gateway serves what was published.

    Args:
        urls: Base URLs of the gateways.
        exposure: What was published.
        deadline: Seconds to wait for all of them.

    Raises:
        GatewayMismatch: One still serves something else.
        Unreachable: One does not answer.
    """
    until = time.monotonic() + deadline
    for url in urls:
        while True:
            try:
                found = status(url)
                problem = _difference(found, exposure)
            except Unreachable:
                if time.monotonic() > until:
                    raise
                problem = "does not answer"
            if problem is None:
                break
            if time.monotonic() > until:
                raise GatewayMismatch(
                    f"The gateway at {url} {problem}, after {deadline:g} s. It must follow generation "
                    f"{exposure.generation} of {exposure.model}; look at its log, and check that it reads the flag document "
                    "in UNDERSTUDY_HOME."
                )
            time.sleep(0.1)


def score(url: str, frame: Any) -> list[Any]:
    """Send rows through a gateway's ``/invocations``.

    Args:
        url: Base URL.
        frame: A pandas frame, one row per request.

    Returns:
        One prediction per row.

    Raises:
        Unreachable: It does not answer, or not with predictions.
    """
    import httpx

    content = f'{{"dataframe_split": {frame.to_json(orient="split", index=False)}}}'
    try:
        answer = httpx.post(
            f"{url}/invocations",
            content=content,
            headers={"Content-Type": "application/json"},
            timeout=_TIMEOUT * 2,
        )
        answer.raise_for_status()
        return list(answer.json()["predictions"])
    except (httpx.HTTPError, ValueError, KeyError) as error:
        raise _unreachable(url, error) from error


def _difference(found: Mapping[str, Any], exposure: Exposure) -> str | None:
    if found.get("model") != exposure.model:
        return f"serves model {found.get('model')}, not {exposure.model}"
    if not found.get("ready"):
        return f"is not ready: it waits for {found.get('waiting_for') or 'its models'}"
    generation = found.get("generation")
    if not isinstance(generation, int) or generation < exposure.generation:
        return f"is at generation {generation}"
    if generation == exposure.generation and found.get("champion") != exposure.champion:
        return f"serves champion {found.get('champion')}"
    needed = {exposure.champion} | ({exposure.challenger} if exposure.challenger else set())
    missing = needed - set(found.get("loaded", ()))
    if missing and generation == exposure.generation:
        why = found.get("challenger_error") or "it is still loading"
        return f"has not loaded version {', '.join(sorted(missing))}: {why}"
    return None


def _unreachable(url: str, error: Exception) -> Unreachable:
    return Unreachable(
        f"The gateway at {url} does not answer ({type(error).__name__}: {error}). Start it, or correct "
        "UNDERSTUDY_GATEWAY_URLS. Exposure does not rise while a gateway is out of reach."
    )
