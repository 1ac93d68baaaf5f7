"""Backs the store up with its snapshots, and puts both back, without a restored past that comes into force again.

Snapshots go into a folder beside the backup, each under the digest of its content. Every backup in the same place shares it, so
that content which did not change is copied once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from understudy import gateways
from understudy.errors import FlagDocumentError, GatewayMismatch, SnapshotBroken, Unreachable
from understudy.exposure import read_flag
from understudy.points import retention
from understudy.points.doors import snapshots_of
from understudy.points.snapshots import Snapshots
from understudy.session import Session
from understudy.settings import Settings
from understudy.store import Store, backup, exposures, heads, recovery
from understudy.store.recovery import Seen

__all__ = ["SNAPSHOTS", "back_up", "restore"]

SNAPSHOTS = "understudy-snapshots"
"""Name of the folder beside a backup that holds the snapshots."""

_STORE_SHARE = 0.5
_DIGEST = re.compile("[0-9a-f]{64}")
_NAMING = ("feature_sets", "rollback_points", "verdicts")
"""The tables that name snapshots."""


def back_up(
    doors: Session, path: Path, progress: Callable[[float, str], None] = lambda done, what: None
) -> dict[str, Any]:
    """Write the store into a file and every snapshot that somebody needs beside it; nobody has to stop.

    Args:
        doors: The installation.
        path: The file; one of that name is replaced once the new one is proven.
        progress: Called with the share that is done and what is being done.

    Returns:
        What the file holds, ``snapshots`` (how many lie beside it) and ``snapshots_missing``: whatever is not there to be
        copied, or is not what was kept, one sentence each.

    Raises:
        LedgerBroken: The ledger does not verify.
        SnapshotBroken: A snapshot cannot be written there.
        StoreError: The file cannot be written.
    """
    summary = backup.back_up(doors.store, path, lambda done, what: progress(_STORE_SHARE * done, what))
    with doors.store.read() as connection:
        needed = retention.needed(doors, connection)
    kept, beside, missing = snapshots_of(doors), _beside(path), []
    for number, (digest, who) in enumerate(needed.items()):
        progress(_STORE_SHARE + (1 - _STORE_SHARE) * number / len(needed), f"copying snapshots of {who}")
        try:
            whole = kept.proven(digest)
        except SnapshotBroken as error:
            missing.append(_named(who, error))
            continue
        if beside.found(digest) != digest:
            beside.keep_file(whole)
    told = {"snapshots": len(needed) - len(missing), "snapshots_missing": missing}
    return summary.to_dict() | told


def restore(path: Path, actor: str) -> dict[str, Any]:
    """Put a backup into the empty store of the installation, and have every gateway serve champions.

    What is served now is asked of those who know it: the flag document, what gateways have accepted, and the gateways. The
    highest generation tells which champion serves; the store goes on above it.

    Args:
        path: The backup.
        actor: Who does it.

    Returns:
        ``backup``, ``head``, ``exposures``, ``ended`` (runs), ``moved`` (models whose champion is not the backup's),
        ``not_followed`` (what a gateway says that does not follow, or a document that cannot be read) and
        ``snapshots_missing``: whatever a rollback point or a feature set needs and nobody has, one sentence each.

    Raises:
        BackupInvalid: The backup cannot be trusted.
        SettingMissing: Nobody can tell which snapshots are needed.
        SnapshotBroken: A snapshot cannot be written.
        StoreNotEmpty: The store holds something.
    """
    settings = Settings.from_env()
    store = Store.as_found(settings)
    try:
        complaints: list[str] = []
        settings.retention_days("")  # days that cannot be read are told before anything is written
        # First, because a restore that was interrupted afterwards would find a store that holds something.
        _put_back_snapshots(settings, path)
        restored = recovery.restore(store, path, _seen(settings, complaints), actor=actor)
        # Whatever was remembered of the ledger's end may lie in what was lost, and that is on record now.
        settings.home.mkdir(parents=True, exist_ok=True)
        heads.replace(settings.ledger_head_path, restored.head)
        exposures.publish_flags(store, settings)
        missing = _missing(Session(settings, store))
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
        "snapshots_missing": missing,
    }


def _beside(path: Path) -> Snapshots:
    return Snapshots(path.parent / SNAPSHOTS)


def _put_back_snapshots(settings: Settings, path: Path) -> None:
    """Put back the snapshots that a backup names and that lie whole beside it."""
    kept, beside = Snapshots(settings.snapshots_dir), _beside(path)
    named = {
        digest
        for table, row in backup.read_rows(path)
        if table.name in _NAMING
        for digest in _DIGEST.findall(json.dumps(row))
    }
    for digest in sorted(named):
        if kept.found(digest) != digest and beside.found(digest) == digest:
            kept.keep_file(beside.path(digest))


def _missing(doors: Session) -> list[str]:
    """Name the snapshots that somebody needs and that are not there or not what was kept."""
    with doors.store.read() as connection:
        needed = retention.needed(doors, connection)
    found = []
    for digest, who in needed.items():
        try:
            snapshots_of(doors).proven(digest)
        except SnapshotBroken as error:
            found.append(_named(who, error))
    return found


def _named(who: str, error: SnapshotBroken) -> str:
    return f"{who[0].upper()}{who[1:]} needs what is not there: {error.message}"


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
