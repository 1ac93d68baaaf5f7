"""Objectives of a rollback: what was asked for, what was measured, and an alert while a step takes too long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import StoreError
from understudy.rollback.progress import Order
from understudy.session import Session
from understudy.spec import Restoration
from understudy.store import ledger

__all__ = ["accuracy", "exposed_share", "judged", "watched"]

log = logging.getLogger(__name__)


@contextmanager
def watched(doors: Session, order: Order, step: str, seconds: float) -> Iterator[None]:
    """Raise an alert if the block has not ended after so many seconds; the block itself is not disturbed."""
    timer = threading.Timer(seconds, _stalled, (doors, order, step, seconds))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _stalled(doors: Session, order: Order, step: str, seconds: float) -> None:
    words = (
        f"The rollback of {order.model} is stalled: step {step} takes longer than its objective of {seconds:g} s. Exposure is "
        "at zero. See docs/runbooks/roll-back-now.md."
    )
    log.error(words)
    try:
        with doors.store.write() as connection:
            ledger.append(
                connection,
                at=doors.store.clock(),
                actor="understudy",
                action="rollback.stalled",
                model=order.model,
                reason=words,
                body={"key": order.key, "step": step, "objective_seconds": seconds},
            )
    except StoreError:
        log.exception("The stalled rollback of %s could not be written down.", order.model)


def accuracy(findings: Sequence[Mapping[str, Any]]) -> float:
    """Return the share of what was to be restored that was read back as recorded; 1 means all of it.

    Args:
        findings: What the steps found: each may say how many ``parts`` it had and how many are ``restored``.
    """
    parts = sum(int(found.get("parts", 0)) for found in findings)
    return sum(int(found.get("restored", 0)) for found in findings) / parts if parts else 1.0


def exposed_share(connection: Connection, run_id: str | None) -> float:
    """Return the largest share of units, in per cent, that a run exposed when its exposure was dropped.

    The ledger says so, because the guard drops exposure before a rollback is asked for. A lease that had lapsed exposed nobody.
    """
    if run_id is None:
        return 0.0
    found = ledger.entries(
        connection, run_id=run_id, newest=2, actions=("exposure.raised", "exposure.dropped")
    )
    if [entry.action for entry in found] != ["exposure.raised", "exposure.dropped"]:
        return 0.0
    raised, dropped = found
    if dropped.at >= (dropped.body.get("lease_before") or 0):
        return 0.0
    return max(float(raised.body["to"]), *map(float, raised.body.get("rings", {}).values()), 0.0)


def judged(asked: Restoration, measured: Mapping[str, float]) -> dict[str, dict[str, Any]]:
    """Hold what was measured against the objectives.

    Args:
        asked: The objectives of the spec, or the defaults.
        measured: ``duration`` and ``zero_within`` in seconds, ``accuracy`` from 0 to 1, ``impact`` in per cent of units.

    Returns:
        For each: ``measured``, ``objective`` and whether it was ``met``.
    """
    return {
        name: {
            "measured": round(value, 3),
            "objective": getattr(asked, name),
            "met": value >= asked.accuracy if name == "accuracy" else value <= getattr(asked, name),
        }
        for name, value in measured.items()
    }
