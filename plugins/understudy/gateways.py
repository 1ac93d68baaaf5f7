"""The only door to the serving gateways: what each one serves, and waiting until all follow what was published."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.errors import GatewayMismatch, Unreachable
from understudy.exposure import Exposure

__all__ = ["serving", "status", "wait_until_followed"]

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


def serving(urls: Sequence[str], model: str) -> list[str]:
    """Return the gateways that serve a model; each gateway serves one.

    Raises:
        GatewayMismatch: There are gateways, and none of them serves it.
        Unreachable: One does not answer, so nobody can tell what it serves.
    """
    found = {url: status(url).get("model") for url in urls}
    own = [url for url, served in found.items() if served == model]
    if urls and not own:
        shown = ", ".join(f"{url} serves {served}" for url, served in found.items())
        raise GatewayMismatch(
            f"No gateway serves {model}: {shown}. Start one with `python -m understudy.gateway --model {model}` and name it "
            "in UNDERSTUDY_GATEWAY_URLS."
        )
    return own


def wait_until_followed(urls: Sequence[str], exposure: Exposure, deadline: float = 20.0) -> None:
    """Wait until every gateway of a model serves what was published.

    Args:
        urls: Base URLs of all gateways; those of other models are passed over.
        exposure: What was published.
        deadline: Seconds to wait for all of them.

    Raises:
        GatewayMismatch: One still serves something else, or none serves the model.
        Unreachable: One does not answer.
    """
    until = time.monotonic() + deadline
    while True:
        failure: Unreachable | GatewayMismatch | None = None
        problem = None
        try:
            problem = _first_problem(urls, exposure)
        except (Unreachable, GatewayMismatch) as error:
            failure = error
        if problem is None and failure is None:
            return
        if time.monotonic() > until:
            raise failure or GatewayMismatch(
                f"The gateway at {problem}, after {deadline:g} s. It must follow generation {exposure.generation} of "
                f"{exposure.model}; look at its log, and check that it reads the flag document in UNDERSTUDY_HOME."
            )
        time.sleep(0.1)


def _first_problem(urls: Sequence[str], exposure: Exposure) -> str | None:
    for url in serving(urls, exposure.model):
        difference = _difference(status(url), exposure)
        if difference is not None:
            return f"{url} {difference}"
    return None


def _difference(found: Mapping[str, Any], exposure: Exposure) -> str | None:
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
