"""Raises exposure stage by stage, looks at the evidence, renews the lease or drops exposure, in one place.

`look` is called every few seconds by the guard. It reads, decides, records and acts, and may be repeated or run twice
at once: the store's transactions decide who was first.
"""

from __future__ import annotations

import logging
from typing import Any

from understudy import gateways, policy
from understudy.errors import GatewayMismatch, NoSuchRun, StaleGeneration, Unreachable
from understudy.events.evidence import EvidenceQuery, MetricQuery, collect
from understudy.lifecycle.session import Passage, session
from understudy.policy import Decision, Kind
from understudy.registry import CHALLENGER
from understudy.stats.evidence import Evidence
from understudy.store import exposures, records, runs
from understudy.tracking import StepRecord
from understudy.verdicts import Outcome, Verdict

__all__ = ["abort", "conclude_stage", "gather", "look", "raise_exposure"]

log = logging.getLogger(__name__)

_BEFORE_EXPOSURE = ("preregister", "check_data", "evaluate", "shadow")
"""Steps whose newest verdict must be PASS before anybody is exposed."""


def raise_exposure(run_id: str, stage: int) -> dict[str, Any]:
    """Expose a run at a stage, once everything before it passed and every gateway follows.

    Raises:
        StaleGeneration: The run may not raise exposure, or the stage before did not pass.
        GatewayMismatch: A gateway does not follow; exposure is back at zero.
        Unreachable: A gateway does not answer; exposure is back at zero.
    """
    passage = session().passage(run_id)
    doors, experiment = passage.session, passage.experiment
    _refuse_without_pass(passage, stage)
    percent = experiment.stages[stage - 1].percent
    with doors.store.write() as connection:
        raised = exposures.raise_to(
            connection, run_id, stage, percent, experiment.lease, at=doors.store.clock()
        )
    exposures.publish_flags(doors.store, doors.settings)
    try:
        gateways.wait_until_followed(doors.settings.gateway_urls, raised)
    except (GatewayMismatch, Unreachable) as error:
        _drop(passage, str(error))
        raise
    return {"run_id": run_id, "stage": stage, "percent": percent, "generation": raised.generation}


def _refuse_without_pass(passage: Passage, stage: int) -> None:
    for before in _BEFORE_EXPOSURE if stage == 1 else (f"stage_{stage - 1}",):
        verdict = passage.previous(before)
        if verdict is None or not verdict.passed:
            found = "no verdict" if verdict is None else verdict.outcome.value
            raise StaleGeneration(
                f"Run {passage.run.run_id} may not enter stage {stage}: {before} has {found}. Only PASS raises exposure."
            )


def look(run_id: str, stage: int) -> dict[str, Any]:
    """Look at the evidence once: renew the lease while it is sound, advance, hold, or drop exposure to zero.

    Args:
        run_id: The run.
        stage: The stage under guard.

    Returns:
        ``decision`` (ADVANCE, HOLD or ROLL_BACK), ``sentence`` and the ``verdict``.
    """
    passage = session().passage(run_id)
    if passage.run.state is not runs.RunState.EXPOSED or passage.run.stage != stage:
        sentence = f"Run {run_id} is {passage.run.state} at stage {passage.run.stage}, so its guard ends."
        return _answer(Decision(Kind.ROLL_BACK, Verdict(Outcome.FAIL, "run_not_exposed", sentence)))
    now = passage.session.store.clock()
    evidence = gather(passage, now)
    decision = policy.judge_stage(
        passage.experiment,
        stage=stage,
        cohorts=_cohorts(passage),
        evidence=evidence,
        seconds_in_stage=now - (passage.run.stage_entered_at or now),
        now=now,
    )
    if decision.kind is not Kind.ROLL_BACK and not _keep_exposed(passage, decision, now):
        sentence = "The exposure lapsed or was taken back by somebody else, so the stage has ended."
        decision = Decision(Kind.ROLL_BACK, Verdict(Outcome.FAIL, "lease_lapsed", sentence))
    _record(passage, stage, decision, evidence, now)
    if decision.kind is Kind.ROLL_BACK:
        _drop(passage, decision.verdict.sentence)
    return _answer(decision)


def _record(passage: Passage, stage: int, decision: Decision, evidence: Evidence, now: float) -> None:
    """Keep the moments behind a decision whole; of a look that only held, their digest."""
    kept = {"digest": evidence.digest} if decision.kind is Kind.HOLD else evidence.to_dict()
    with passage.session.store.write() as connection:
        records.record_verdict(
            connection,
            passage.run.run_id,
            f"stage_{stage}",
            decision.verdict,
            stage=stage,
            decision=decision.kind.value,
            evidence=kept,
            at=now,
        )


def gather(passage: Passage, now: float) -> Evidence:
    """Aggregate the event log of a run into evidence."""
    experiment = passage.experiment
    query = EvidenceQuery(
        model=passage.run.model,
        metrics=tuple(
            MetricQuery(metric.name, metric.kind.value, metric.limit_ms) for metric in experiment.metrics
        ),
        cohorts=experiment.traffic.cohorts,
        maturity=experiment.traffic.maturity,
        shares={number: policy.shares(stage.percent) for number, stage in enumerate(experiment.stages, 1)},
    )
    return collect(passage.session.settings.events_dir, query, passage.run.run_id, now)


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
    record = StepRecord(
        metrics=metrics,
        params={"percent": passage.experiment.stages[stage - 1].percent, "decision": last.decision},
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
    _drop(passage, why)
    return answer | {"rollback_needed": True}


def _last_refusal(passage: Passage) -> str | None:
    """Return why the run could not go on, in the words of the last verdict that was not a PASS."""
    with passage.session.store.read() as connection:
        recorded = records.verdicts_of(connection, passage.run.run_id, newest=1)
    return None if not recorded or recorded[0].verdict.passed else recorded[0].verdict.sentence


def _cohorts(passage: Passage) -> tuple[str, ...]:
    registered = passage.previous("preregister")
    return tuple(registered.evidence["cohorts"]) if registered else ()


def _keep_exposed(passage: Passage, decision: Decision, now: float) -> bool:
    """Renew the lease when the evidence is sound; tell whether the run is still exposed."""
    doors = passage.session
    if not decision.renew_lease:
        with doors.store.read() as connection:
            current = exposures.find(connection, passage.run.model)
        return current is not None and current.run_id == passage.run.run_id and current.live(now)
    with doors.store.write() as connection:
        renewed = exposures.renew(connection, passage.run.run_id, passage.experiment.lease, at=now)
    if renewed is None:
        return False
    exposures.publish_flags(doors.store, doors.settings)
    return True


def _drop(passage: Passage, reason: str) -> None:
    doors, run = passage.session, passage.run
    with doors.store.write() as connection:
        now = doors.store.clock()
        runs.set_state(connection, run.run_id, runs.RunState.ROLLING_BACK, now)
        current = exposures.find(connection, run.model)
        if current and current.run_id == run.run_id:
            exposures.drop(connection, run.model, actor="understudy", reason=reason, at=now)
    exposures.publish_flags(doors.store, doors.settings)


def _answer(decision: Decision) -> dict[str, Any]:
    return {
        "decision": decision.kind.value,
        "sentence": decision.verdict.sentence,
        "verdict": {**decision.verdict.to_dict(), "parts": []},
    }
