"""One look of the guard: read the evidence, decide, record, act.

`look` is called every few seconds. It may be repeated or run twice at once: the store's transactions decide who was
first. Everything that a decision was made from is kept, so that it can be made again (`reproduce`).
"""

from __future__ import annotations

from typing import Any

from understudy import gateways, policy
from understudy.errors import GatewayMismatch, Unreachable
from understudy.lifecycle.evidence import gather
from understudy.lifecycle.exposed import drop, registered_cohorts
from understudy.lifecycle.provenance import core_digest
from understudy.policy import Decision, History, Kind, Look
from understudy.session import Passage, session
from understudy.spec import Budget
from understudy.store import exposures, records, runs
from understudy.verdicts import Outcome, Verdict

__all__ = ["look"]


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
    seen = _see(passage, stage)
    decision = policy.decide(passage.experiment, seen)
    decided = decision
    if decision.kind is not Kind.ROLL_BACK and not _keep_exposed(passage, decision, seen.now):
        sentence = "The exposure lapsed or was taken back by somebody else, so the stage has ended."
        decision = Decision(Kind.ROLL_BACK, Verdict(Outcome.FAIL, "lease_lapsed", sentence))
    elif decision.contain:
        decision = _contain(passage, decision, seen.now)
    _record(passage, seen, decision, decided)
    if decision.kind is Kind.ROLL_BACK:
        drop(passage, decision.verdict.sentence)
    return _answer(decision)


def _see(passage: Passage, stage: int) -> Look:
    doors, run = passage.session, passage.run
    now = doors.store.clock()
    with doors.store.read() as connection:
        exposed = exposures.find(connection, run.model)
        before = records.verdicts_of(connection, run.run_id, f"stage_{stage}", newest=1)
    contained = exposed.contained if exposed and exposed.run_id == run.run_id else ()
    cohorts = registered_cohorts(passage)
    return Look(
        evidence=gather(passage, now, contained),
        stage=stage,
        seconds_in_stage=now - (run.stage_entered_at or now),
        now=now,
        cohorts=tuple(dict.fromkeys((*cohorts, *contained))),
        contained=contained,
        history=_history(passage, before, now),
    )


def _history(passage: Passage, before: list[records.RecordedVerdict], now: float) -> History:
    """Return what the look before this one left behind; a stage begins with what other runs have spent."""
    last = before[0] if before else None
    if last is not None and last.evidence and "next" in last.evidence:
        return History.from_dict(last.evidence["next"])
    budgets = passage.experiment.budgets
    return History(spent_before={budget.metric: _spent_by_others(passage, budget, now) for budget in budgets})


def _spent_by_others(passage: Passage, budget: Budget, now: float) -> float:
    """Return the bad answers that challengers of other runs of the model gave within the budget's window."""
    run, total = passage.run, 0.0
    with passage.session.store.read() as connection:
        for other in runs.since(connection, run.model, now - budget.window):
            if other.run_id == run.run_id:
                continue
            recorded = records.newest_look(connection, other.run_id)
            if recorded is not None and recorded.evidence:
                total += float(recorded.evidence.get("spent", {}).get(budget.metric, 0.0))
    return total


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


def _contain(passage: Passage, decision: Decision, now: float) -> Decision:
    """Send the harmed cohorts back to the champion; if that cannot be done everywhere, the whole run goes back."""
    doors = passage.session
    with doors.store.write() as connection:
        contained = exposures.contain(
            connection, passage.run.run_id, decision.contain, reason=decision.verdict.sentence, at=now
        )
    exposures.publish_flags(doors.store, doors.settings)
    if contained is None:
        sentence = "The exposure lapsed or was taken back by somebody else, so the stage has ended."
        return Decision(Kind.ROLL_BACK, Verdict(Outcome.FAIL, "lease_lapsed", sentence))
    try:
        gateways.wait_until_followed(doors.settings.gateway_urls, contained)
    except (GatewayMismatch, Unreachable) as error:
        sentence = f"{', '.join(decision.contain)} had to go back to the champion, and a gateway does not follow: {error.message}"
        return Decision(Kind.ROLL_BACK, Verdict(Outcome.FAIL, "not_contained", sentence))
    return decision


def _record(passage: Passage, seen: Look, decision: Decision, decided: Decision) -> None:
    """Keep what the decision was made from. Its moments are in the store already, up to the look's number."""
    spent = policy.spending(passage.experiment, seen.evidence.cells, seen.stage)
    kept = {
        "look": seen.to_dict(with_evidence=False),
        "seq": seen.evidence.seq,
        "quality": seen.evidence.quality.to_dict(),
        "core": core_digest(),
        "decided": decided.kind.value,
        "next": decision.history.to_dict(),
        "spent": {item.budget.metric: float(item.service) for item in spent if item.counted},
    }
    with passage.session.store.write() as connection:
        records.record_verdict(
            connection,
            passage.run.run_id,
            f"stage_{seen.stage}",
            policy.record_of(decision),
            stage=seen.stage,
            decision=decision.kind.value,
            evidence=kept,
            at=seen.now,
        )


def _answer(decision: Decision) -> dict[str, Any]:
    return {
        "decision": decision.kind.value,
        "sentence": decision.verdict.sentence,
        "verdict": {**decision.verdict.to_dict(), "parts": []},
    }
