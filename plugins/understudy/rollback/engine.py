"""Runs the steps of a recipe, each measured and written down. Crash anywhere, run again: the same end, and one rollback."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy.engine import Connection

from understudy import telemetry
from understudy.errors import StaleGeneration
from understudy.rollback import deferred, progress
from understudy.rollback.facts import experiment_of
from understudy.rollback.objectives import accuracy, exposed_share, judged, watched
from understudy.rollback.progress import Begun, Order
from understudy.rollback.steps import STEPS, Step, Work
from understudy.session import Session
from understudy.spec import Restoration
from understudy.store import ledger, runs

__all__ = ["run"]

log = logging.getLogger(__name__)


def run(doors: Session, order: Order, zero_seconds: float) -> dict[str, Any]:
    """Carry an order out, or help the rollback that is on to its end.

    Args:
        doors: Store, registry and settings.
        order: What was asked for; exposure is at zero already.
        zero_seconds: How long it took to send everybody back to the champion.

    Returns:
        What is written down as ``rollback.finished``.

    Raises:
        UnderstudyError: With the cause and the fix.
    """
    began = time.monotonic() - zero_seconds
    begun = progress.begin(doors, order)
    while True:
        with doors.store.read() as connection:
            experiment = experiment_of(connection, doors, order.model)
        work = Work(doors, order, begun, experiment)
        seconds: dict[str, float] = {}
        try:
            for name in begun.plan.recipe.steps:
                _take(work, STEPS[name], zero_seconds if name == "exposure" else 0.0)
                seconds[name] = time.monotonic() - began
            if not STEPS["registry"].check(work):
                # A promotion that lost may have moved the alias after it was read back.
                _take(work, STEPS["registry"], 0.0)
            return _finish(work, zero_seconds, seconds)
        except StaleGeneration:
            newer = progress.latest(doors, order.model)
            if newer.seq == begun.seq:
                raise
            # What was moved for the plan that is replaced must not stay: this process goes on with the newer one.
            log.warning("The rollback of %s to %s was replaced.", order.model, begun.plan.target)
            begun = newer


def _take(work: Work, step: Step, spent: float) -> None:
    began = time.monotonic() - spent
    changed = False
    with watched(work.doors, work.order, step.name, step.seconds):
        if not step.check(work):
            changed = True
            step.apply(work)
        work.found[step.name] = step.verify(work)
    took = time.monotonic() - began
    problem = work.found[step.name].get("problem")
    if problem:
        log.error(
            "The rollback of %s is not proven: %s See docs/runbooks/roll-back-now.md.",
            work.plan.model,
            problem,
        )
    progress.note_step(
        work.doors, work.order, work.begun, step.name, took, changed, dict(work.found[step.name])
    )


def _finish(work: Work, zero_seconds: float, seconds: Mapping[str, float]) -> dict[str, Any]:
    with work.doors.store.write() as connection:
        now = work.doors.store.clock()
        progress.require_standing(connection, work.begun)
        done = _already(connection, work.begun)
        if done is not None:
            return done
        if work.plan.run_id:
            ended = runs.get(connection, work.plan.run_id)
            ending = f"Rolled back at stage {ended.stage} to version {work.plan.target}: {work.order.reason}"
            runs.end(
                connection, ended, runs.RunState.ROLLED_BACK, ending=ending, actor=work.order.actor, at=now
            )
        result = _result(connection, work, zero_seconds, seconds, now)
        ledger.append(
            connection,
            at=now,
            actor=work.order.actor,
            action="rollback.finished",
            model=work.plan.model,
            run_id=work.plan.run_id,
            reason=work.order.reason,
            body=result,
        )
        deferred.settle(connection, work.plan.model, at=now)
    return result


def _already(connection: Connection, begun: Begun) -> dict[str, Any] | None:
    """Return how the rollback ended, if another process that carried it out was faster."""
    ended = ledger.entries(connection, model=begun.plan.model, newest=1, actions=("rollback.finished",))
    return dict(ended[0].body) if ended and ended[0].seq > begun.seq else None


def _result(
    connection: Connection, work: Work, zero_seconds: float, seconds: Mapping[str, float], now: float
) -> dict[str, Any]:
    place = telemetry.current()
    plan, taken = work.plan, seconds[work.plan.recipe.steps[-1]]
    measured = {
        # After a crash the clock of the record tells how long it took in all.
        "duration": max(taken, now - work.begun.at),
        "zero_within": zero_seconds,
        "accuracy": accuracy(list(work.found.values())),
        # Whoever changes the champion changes it for everybody.
        "impact": 100.0 if plan.current != plan.target else exposed_share(connection, plan.run_id),
    }
    asked = work.experiment.rollback if work.experiment else Restoration()
    return plan.to_dict() | {
        "key": work.order.key,
        "started": work.begun.seq,
        "trace_id": place.trace_id if place else None,
        "recipe": plan.recipe.to_dict(),
        "seconds": {name: round(value, 3) for name, value in seconds.items()}
        | {"zero_exposure": round(zero_seconds, 3)},
        "objectives": judged(asked, measured),
        "found": {name: dict(found) for name, found in work.found.items()},
        "problems": [str(found["problem"]) for found in work.found.values() if found.get("problem")],
    }
