"""Rollbacks that were asked for and have not ended: until then nothing new begins on their model."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from understudy.errors import RollbackUnfinished
from understudy.store import ledger, outbox

__all__ = ["ENDINGS", "FINISH", "reason", "refuse"]

FINISH = "finish_rollback"
"""Kind of the errand that stands for the rest of a rollback; its body is the order."""

ENDINGS = ("rollback.finished", "rollback.abandoned", "run.started", "exposure.reset")
"""Entries of the ledger after which a rollback that was begun before is over.

A store that was put back, or a run of the time when runs did not wait, shows that somebody carried on from there.
"""


def refuse(connection: Connection, model: str) -> None:
    """Refuse to begin anything on a model whose rollback is on: it would be judged against a champion that is going away.

    Args:
        connection: The write transaction in which something would begin.
        model: The model.

    Raises:
        RollbackUnfinished: A rollback was begun, or waits for a server.
    """
    asked = reason(connection, model)
    if asked is not None:
        raise RollbackUnfinished(
            f"A rollback of {model} has not ended ({asked}). Nothing new begins on a model until it is back: finish it with "
            f"`understudy rollback --resume` or `understudy rollback {model} --reason ...`, then start again."
        )


def reason(connection: Connection, model: str) -> str | None:
    """Return why a rollback was asked for that was begun, or waits for a server; None where there is none.

    Args:
        connection: Any transaction.
        model: The model.
    """
    last = ledger.entries(connection, model=model, newest=1, actions=("rollback.started", *ENDINGS))
    if last and last[0].action == "rollback.started":
        return last[0].reason
    waits = [errand for errand in outbox.pending(connection, FINISH) if errand.body["model"] == model]
    return str(waits[0].body["reason"]) if waits else None
