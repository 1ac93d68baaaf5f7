"""The proof: the version's rollback point is whole, and the version answers the recorded probe batch as it did."""

from __future__ import annotations

from understudy.points import point as points
from understudy.points import readiness
from understudy.rollback.steps.step import Found, Step, Work

__all__ = ["STEP"]


def _nothing(work: Work) -> None:
    """Change nothing: the step only looks."""


def _verify(work: Work) -> Found:
    plan = work.plan
    with work.doors.store.read() as connection:
        point = points.newest(connection, plan.model, plan.target)
    if point is None:
        return {"note": f"No probe of version {plan.target} is on record, so its answers are not compared."}
    found = readiness.check(work.doors, point.run_id)
    told = {"parts": 1, "restored": int(found.ready), "run_id": point.run_id}
    return told if found.ready else told | {"problem": found.sentence}


STEP = Step("probe", 15.0, lambda work: True, _nothing, _verify)
