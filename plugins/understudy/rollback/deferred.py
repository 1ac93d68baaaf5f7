"""Rollbacks that wait for a server: nobody is exposed any more, and the rest is done as soon as the server answers."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import (
    GatewayMismatch,
    RestorationUnproven,
    StaleGeneration,
    StoreError,
    UnderstudyError,
    Unreachable,
)
from understudy.rollback.progress import Order, unfinished
from understudy.session import Session
from understudy.store import exposures, ledger, outbox
from understudy.store.unfinished import FINISH

__all__ = ["PASSING", "defer", "each", "refuse", "settle"]

log = logging.getLogger(__name__)

PASSING = (Unreachable, GatewayMismatch)
"""What keeps a rollback from its end for a while: a server that does not answer, or a gateway that does not follow yet."""


def defer(doors: Session, order: Order, error: UnderstudyError) -> None:
    """Note that the rest of a rollback must still be done, and raise the alert.

    One note per model is enough; whoever chooses another version replaces what waits.
    """
    log.error(
        "The rollback of %s is not finished; nobody is exposed. %s It goes on by itself, or with `understudy rollback --resume`. "
        "See docs/runbooks/roll-back-now.md.",
        order.model, error.message,
    )  # fmt: skip
    with doors.store.write() as connection:
        waits = [
            errand for errand in outbox.pending(connection, FINISH) if errand.body["model"] == order.model
        ]
        if waits and order.target_version in (None, waits[-1].body["target_version"]):
            return
        now = doors.store.clock()
        settle(connection, order.model, at=now)
        outbox.put(connection, FINISH, order.to_dict(), at=now)
        ledger.append(
            connection,
            at=now,
            actor=order.actor,
            action="rollback.deferred",
            model=order.model,
            reason=error.message,
            body={"key": order.key, "reason": order.reason},
        )


def settle(connection: Connection, model: str, *, at: float, key: str | None = None) -> None:
    """Note that nothing of a model's rollback is left to do, or nothing of the order with a key."""
    for errand in outbox.pending(connection, FINISH):
        if errand.body["model"] == model and key in (None, errand.body["key"]):
            outbox.mark_done(connection, errand, at=at)


def each(doors: Session, carry_out: Callable[[Order], dict[str, Any]]) -> list[dict[str, Any]]:
    """Carry out what waits.

    Args:
        doors: The store.
        carry_out: Finishes one order.

    Returns:
        For each: ``model``, ``state`` ("finished", "unproven", "waiting" or "refused") and ``told``, the target or the cause.
    """
    exposures.take_over_orders(doors.store, doors.settings)
    with doors.store.read() as connection:
        waiting = [Order(**errand.body) for errand in outbox.pending(connection, FINISH)]
    found = []
    for order in waiting:
        try:
            told, state = str(carry_out(order)["target"]), "finished"
        except (*PASSING, StaleGeneration, StoreError) as error:
            told, state = error.message, "waiting"
        except RestorationUnproven as error:
            told, state = error.message, "unproven"
        except UnderstudyError as error:
            told, state = error.message, "refused"
        if state in ("finished", "unproven"):
            # The process that carried it out may have died before it could say so.
            with doors.store.write() as connection:
                settle(connection, order.model, at=doors.store.clock(), key=order.key)
        found.append({"model": order.model, "state": state, "told": told})
    return found


def refuse(doors: Session, order: Order, error: UnderstudyError) -> None:
    """Give up what fails in the same way every time, and say so on record; a person has to choose another way.

    The rollback that somebody else began goes on.
    """
    log.error(
        "The rollback of %s cannot be finished; nobody is exposed. %s See docs/runbooks/roll-back-now.md.",
        order.model,
        error.message,
    )
    with doors.store.write() as connection:
        now = doors.store.clock()
        on = unfinished(connection, order.model)
        ledger.append(
            connection,
            at=now,
            actor=order.actor,
            action="rollback.abandoned" if on and order.key in on.keys else "rollback.refused",
            model=order.model,
            reason=error.message,
            body={"key": order.key, "code": error.code},
        )
        settle(connection, order.model, at=now, key=order.key)
