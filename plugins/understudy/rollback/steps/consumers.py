"""Whoever uses the model downstream is told."""

from __future__ import annotations

from understudy.rollback.consumers import deliver, downstream, put_notices
from understudy.rollback.steps.step import Found, Step, Work
from understudy.store import ledger

__all__ = ["STEP"]

_ACTION = "consumers.listed"


def _listed(work: Work) -> list[dict[str, str]] | None:
    with work.doors.store.read() as connection:
        found = ledger.entries(connection, model=work.plan.model, actions=(_ACTION,))
    ours = [entry for entry in found if entry.body["started"] == work.begun.seq]
    return list(ours[-1].body["consumers"]) if ours else None


def _apply(work: Work) -> None:
    """List them and note what must be sent in one transaction, so that nobody is told twice or never."""
    store, plan = work.doors.store, work.plan
    with store.read() as connection:
        found = downstream(connection, work.doors, plan.model)
    with store.write() as connection:
        now = store.clock()
        noted = ledger.entries(connection, model=plan.model, actions=(_ACTION,))
        if any(entry.body["started"] == work.begun.seq for entry in noted):
            return
        put_notices(connection, plan.model, plan.target, work.order.reason, found, work.begun.seq, at=now)
        ledger.append(
            connection,
            at=now,
            actor="understudy",
            action=_ACTION,
            model=plan.model,
            run_id=plan.run_id,
            reason=f"{len(found)} consumers of {plan.model} are told that version {plan.target} serves again.",
            body={"started": work.begun.seq, "consumers": found},
        )


def _verify(work: Work) -> Found:
    deliver(work.doors)
    return {"consumers": _listed(work) or []}


STEP = Step("consumers", 5.0, lambda work: _listed(work) is not None, _apply, _verify)
