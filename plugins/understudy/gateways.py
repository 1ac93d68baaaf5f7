"""The only door to the serving gateways: what each one serves, and waiting until all follow what was published."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from understudy.errors import GatewayMismatch, Unreachable
from understudy.exposure import Exposure

__all__ = ["LOADING_SECONDS", "serving", "status", "wait_until_followed"]

LOADING_SECONDS = 150.0
"""How long a gateway may take to load the versions of a generation; it gives a challenger up a little earlier."""

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

    A gateway that follows and is still loading a version is given as long as loading may take: nobody meets that version
    before it is loaded.

    Args:
        urls: Base URLs of all gateways; those of other models are passed over.
        exposure: What was published.
        deadline: Seconds to wait for all of them to follow.

    Raises:
        GatewayMismatch: One still serves something else, or none serves the model.
        Unreachable: One does not answer.
    """
    began = time.monotonic()
    while True:
        failure: Unreachable | GatewayMismatch | None = None
        problem, loading = None, False
        try:
            problem, loading = _first_problem(urls, exposure)
        except (Unreachable, GatewayMismatch) as error:
            failure = error
        if problem is None and failure is None:
            return
        waited = time.monotonic() - began
        if waited > (max(deadline, LOADING_SECONDS) if loading else deadline):
            raise failure or GatewayMismatch(
                f"The gateway at {problem}, after {waited:.3g} s. It must follow generation {exposure.generation} of "
                f"{exposure.model}; look at its log, and check that it reads the flag document in UNDERSTUDY_HOME."
            )
        time.sleep(0.1)


def _first_problem(urls: Sequence[str], exposure: Exposure) -> tuple[str | None, bool]:
    """Return what keeps a gateway from following, and whether it is only that a version is being loaded."""
    loading: tuple[str | None, bool] = None, False
    for url in serving(urls, exposure.model):
        found = status(url)
        difference = _difference(found, exposure)
        if difference is None:
            continue
        if found.get("loading") != exposure.generation:
            return f"{url} {difference}", False
        loading = f"{url} {difference}", True
    return loading


def _difference(found: Mapping[str, Any], exposure: Exposure) -> str | None:
    if not found.get("ready"):
        return f"is not ready: it waits for {found.get('waiting_for') or 'its models'}"
    if found.get("document_error"):
        # Its generation may be a higher one than was published, of a store that was since put back.
        return f"does not follow the flag document: {found['document_error']}"
    generation = found.get("generation")
    if not isinstance(generation, int) or generation < exposure.generation:
        waiting = found.get("waiting_for")
        return f"is at generation {generation}" + (f": {waiting}" if waiting else "")
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
