"""Puts the store back from a backup, without a restored past that comes into force again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from understudy import gateways
from understudy.errors import FlagDocumentError, GatewayMismatch, Unreachable
from understudy.exposure import read_flag
from understudy.settings import Settings
from understudy.store import Store, exposures, heads, recovery
from understudy.store.recovery import Seen

__all__ = ["restore"]


def restore(path: Path, actor: str) -> dict[str, Any]:
    """Put a backup into the empty store of the installation, and have every gateway serve champions.

    What is served now is asked of those who know it: the flag document, what gateways have accepted, and the gateways. The
    highest generation tells which champion serves; the store goes on above it.

    Args:
        path: The backup.
        actor: Who does it.

    Returns:
        ``backup``, ``head``, ``exposures``, ``ended`` (runs), ``moved`` (models whose champion is not the backup's) and
        ``not_followed`` (what a gateway says that does not follow, or a document that cannot be read).

    Raises:
        BackupInvalid: The backup cannot be trusted.
        StoreNotEmpty: The store holds something.
    """
    settings = Settings.from_env()
    store = Store.as_found(settings)
    try:
        complaints: list[str] = []
        restored = recovery.restore(store, path, _seen(settings, complaints), actor=actor)
        # Whatever was remembered of the ledger's end may lie in what was lost, and that is on record now.
        settings.home.mkdir(parents=True, exist_ok=True)
        heads.replace(settings.ledger_head_path, restored.head)
        exposures.publish_flags(store, settings)
    finally:
        store.close()
    for url in settings.gateway_urls:
        complaints += _complaint(url, {exposure.model: exposure for exposure in restored.exposures})
    return {
        "backup": restored.backup.to_dict(),
        "head": dict(restored.head.__dict__),
        "exposures": [dict(exposure.__dict__) for exposure in restored.exposures],
        "ended": list(restored.ended),
        "moved": dict(restored.moved),
        "not_followed": complaints,
    }


def _seen(settings: Settings, complaints: list[str]) -> dict[str, Seen]:
    """Return the highest generation of each model that anybody but the store remembers."""
    found: dict[str, Seen] = {}
    accepted = settings.flags_path.parent / "accepted"
    for model, seen in (
        *_documented(settings.flags_path, complaints),
        *(item for path in sorted(accepted.glob("**/*.json")) for item in _documented(path, complaints)),
        *(item for url in settings.gateway_urls for item in _told(url)),
    ):
        if model not in found or seen.generation > found[model].generation:
            found[model] = seen
    return found


def _documented(path: Path, complaints: list[str]) -> Iterator[tuple[str, Seen]]:
    try:
        models = list(json.loads(path.read_bytes())["flags"])
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        complaints.append(
            f"{path} cannot be read ({type(error).__name__}), so what it knew is not counted in."
        )
        return
    for model in models:
        try:
            exposure = read_flag(path, model)
        except FlagDocumentError as error:
            complaints.append(error.message)
            continue
        if exposure is not None:
            yield model, Seen(exposure.generation, exposure.champion, str(path))


def _told(url: str) -> Iterator[tuple[str, Seen]]:
    try:
        status = gateways.status(url)
    except Unreachable:
        return  # it is asked again once everything is in place, and then complained about
    model, generation, champion = (status.get(name) for name in ("model", "generation", "champion"))
    if isinstance(model, str) and isinstance(generation, int) and isinstance(champion, str) and generation:
        yield model, Seen(generation, champion, f"the gateway at {url}")


def _complaint(url: str, served: dict[str, Any]) -> list[str]:
    try:
        exposure = served.get(str(gateways.status(url).get("model")))
        if exposure is not None:
            gateways.wait_until_followed([url], exposure)
    except (GatewayMismatch, Unreachable) as error:
        return [error.message]
    return []
