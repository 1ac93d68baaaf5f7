"""The first step: nobody is exposed any more, whatever else is out of reach."""

from __future__ import annotations

from understudy.errors import FlagDocumentError
from understudy.rollback.progress import Order
from understudy.rollback.steps.step import Found, Step, Work
from understudy.session import Session
from understudy.store import exposures, runs

__all__ = ["STEP", "publish", "stop"]


def stop(doors: Session, order: Order) -> None:
    """Send everybody to the champion.

    Raises:
        FlagDocumentError: The store says zero and the flag document cannot be written.
        StoreError: The store cannot be written.
    """
    with doors.store.write() as connection:
        exposures.stop(
            connection, order.model, actor=order.actor, reason=order.reason, at=doors.store.clock()
        )
    publish(doors)


def publish(doors: Session) -> None:
    """Write the flag document from the store.

    Raises:
        FlagDocumentError: It cannot be written.
    """
    try:
        exposures.publish_flags(doors.store, doors.settings)
    except OSError as error:
        raise FlagDocumentError(
            f"The store says that nobody is exposed, and the flag document {doors.settings.flags_path} cannot be written "
            f"({type(error).__name__}: {error.strerror}). Gateways follow when the lease lapses; make the folder writable and "
            "run the rollback again."
        ) from error


def _at_zero(work: Work) -> bool:
    with work.doors.store.read() as connection:
        run = runs.active(connection, work.plan.model)
        found = exposures.find(connection, work.plan.model)
    return not (run and run.state is not runs.RunState.ROLLING_BACK) and not (found and found.challenger)


def _apply(work: Work) -> None:
    stop(work.doors, work.order)


def _verify(work: Work) -> Found:
    return {"parts": 1, "restored": int(_at_zero(work))}


STEP = Step("exposure", 1.0, _at_zero, _apply, _verify)
