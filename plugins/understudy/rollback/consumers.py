"""Who uses a model downstream: declared in the spec, or found in MLflow and Airflow; each is told after a rollback."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import Unreachable
from understudy.rollback.facts import experiment_of
from understudy.session import Session
from understudy.store import ledger, outbox

__all__ = ["deliver", "downstream", "note_dags", "put_notices"]

log = logging.getLogger(__name__)

_NOTICE = "notify_consumer"
_DAGS = "consumers.found"


def downstream(connection: Connection, doors: Session, model: str) -> list[dict[str, str]]:
    """Return who uses a model.

    Args:
        connection: Any transaction.
        doors: For the registry.
        model: The model.

    Returns:
        ``name``, ``contact`` (empty where nobody said) and ``found`` ("spec", "airflow" or "mlflow"), by name.
    """
    experiment = experiment_of(connection, doors, model)
    declared = experiment.consumers if experiment else ()
    found = {item.name: {"name": item.name, "contact": item.contact, "found": "spec"} for item in declared}
    for name in _dags(connection, model):
        found.setdefault(name, {"name": name, "contact": "", "found": "airflow"})
    try:
        for name in doors.registry.consumers(model):
            found.setdefault(name, {"name": name, "contact": "", "found": "mlflow"})
    except Unreachable as error:
        log.error("Consumers of %s that only MLflow knows are not listed: %s", model, error.message)
    return [found[name] for name in sorted(found)]


def note_dags(doors: Session, found: Mapping[str, Sequence[str]]) -> None:
    """Note which DAGs use each model's answers, where that is not what is on record already.

    Args:
        doors: The store.
        found: DAG ids by model; a model that is left out has none any more.
    """
    with doors.store.read() as connection:
        models = {entry.model for entry in ledger.entries(connection, actions=(_DAGS,)) if entry.model}
        wanted = {model: sorted(found.get(model, ())) for model in models | set(found)}
        changed = {model: dags for model, dags in wanted.items() if dags != _dags(connection, model)}
    if not changed:
        return
    with doors.store.write() as connection:
        for model, dags in sorted(changed.items()):
            if dags != _dags(connection, model):
                ledger.append(
                    connection,
                    at=doors.store.clock(),
                    actor="understudy",
                    action=_DAGS,
                    model=model,
                    reason=f"Airflow's assets say who uses {model}: {', '.join(dags) or 'no DAG'}.",
                    body={"dags": dags},
                )


def _dags(connection: Connection, model: str) -> list[str]:
    noted = ledger.entries(connection, model=model, newest=1, actions=(_DAGS,))
    return list(noted[0].body["dags"]) if noted else []


def put_notices(
    connection: Connection,
    model: str,
    target: str,
    reason: str,
    listed: list[dict[str, Any]],
    started: int,
    *,
    at: float,
) -> None:
    """Note that each consumer must be told of a rollback, once.

    Args:
        connection: A write transaction.
        model: The model.
        target: Version that serves now.
        reason: Why it was taken back.
        listed: The consumers, as `downstream` gives them.
        started: Number of the ledger entry that began the rollback.
        at: Unix seconds.
    """
    for consumer in listed:
        body = {"model": model, "version": target, "reason": reason, "consumer": consumer, "started": started}
        outbox.put(connection, _NOTICE, body, at=at)


def deliver(doors: Session) -> None:
    """Tell every consumer who was not told yet; each notice is a line of the log and an entry of the ledger."""
    with doors.store.write() as connection:
        now = doors.store.clock()
        for errand in outbox.pending(connection, _NOTICE):
            body, consumer = errand.body, errand.body["consumer"]
            log.warning(
                "%s (%s): version %s of %s serves again. %s",
                consumer["name"], consumer["contact"] or "no contact", body["version"], body["model"], body["reason"],
            )  # fmt: skip
            ledger.append(
                connection,
                at=now,
                actor="understudy",
                action="consumer.notified",
                model=body["model"],
                reason=f"Version {body['version']} of {body['model']} serves again.",
                body={"consumer": dict(consumer), "started": body["started"]},
            )
            outbox.mark_done(connection, errand, at=now)
