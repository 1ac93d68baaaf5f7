"""The one door of every rollback: the DAG, the command line, the console, the guard and whatever comes back to one."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from understudy import telemetry
from understudy.errors import (
    BadParameter,
    RestorationUnproven,
    StaleGeneration,
    StoreError,
    UnderstudyError,
)
from understudy.rollback import deferred, engine, progress
from understudy.rollback.consumers import downstream
from understudy.rollback.emergency import zero_without_store
from understudy.rollback.plan import resolve
from understudy.rollback.progress import Order
from understudy.rollback.steps import exposure
from understudy.session import Session, session
from understudy.settings import Settings
from understudy.store import runs

__all__ = ["execute", "resume"]


def execute(
    model: str, reason: str, actor: str, key: str, target_version: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Take a model back to its previous registered version.

    Exposure goes to zero before anything else is asked or resolved, so that an unreachable registry cannot keep a
    harmful version in front of users. Nothing is asked of anybody, and no lock of a run is waited for. A call while a
    rollback of the model is on joins it. A rollback that ends a run belongs to the run's trace and is linked with the
    work under way here; without a run it is part of that work.

    Args:
        model: Registered model name.
        reason: Why; it goes into the ledger. One that begins with a kind of incident and a colon picks its recipe.
        actor: Who asked.
        key: Idempotency key: a repeated call with it returns the first result.
        target_version: A version to go to instead of the previous one.
        dry_run: Only return the plan: the recipe, its steps and who uses the model.

    Returns:
        The plan with its recipe; once carried out, the measured seconds of each step, the objectives, what was read back
        and the ``trace_id``.

    Raises:
        Unreachable: A server does not answer. Exposure is at zero, and the rest is done when it answers again.
        GatewayMismatch: A gateway does not follow. Exposure is at zero, and the rest is tried again.
        RestorationUnproven: Everything was moved, and the version does not answer as it did when it was recorded.
        UnderstudyError: With the cause and the fix; exposure is at zero all the same.
    """
    if not reason.strip():
        raise BadParameter(
            "A rollback needs a reason, and it is empty. Say what was seen, for the people who read the ledger."
        )
    # A shell or a form may hand over half a character; that must not stop a rollback at the ledger.
    order = Order(model, reason.encode(errors="replace").decode(), actor, key, target_version)
    if dry_run:
        return _plan(session(), order)
    try:
        return _proven(_answer(session(), order))
    except (StoreError, SQLAlchemyError) as error:
        done = zero_without_store(Settings.from_env(), order)
        # The driver's own text may hold values.
        cause = (
            error.message
            if isinstance(error, StoreError)
            else f"The store is broken ({type(error).__name__})."
        )
        raise StoreError(f"{cause} {done}") from error


def resume() -> list[dict[str, Any]]:
    """Finish every rollback that waits for a server; safe to call at any time and from several processes.

    Returns:
        For each: ``model``, ``state`` ("finished", "unproven", "waiting" or "refused") and ``told``, the target or the cause.
    """
    doors = session()
    return deferred.each(doors, lambda order: _proven(_answer(doors, order)))


def _plan(doors: Session, order: Order) -> dict[str, Any]:
    with doors.store.read() as connection:
        on = progress.unfinished(connection, order.model)
        plan = on.plan if on else resolve(connection, doors, order.model, order.reason, order.target_version)
        consumers = downstream(connection, doors, order.model)
    return plan.to_dict() | {"recipe": plan.recipe.to_dict(), "consumers": consumers, "dry_run": True}


def _answer(doors: Session, order: Order) -> Mapping[str, Any]:
    with doors.store.read() as connection:
        done = progress.finished(connection, order)
        run = runs.active(connection, order.model)
    if done is not None:
        return done
    of_run = telemetry.parse(run.traceparent if run else None)
    with telemetry.span(
        "rollback",
        parent=of_run,
        caused_by=telemetry.current() if of_run else None,
        attributes={"understudy.model": order.model},
        flush=True,
    ):
        began = time.monotonic()
        exposure.stop(doors, order)
        try:
            return engine.run(doors, order, time.monotonic() - began)
        except deferred.PASSING as error:
            deferred.defer(doors, order, error)
            raise type(error)(
                f"The rollback of {order.model} is not finished; nobody is exposed. {error.message} It goes on by itself, or "
                "with `understudy rollback --resume`."
            ) from error
        except (StoreError, StaleGeneration):
            raise
        except UnderstudyError as error:
            with doors.store.read() as connection:
                done = progress.led_to(connection, order)
            if done is None or not isinstance(error, BadParameter):
                deferred.refuse(doors, order, error)
                raise
            return done


def _proven(result: Mapping[str, Any]) -> dict[str, Any]:
    if result.get("problems"):
        raise RestorationUnproven(
            f"Version {result['target']} of {result['model']} is champion again and nobody is exposed, but it is not proven to "
            f"be what was recorded: {' '.join(result['problems'])} Name a version that is known to be good: `--to`."
        )
    return dict(result)
