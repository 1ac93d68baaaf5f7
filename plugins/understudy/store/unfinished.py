"""Rollbacks that were asked for and have not ended: until then nothing new begins on their model."""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy.engine import Connection

from understudy.errors import RollbackUnfinished
from understudy.store import ledger, outbox

__all__ = ["ENDINGS", "FINISH", "Asked", "asked", "refuse"]

FINISH = "finish_rollback"
"""Kind of the errand that stands for the rest of a rollback; its body is the order."""

ENDINGS = ("rollback.finished", "rollback.abandoned", "run.started", "exposure.reset")
"""Entries of the ledger after which a rollback that was begun before is over.

A store that was put back, or a run of the time when runs did not wait, shows that somebody carried on from there.
"""


class Asked(NamedTuple):
    """A rollback that has not ended.

    Attributes:
        reason: Why it was asked for.
        at: Unix seconds: when it was begun, or noted to be finished later.
        waits: Whether something that does not answer keeps it from going on; else it is under way, or died.
    """

    reason: str
    at: float
    waits: bool


def refuse(connection: Connection, model: str) -> None:
    """Refuse to begin anything on a model whose rollback is on: it would be judged against a champion that is going away.

    Args:
        connection: The write transaction in which something would begin.
        model: The model.

    Raises:
        RollbackUnfinished: A rollback was begun, or waits for a server.
    """
    on = asked(connection, model)
    if on is not None:
        raise RollbackUnfinished(
            f"A rollback of {model} has not ended ({on.reason}). Nothing new begins on a model until it is back: finish it with "
            f"`understudy rollback --resume` or `understudy rollback {model} --reason ...`, then start again."
        )


def asked(connection: Connection, model: str) -> Asked | None:
    """Return the rollback of a model that was begun, or waits for a server; None where there is none.

    Args:
        connection: Any transaction.
        model: The model.
    """
    waits = [errand for errand in outbox.pending(connection, FINISH) if errand.body["model"] == model]
    last = ledger.entries(connection, model=model, newest=1, actions=("rollback.started", *ENDINGS))
    if last and last[0].action == "rollback.started":
        return Asked(last[0].reason, last[0].at, bool(waits))
    return Asked(str(waits[0].body["reason"]), waits[0].at, True) if waits else None
