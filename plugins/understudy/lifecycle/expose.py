"""Raises exposure stage by stage, concludes a stage, and takes exposure back when anything goes wrong."""

from __future__ import annotations

from typing import Any

from understudy import gateways
from understudy.errors import BadParameter, GatewayMismatch, NoSuchRun, StaleGeneration, Unreachable
from understudy.lifecycle import drilled
from understudy.lifecycle.exposed import drop, stand_by
from understudy.points import readiness
from understudy.policy import Kind
from understudy.registry import CHALLENGER
from understudy.session import Passage, session
from understudy.spec import reach_of
from understudy.store import exposures, records, runs
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict

__all__ = ["abort", "conclude_stage", "raise_exposure"]

_BEFORE_EXPOSURE = ("preregister", "check_data", "evaluate", "shadow")
"""Steps whose newest verdict must be PASS before anybody is exposed, and so must those of the spec's trial."""


def raise_exposure(run_id: str, stage: int) -> dict[str, Any]:
    """Expose a run at a stage, once everything before it passed and every gateway follows.

    Raises:
        BadParameter: The ladder has no such stage.
        StaleGeneration: The run may not raise exposure, or the stage before did not pass.
        NotDrilled: The stage exposes more units than the spec allows without a drill that passed lately.
        NoWayBack: The run's rollback point does not lead back any more.
        GatewayMismatch: A gateway does not follow; exposure is back at zero.
        Unreachable: A gateway does not answer; exposure is back at zero.
    """
    passage = session().passage(run_id)
    doors, experiment = passage.session, passage.experiment
    _refuse_without_pass(passage, stage)
    with doors.store.read() as connection:
        drilled.require(connection, experiment, doors.store.clock(), stage)
    readiness.require(doors, run_id)
    percent, rings = reach_of(experiment.stages, stage)
    exposures.take_over_orders(doors.store, doors.settings)
    if passage.run.state is runs.RunState.PREPARING:
        # The lease begins with the exposure, and must not run out while a slow machine still loads the challenger.
        stand_by(passage)
    with doors.store.write() as connection:
        readiness.require_fresh(connection, run_id, doors.store.clock())
        raised = exposures.raise_to(
            connection,
            run_id,
            stage,
            percent,
            experiment.lease,
            rings=rings.items(),
            at=doors.store.clock(),
        )
    exposures.publish_flags(doors.store, doors.settings)
    try:
        gateways.wait_until_followed(doors.settings.gateway_urls, raised)
    except (GatewayMismatch, Unreachable) as error:
        drop(passage, str(error))
        raise
    return {
        "run_id": run_id,
        "stage": stage,
        "percent": percent,
        "rings": dict(raised.rings),
        "generation": raised.generation,
    }


def _refuse_without_pass(passage: Passage, stage: int) -> None:
    count = len(passage.experiment.stages)
    if not 1 <= stage <= count:
        raise BadParameter(f"Run {passage.run.run_id} has stages 1 to {count}, and {stage} is none of them.")
    first = (*_BEFORE_EXPOSURE, *passage.experiment.trial.steps)
    for before in first if stage == 1 else (f"stage_{stage - 1}",):
        verdict = passage.previous(before)
        if verdict is None or not verdict.passed:
            found = "no verdict" if verdict is None else verdict.outcome.value
            raise StaleGeneration(
                f"Run {passage.run.run_id} may not enter stage {stage}: {before} has {found}. Only PASS raises exposure."
            )


def conclude_stage(run_id: str, stage: int) -> dict[str, Any]:
    """Write the last look of a stage to MLflow and stop the run unless it was a PASS.

    Raises:
        StepNotPassed: The stage did not pass.
    """
    passage = session().passage(run_id)
    step = f"stage_{stage}"
    with passage.session.store.read() as connection:
        looks = [item for item in records.verdicts_of(connection, run_id, step) if item.is_look]
    if not looks:
        nothing = Verdict(
            Outcome.ERROR, "no_look", f"Stage {stage} ended without a single look at the evidence."
        )
        return passage.conclude(step, nothing, StepRecord(), stage=stage)
    decided = [seen for seen in looks if seen.decision != Kind.HOLD.value]
    last = (decided or looks)[-1]
    metrics: dict[str, float] = {"looks": float(len(looks))}
    for part in last.verdict.parts:
        if part.cohort == "all" and part.metric and isinstance(part.evidence.get("estimate"), float):
            metrics[f"{part.metric}.harm"] = part.evidence["estimate"]
    reached = passage.experiment.stages[stage - 1]
    record = StepRecord(
        metrics=metrics,
        params={"percent": reached.percent, "reach": reached.shown, "decision": last.decision},
    )
    return passage.conclude(step, last.verdict, record, stage=stage, decision=last.decision)


def abort(key: str, reason: str) -> dict[str, Any]:
    """Take a run's exposure to zero at once; safe to repeat.

    Args:
        key: The run's id or the key it was started with.
        reason: Why.

    Returns:
        ``rollback_needed``: whether anybody was exposed or the registry was moved; with ``model``, ``reason`` and
        ``target_version``, the champion that the run started from.
    """
    doors = session()
    try:
        passage = doors.passage_of(key)
    except NoSuchRun:
        return {"rollback_needed": False, "model": None, "run_id": None, "reason": reason}
    run = passage.run
    why = _last_refusal(passage) or reason
    answer = {"model": run.model, "run_id": run.run_id, "reason": why, "target_version": run.champion}
    if run.state is runs.RunState.FAILED:
        # A repeat after MLflow was out of reach: the run has ended, its alias may still be there.
        doors.registry.delete_alias(run.model, CHALLENGER, only_if=run.version)
    if run.state.terminal:
        return answer | {"rollback_needed": False}
    if run.state is runs.RunState.PREPARING:
        with doors.store.write() as connection:
            now = doors.store.clock()
            runs.end(connection, run, runs.RunState.FAILED, ending=why, actor="understudy", at=now)
            exposures.drop(connection, run.model, actor="understudy", reason=why, at=now)
        exposures.publish_flags(doors.store, doors.settings)
        doors.registry.delete_alias(run.model, CHALLENGER, only_if=run.version)
        return answer | {"rollback_needed": False}
    drop(passage, why)
    return answer | {"rollback_needed": True}


def _last_refusal(passage: Passage) -> str | None:
    """Return why the run could not go on, in the words of the last verdict that was not a PASS."""
    with passage.session.store.read() as connection:
        recorded = records.verdicts_of(connection, passage.run.run_id, newest=1)
    return None if not recorded or recorded[0].verdict.passed else recorded[0].verdict.sentence
