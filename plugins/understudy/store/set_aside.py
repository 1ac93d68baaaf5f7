"""Rollbacks that were asked for while the store could not be written: kept in files, and taken over by whoever writes next.

The flag document alone says then that nobody is exposed, and the store still says otherwise. Whoever published from the store
next would raise exposure again if nobody remembered.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Connection

from understudy.store import ledger, outbox, unfinished
from understudy.store.database import Store

__all__ = ["keep", "take_over"]

_FOLDER = "orders"
_FIELDS = ("model", "reason", "actor", "key", "target_version")

log = logging.getLogger(__name__)


def keep(home: Path, order: Mapping[str, Any]) -> None:
    """Remember an order until the store can be written; a repeated one is kept once.

    Args:
        home: The state folder.
        order: JSON-safe: ``model``, ``reason``, ``actor``, ``key`` and ``target_version``.

    Raises:
        OSError: The folder cannot be written either.
    """
    path = home / _FOLDER / f"{hashlib.sha256(str(order['key']).encode()).hexdigest()}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished_path = path.with_suffix(".new")
    with unfinished_path.open("w") as stream:
        json.dump(dict(order), stream)
        stream.flush()
        os.fsync(stream.fileno())
    unfinished_path.replace(path)


def take_over(store: Store, home: Path, stop: Callable[..., None]) -> None:
    """Write into the store what was asked for meanwhile; safe to repeat, and cheap where nothing was.

    Args:
        store: The store.
        home: The state folder.
        stop: `exposures.stop`, which sends everybody back and marks the run.

    Raises:
        StoreError: The store still cannot be written. Nobody may publish from it then.
    """
    for path in sorted((home / _FOLDER).glob("*.json")):
        order = _read(path)
        if order is None:
            continue
        with store.write() as connection:
            _note(connection, order, stop, store.clock())
        path.unlink(missing_ok=True)
        log.warning("The rollback of %s that the store could not take is in it now.", order["model"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        order: dict[str, Any] = json.loads(path.read_bytes())
        return {name: order[name] for name in _FIELDS}
    except FileNotFoundError:
        return None  # somebody else was faster
    except (OSError, ValueError, KeyError, TypeError) as error:
        # They are written in one step, so somebody put it there or altered it; what is served must not wait for that.
        log.error(
            "The file %s is no order of a rollback (%s). Look who put it there, and remove it.", path, error
        )
        return None


def _note(connection: Connection, order: Mapping[str, Any], stop: Callable[..., None], at: float) -> None:
    if any(errand.body["key"] == order["key"] for errand in outbox.ever(connection, unfinished.FINISH)):
        return
    model, actor, reason = order["model"], order["actor"], order["reason"]
    stop(connection, model, actor=actor, reason=reason, at=at)
    outbox.put(connection, unfinished.FINISH, order, at=at)
    ledger.append(
        connection,
        at=at,
        actor=actor,
        action="rollback.deferred",
        model=model,
        reason=f"The store could not be written when it was asked for. {reason}",
        body={"key": order["key"], "reason": reason},
    )
