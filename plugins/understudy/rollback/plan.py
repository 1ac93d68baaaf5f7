"""Decides where a rollback leads and by which recipe, and says why, before anything but exposure is touched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy.engine import Connection

from understudy.errors import BadParameter, NoPreviousVersion, NoSuchVersion
from understudy.points import features
from understudy.points import point as points
from understudy.points.manifest import digest_of
from understudy.registry import CHAMPION, FEATURE_SET_TAG, Registry
from understudy.rollback import recipes
from understudy.rollback.facts import Facts, gather
from understudy.session import Session
from understudy.store import ledger

__all__ = ["Plan", "resolve"]

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
        incident: Kind of incident; it names the recipe.
        told_by: How the kind is known.
        feature_set: The feature set of the target; None where it has none.
    """

    model: str
    current: str
    target: str
    taken_back: str | None
    run_id: str | None
    why: str
    incident: str = "model_regression"
    told_by: str = ""
    feature_set: str | None = None

    @property
    def recipe(self) -> recipes.Recipe:
        """The recipe that is followed."""
        return recipes.named(self.incident)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-safe data; `from_dict` reads it back."""
        return dict(self.__dict__)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Rebuild a plan from :meth:`to_dict`."""
        return cls(**data)


def resolve(
    connection: Connection, doors: Session, model: str, reason: str, target_version: str | None
) -> Plan:
    """Find the version to go back to, and the safest recipe that applies.

    Args:
        connection: Any transaction on the store.
        doors: For the registry.
        model: The model.
        reason: Why a rollback is wanted.
        target_version: A version that somebody chose, or None.

    Raises:
        NoSuchVersion: The model or the target does not exist, or no champion is known.
        NoPreviousVersion: There is nothing to go back to.
        FeatureSetMismatch: The target names a feature set that is not registered or does not fit it.
        BadParameter: The chosen version is what everybody is served already.
    """
    facts = gather(connection, doors, model, reason)
    current = facts.champion or (facts.served.champion if facts.served else None)
    if current is None:
        raise NoSuchVersion(
            f"No version of {model} has the alias {CHAMPION!r} and the store does not know the model, so there is nothing "
            "to roll back. Set the alias on the version that should serve."
        )
    target, why = _target(connection, doors.registry, facts, current, target_version)
    doors.registry.version(model, target)
    taken = facts.run.version if facts.run else (current if current != target else None)
    run_id = facts.run.run_id if facts.run else None
    chosen = _feature_set(connection, doors, model, target)
    return Plan(model, current, target, taken, run_id, why, recipes.pick(facts).kind, facts.told_by, chosen)


def _feature_set(connection: Connection, doors: Session, model: str, target: str) -> str | None:
    """Return the feature set that the target needs: its rollback point says so, else its tag."""
    point = points.newest(connection, model, target)
    if point is not None and digest_of(dict(point.manifest)) == point.digest:
        name: str | None = point.parts["feature_set"]["name"]
        return name
    if FEATURE_SET_TAG not in doors.registry.version(model, target).tags:
        return None
    facts = doors.registry.as_found(model, target)
    found = features.of_version(connection, doors.registry, model, target, facts)
    return found.name if found else None


def _target(
    connection: Connection, registry: Registry, facts: Facts, current: str, target_version: str | None
) -> tuple[str, str]:
    if target_version is not None:
        if not facts.run and facts.champion == target_version == (facts.served or _Nobody).champion:
            raise BadParameter(
                f"Version {target_version} of {facts.model} is the champion already: the registry names it and everybody is "
                "served by it. Name the version to go back to, or none for the one before."
            )
        return target_version, "It was named by whoever asked for the rollback."
    if facts.run:
        run = facts.run
        return run.champion, f"Run {run.run_id} is on; its rollback point is the champion it started from."
    return _previous(connection, registry, facts.model, current)


class _Nobody:
    champion = None


def _previous(connection: Connection, registry: Registry, model: str, current: str) -> tuple[str, str]:
    changes = ledger.entries(connection, model=model, newest=1, actions=_CHAMPION_CHANGES)
    change = changes[0] if changes else None
    if change and change.action == "champion.restored" and change.body["champion"] == current:
        raise NoPreviousVersion(
            f"Champion {current} of {model} was itself reached by a rollback from {change.body['before']}. Going further "
            "back is never guessed: name the version (`--to` of the command, `target_version` of the DAG)."
        )
    if change and change.body["champion"] == current and change.body.get("before"):
        before = str(change.body["before"])
        return before, f"The ledger names it as champion before {current} (entry {change.seq})."
    earlier = [
        item
        for item in registry.versions(model)
        if int(item.version) < int(current) and item.status == "READY"
    ]
    if not earlier:
        raise NoPreviousVersion(
            f"Version {current} of {model} is the first READY version, so there is none to go back to. Register a good "
            "version and name that (`--to` of the command, `target_version` of the DAG)."
        )
    return earlier[-1].version, f"The ledger is silent; it is the highest READY version below {current}."
