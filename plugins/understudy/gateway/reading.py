"""Reads off the parts of a gateway what is not counted on the way, when somebody asks for its metrics or status."""

from __future__ import annotations

import time
from typing import Any

from understudy.events.writer import EventWriter
from understudy.gateway.channel import Tally
from understudy.gateway.follower import Follower, Serving
from understudy.gateway.metrics import Hosted, Loaded, Reading
from understudy.gateway.pool import ModelPool
from understudy.gateway.request_log import RequestLog
from understudy.gateway.scoring import Scorer

__all__ = ["read_off", "status"]

_STARTED = time.time()


def read_off(
    follower: Follower,
    pool: ModelPool,
    scorer: Scorer,
    log: RequestLog,
    requests: EventWriter,
    outcomes: EventWriter,
    under_way: int,
) -> Reading:
    """Return what the gateway is like now."""
    now, serving = time.time(), follower.serving
    exposure = serving.exposure if serving else None
    live = exposure is not None and exposure.live(now) and log.broken is None
    written: dict[str, EventWriter | Tally] = {
        "requests": requests,
        "outcomes": outcomes,
        "mirrors": pool.tally,
    }
    return Reading(
        under_way=under_way,
        ready=serving is not None,
        generation=exposure.generation if exposure else None,
        exposed=live,
        exposed_percent=exposure.percent if exposure and live else 0.0,
        lease_left=max(0.0, (exposure.lease_expires_at or 0) - now) if exposure else 0.0,
        document_error=follower.document_error is not None,
        feature_set_error=follower.feature_set_error is not None,
        versions=_versions(serving) if serving else (),
        challenger=_hosted(serving, scorer) if serving else None,
        mirror_rows={
            "scored": pool.tally.written,
            "dropped": pool.tally.dropped,
            "failed": pool.tally.failed,
        },
        mirror_waiting=pool.tally.waiting,
        events={kind: writer.written for kind, writer in written.items()},
        events_failed={kind: writer.failed for kind, writer in written.items()},
        event_lag={
            kind: now - (writer.written_at or _STARTED)
            for kind, writer in {"requests": requests, "outcomes": outcomes}.items()
        },
        writable=log.broken is None,
    )


def status(
    model: str,
    follower: Follower,
    pool: ModelPool,
    scorer: Scorer,
    log: RequestLog,
    requests: EventWriter,
    outcomes: EventWriter,
    under_way: int,
) -> dict[str, Any]:
    """Return what is served to whom, and what is wrong, as JSON-safe data."""
    serving = follower.serving
    exposure = serving.exposure if serving else None
    return {
        "model": model,
        "ready": serving is not None,
        "generation": exposure.generation if exposure else None,
        "champion": exposure.champion if exposure else None,
        "champion_how": serving.champion.how if serving else None,
        "challenger": exposure.challenger if exposure else None,
        "challenger_error": serving.challenger_error if serving else None,
        "run": exposure.run_id if exposure else None,
        "stage": exposure.stage if exposure else 0,
        "percent": exposure.percent if exposure else 0.0,
        "rings": dict(exposure.rings) if exposure else {},
        "contained": list(exposure.contained) if exposure else [],
        "lease_expires_at": exposure.lease_expires_at if exposure else None,
        "exposed": bool(exposure and exposure.live(time.time()) and not log.broken),
        "loaded": pool.versions,
        "served_by": _served_by(serving),
        "under_way": under_way,
        "waiting_for": follower.waiting_for,
        "loading": follower.loading,
        "document_error": follower.document_error,
        "feature_set": exposure.feature_set if exposure else None,
        "feature_set_error": follower.feature_set_error,
        "events": {
            "requests": requests.written,
            "outcomes": outcomes.written,
            "failed": requests.failed + outcomes.failed + pool.tally.failed,
            "error": log.broken,
            "torn_lines": log.torn_lines,
        },
        "mirror": {
            "on": bool(exposure and exposure.mirror and exposure.challenger),
            "events": pool.tally.written,
            "dropped": pool.tally.dropped,
        },
        "breaker": {
            "state": scorer.breaker.state,
            "opened": scorer.breaker.opened,
            "reason": scorer.breaker.reason,
        },
    }


def _served_by(serving: Serving | None) -> dict[str, str]:
    """Return for each version in use the address of the server that answers for it, or that the gateway does so itself.

    The gateway checks the files of a version that it loads itself; it cannot see those of a server.
    """
    used = (serving.champion, serving.challenger) if serving else ()
    return {one.version: one.upstream or "gateway" for one in used if one is not None}


def _versions(serving: Serving) -> list[Loaded]:
    champion, challenger = serving.champion, serving.challenger
    compiled = champion.compiled.how if champion.compiled else None
    how = _how(compiled, champion.upstream)
    found = [Loaded(champion.version, "champion", how, champion.digest)]
    if challenger is not None and challenger.ready:
        how = _how(challenger.compiled, challenger.upstream)
        found.append(Loaded(challenger.version, "challenger", how, challenger.digest or ""))
    return found


def _how(compiled: str | None, upstream: str | None) -> str:
    return "upstream" if upstream else compiled or "no"


def _hosted(serving: Serving, scorer: Scorer) -> Hosted | None:
    challenger = serving.challenger
    if challenger is None:
        return None
    breaker = scorer.breaker_for(challenger.version)
    return Hosted(
        challenger.version, challenger.pid, challenger.ready, challenger.starts, breaker.state, breaker.opened
    )
