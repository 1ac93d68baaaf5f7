"""Decides where a rollback leads, and says why, before anything is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import NoPreviousVersion, NoSuchVersion
from understudy.registry import CHAMPION, Registry
from understudy.store import exposures, ledger, runs

__all__ = ["Plan", "finished", "resolve", "unfinished"]

_CHAMPION_CHANGES = ("champion.promoted", "champion.restored", "champion.adopted")


@dataclass(frozen=True)
class Plan:
    """Where a rollback leads.

    Attributes:
        model: The model.
        current: Champion when the plan was made.
        target: Version that will be champion afterwards.
        taken_back: Version that loses: the exposed challenger or the present champion.
        run_id: The run that is ended by it, if one is on.
        why: How the target was found.
    """

    model: str
    current: str
    target: str
    taken_back: str | None
    run_id: str | None
    why: str

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-safe data."""
        return dict(self.__dict__)


def resolve(connection: Connection, registry: Registry, model: str, target_version: str | None) -> Plan:
    """Find the version to go back to.

    Args:
        connection: Any transaction on the store.
        registry: MLflow's registry.
        model: The model.
        target_version: A version that somebody chose, or None.

    Raises:
        NoSuchVersion: The model or the chosen version does not exist, or no champion is known.
        NoPreviousVersion: There is nothing to go back to.
    """
    run = runs.active(connection, model)
    served = exposures.find(connection, model)
    current = registry.alias(model, CHAMPION) or (served.champion if served else None)
    if current is None:
        raise NoSuchVersion(
            f"No version of {model} has the alias {CHAMPION!r} and the store does not know the model, so there is nothing "
            "to roll back. Set the alias on the version that should serve."
        )
    run_id = run.run_id if run else None
    if target_version is not None:
        chosen = registry.version(model, target_version).version
        taken = run.version if run else (current if current != chosen else None)
        return Plan(model, current, chosen, taken, run_id, "It was named by whoever asked for the rollback.")
    if run:
        why = f"Run {run.run_id} is on; its rollback point is the champion it started from."
        return Plan(model, current, run.champion, run.version, run_id, why)
    target, why = _previous(connection, registry, model, current)
    return Plan(model, current, target, current, None, why)


def _previous(connection: Connection, registry: Registry, model: str, current: str) -> tuple[str, str]:
    change = _last_change(connection, model)
    if change and change.action == "champion.restored" and change.body["champion"] == current:
        raise NoPreviousVersion(
            f"Champion {current} of {model} was itself reached by a rollback from {change.body['before']}. Going further "
            "back is never guessed: name `target_version`."
        )
    if change and change.body["champion"] == current and change.body.get("before"):
        return str(
            change.body["before"]
        ), f"The ledger names it as champion before {current} (entry {change.seq})."
    earlier = [
        item
        for item in registry.versions(model)
        if int(item.version) < int(current) and item.status == "READY"
    ]
    if not earlier:
        raise NoPreviousVersion(
            f"Version {current} of {model} is the first READY version, so there is none to go back to. Register a good "
            "version and name it as `target_version`."
        )
    return earlier[-1].version, f"The ledger is silent; it is the highest READY version below {current}."


def _last_change(connection: Connection, model: str) -> ledger.Entry | None:
    changes = [
        entry for entry in ledger.entries(connection, model=model) if entry.action in _CHAMPION_CHANGES
    ]
    return changes[-1] if changes else None


def finished(connection: Connection, model: str, key: str) -> Mapping[str, Any] | None:
    """Return what a rollback of this key came to, if it was carried out before."""
    for entry in ledger.entries(connection, model=model):
        if entry.action == "rollback.finished" and entry.body.get("key") == key:
            return dict(entry.body)
    return None


def unfinished(connection: Connection, model: str) -> Plan | None:
    """Return the plan of a rollback that was started and not finished.

    A run that was started since then, or a store that was put back, shows that somebody carried on from there: the old plan
    leads nowhere any more.
    """
    plan = None
    for entry in ledger.entries(connection, model=model):
        if entry.action == "rollback.started":
            plan = Plan(**entry.body["plan"])
        elif entry.action in ("rollback.finished", "run.started", "exposure.reset"):
            plan = None
    return plan
