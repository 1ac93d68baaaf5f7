"""Carries a rollback out: every step checks first, may be repeated, and the end is read back and proven."""

from __future__ import annotations

import time
from typing import Any

from understudy import gateways, telemetry
from understudy.errors import BadParameter
from understudy.lifecycle.session import Session, session
from understudy.registry import CHALLENGER
from understudy.rollback.plan import Plan, finished, resolve, unfinished
from understudy.spec import Experiment
from understudy.store import exposures, ledger, runs

__all__ = ["execute"]


def execute(
    model: str, reason: str, actor: str, key: str, target_version: str | None = None, dry_run: bool = False
) -> dict[str, Any]:
    """Take a model back to its previous registered version.

    Exposure goes to zero before anything else is asked or resolved, so that an unreachable registry cannot keep a
    harmful version in front of users. A rollback that ends a run belongs to the run's trace and is linked with the work
    under way here; without a run it is part of that work.

    Args:
        model: Registered model name.
        reason: Why; it goes into the ledger.
        actor: Who asked.
        key: Idempotency key: a repeated call with it returns the first result.
        target_version: A version to go to instead of the previous one.
        dry_run: Only say what would be done.

    Returns:
        The plan with the measured seconds of each step, and the ``trace_id``.

    Raises:
        UnderstudyError: With the cause and the fix; exposure is at zero all the same.
    """
    if not reason.strip():
        raise BadParameter(
            "A rollback needs a reason, and it is empty. Say what was seen, for the people who read the ledger."
        )
    # A shell or a form may hand over half a character; that must not stop a rollback at the ledger.
    reason = reason.encode(errors="replace").decode()
    doors = session()
    with doors.store.read() as connection:
        done = finished(connection, model, key)
        run = runs.active(connection, model)
    if done is not None:
        return dict(done)
    if dry_run:
        with doors.store.read() as connection:
            return resolve(connection, doors.registry, model, target_version).to_dict() | {"dry_run": True}
    of_run = telemetry.parse(run.traceparent if run else None)
    with telemetry.span(
        "rollback",
        parent=of_run,
        caused_by=telemetry.current() if of_run else None,
        attributes={"understudy.model": model},
        flush=True,
    ):
        return _carry_out(doors, model, reason, actor, key, target_version)


def _carry_out(
    doors: Session, model: str, reason: str, actor: str, key: str, target_version: str | None
) -> dict[str, Any]:
    started = time.monotonic()
    run = _stop_exposure(doors, model, reason, actor)
    seconds = {"zero_exposure": time.monotonic() - started}
    plan = _intend(doors, model, target_version, reason, actor, key)
    _restore_registry(doors, plan, run)
    seconds["registry"] = time.monotonic() - started
    served = _restore_serving(doors, plan)
    gateways.wait_until_followed(doors.settings.gateway_urls, served)
    seconds["verified"] = time.monotonic() - started
    return _close(doors, plan, reason, actor, key, seconds)


def _stop_exposure(doors: Session, model: str, reason: str, actor: str) -> runs.Run | None:
    """Send everybody to the champion and mark the run, so that it can never raise exposure again."""
    with doors.store.write() as connection:
        now = doors.store.clock()
        run = runs.active(connection, model)
        if run:
            runs.set_state(connection, run.run_id, runs.RunState.ROLLING_BACK, now)
        if exposures.find(connection, model):
            exposures.drop(connection, model, actor=actor, reason=reason, at=now)
    exposures.publish_flags(doors.store, doors.settings)
    return run


def _intend(
    doors: Session, model: str, target_version: str | None, reason: str, actor: str, key: str
) -> Plan:
    """Write the plan down before the registry is touched, or join the plan of a rollback that did not finish.

    Without this a repeat after a crash would look at a half-moved registry and go one version too far back.
    """
    with doors.store.read() as connection:
        plan = unfinished(connection, model)
    if plan is not None and target_version in (None, plan.target):
        return plan
    with doors.store.read() as connection:
        plan = resolve(connection, doors.registry, model, target_version)
    with doors.store.write() as connection:
        ledger.append(
            connection,
            at=doors.store.clock(),
            actor=actor,
            action="rollback.started",
            model=model,
            run_id=plan.run_id,
            reason=reason,
            body={"key": key, "plan": plan.to_dict()},
        )
    return plan


def _restore_registry(doors: Session, plan: Plan, run: runs.Run | None) -> None:
    move_stage = bool(run and Experiment.model_validate(run.spec).registry.move_stage) or _uses_stages(
        doors, plan.model
    )
    doors.registry.make_champion(plan.model, plan.target, move_stage=move_stage)
    if plan.taken_back and plan.taken_back != plan.target:
        doors.registry.delete_alias(plan.model, CHALLENGER, only_if=plan.taken_back)
        if move_stage:
            doors.registry.archive(plan.model, plan.taken_back)


def _uses_stages(doors: Session, model: str) -> bool:
    """Tell whether the legacy stages of a model are in use, from the registry itself."""
    return any(version.stage == "Production" for version in doors.registry.versions(model))


def _restore_serving(doors: Session, plan: Plan) -> Any:
    with doors.store.write() as connection:
        now = doors.store.clock()
        if exposures.find(connection, plan.model) is None:
            exposures.adopt(connection, plan.model, plan.target, actor="understudy", at=now)
        served = exposures.set_champion(connection, plan.model, plan.target, at=now)
    exposures.publish_flags(doors.store, doors.settings)
    return served


def _close(
    doors: Session, plan: Plan, reason: str, actor: str, key: str, seconds: dict[str, float]
) -> dict[str, Any]:
    place = telemetry.current()
    result = plan.to_dict() | {
        "key": key,
        "trace_id": place.trace_id if place else None,
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }
    with doors.store.write() as connection:
        now = doors.store.clock()
        served = exposures.find(connection, plan.model)
        if plan.target != plan.current:
            ledger.append(
                connection,
                at=now,
                actor=actor,
                action="champion.restored",
                model=plan.model,
                run_id=plan.run_id,
                reason=reason,
                body={
                    "champion": plan.target,
                    "before": plan.current,
                    "why": plan.why,
                    "generation": served.generation if served else None,
                },
            )
        if plan.run_id:
            run = runs.get(connection, plan.run_id)
            ending = f"Rolled back at stage {run.stage} to version {plan.target}: {reason}"
            runs.end(connection, run, runs.RunState.ROLLED_BACK, ending=ending, actor=actor, at=now)
        ledger.append(
            connection,
            at=now,
            actor=actor,
            action="rollback.finished",
            model=plan.model,
            run_id=plan.run_id,
            reason=reason,
            body=result,
        )
    return result
