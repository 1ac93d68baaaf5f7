"""What the steps of an exposed run share: taking it to zero, and the cohorts it is judged by."""

from __future__ import annotations

from understudy.lifecycle.session import Passage
from understudy.store import exposures, runs

__all__ = ["drop", "registered_cohorts"]


def drop(passage: Passage, reason: str) -> None:
    """Take a run's exposure to zero and mark it as on its way back; safe to repeat."""
    doors, run = passage.session, passage.run
    with doors.store.write() as connection:
        now = doors.store.clock()
        runs.set_state(connection, run.run_id, runs.RunState.ROLLING_BACK, now)
        current = exposures.find(connection, run.model)
        if current and current.run_id == run.run_id:
            exposures.drop(connection, run.model, actor="understudy", reason=reason, at=now)
    exposures.publish_flags(doors.store, doors.settings)


def registered_cohorts(passage: Passage) -> tuple[str, ...]:
    """Return the cohorts that were registered before exposure; only they are judged one by one."""
    registered = passage.previous("preregister")
    return tuple(registered.evidence["cohorts"]) if registered else ()
