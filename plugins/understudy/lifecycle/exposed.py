"""What the steps around exposure share: a challenger that stands by, taking a run to zero, the cohorts it is judged by."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from understudy import gateways
from understudy.session import Passage
from understudy.store import exposures, runs

__all__ = ["drop", "registered_cohorts", "stand_by", "stand_down"]


def stand_by(passage: Passage, *, mirror: bool = False) -> None:
    """Wait until every gateway has loaded the challenger, which nobody sees yet; take it back where one cannot.

    Args:
        passage: A run that is not exposed yet.
        mirror: Whether the challenger gets copies of requests from then on.

    Raises:
        GatewayMismatch: A gateway does not follow, or cannot load the challenger.
        Unreachable: A gateway does not answer.
    """
    doors = passage.session
    with doors.store.write() as connection:
        waiting = exposures.stand_by(connection, passage.run.run_id, mirror=mirror, at=doors.store.clock())
    exposures.publish_flags(doors.store, doors.settings)
    try:
        gateways.wait_until_followed(doors.settings.gateway_urls, waiting)
    except Exception as error:
        stand_down(passage, str(error))
        raise


def stand_down(passage: Passage, reason: str) -> None:
    """Have the gateways let go of a challenger that stood by; the run may go on."""
    with passage.session.store.write() as connection:
        _to_zero(connection, passage, reason)
    exposures.publish_flags(passage.session.store, passage.session.settings)


def drop(passage: Passage, reason: str) -> None:
    """Take a run's exposure to zero and mark it as on its way back; safe to repeat."""
    doors = passage.session
    with doors.store.write() as connection:
        runs.set_state(connection, passage.run.run_id, runs.RunState.ROLLING_BACK, doors.store.clock())
        _to_zero(connection, passage, reason)
    exposures.publish_flags(doors.store, doors.settings)


def _to_zero(connection: Connection, passage: Passage, reason: str) -> None:
    run = passage.run
    current = exposures.find(connection, run.model)
    if current and current.run_id == run.run_id:
        at = passage.session.store.clock()
        exposures.drop(connection, run.model, actor="understudy", reason=reason, at=at)


def registered_cohorts(passage: Passage) -> tuple[str, ...]:
    """Return the cohorts that were registered before exposure; only they are judged one by one."""
    registered = passage.previous("preregister")
    return tuple(registered.evidence["cohorts"]) if registered else ()
