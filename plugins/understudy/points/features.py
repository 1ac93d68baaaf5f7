"""Feature sets: what a version needs is registered under a name, and one of them is active for each model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import Connection

from understudy.errors import BadParameter, DataMissing, FeatureSetMismatch
from understudy.exposure import Exposure
from understudy.points.doors import Doors, snapshots_of
from understudy.registry import FEATURE_SET_TAG, ModelFacts, Registry
from understudy.scoring import read_dataset
from understudy.store import exposures, feature_sets, ledger
from understudy.store.feature_sets import FeatureSet

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["activate", "of_version", "part", "register"]

_NAME_MAX = 100
"""As long as the store's column."""


def register(
    doors: Doors, model: str, name: str, version: str, transformation: Path, rows: Path, actor: str
) -> FeatureSet:
    """Register the columns of a version as a feature set, and keep what makes them and rows of it; safe to repeat.

    Args:
        doors: The installation.
        model: Registered model name.
        name: The name of the set, as the version's tag will have it.
        version: A version with the columns of the set in its signature.
        transformation: The file that makes the features.
        rows: Parquet file of rows that it made.
        actor: Who does it.

    Raises:
        BadParameter: The name is empty or too long for the store.
        DataMissing: A file cannot be read, or has no rows.
        FeatureSetMismatch: The rows are not of this set, or another set is registered under that name.
        NoSuchVersion: The registry has no such version.
        SnapshotBroken: A file cannot be kept.
    """
    if not transformation.is_file():
        raise DataMissing(
            f"The transformation {transformation} cannot be read. Name the file that makes the features."
        )
    if not name.strip() or len(name) > _NAME_MAX:
        raise BadParameter(
            f"A feature set needs a name of 1 to {_NAME_MAX} characters for the tag {FEATURE_SET_TAG}, and {name[:20]!r} has "
            f"{len(name.strip())}. Give it another one."
        )
    facts = doors.registry.as_found(model, version)
    try:
        made = read_dataset(rows, rows.name)
    except DataMissing as error:
        raise DataMissing(
            f"{rows} is no readable Parquet file with rows. Name one that the transformation made."
        ) from error
    _refuse_other_rows(facts, made, f"{rows} and version {version} of {model}")
    kept = snapshots_of(doors)
    columns = tuple(facts.inputs.items())
    wanted = FeatureSet(model, name, columns, kept.keep_file(transformation), kept.keep_file(rows))
    with doors.store.write() as connection:
        return feature_sets.register(connection, wanted, actor=actor, at=doors.store.clock())


def of_version(
    connection: Connection, registry: Registry, model: str, version: str, facts: ModelFacts
) -> FeatureSet | None:
    """Return the feature set that a version names in its tag; none where it has no tag.

    Args:
        connection: Any transaction.
        registry: MLflow's registry.
        model: Registered model name.
        version: The version.
        facts: What is known of its files.

    Raises:
        FeatureSetMismatch: No such set is registered, or its columns are not those of the version's signature.
    """
    name = registry.version(model, version).tags.get(FEATURE_SET_TAG)
    if name is None:
        return None
    known = feature_sets.every(connection, model)
    found = next((item for item in known if item.name == name), None)
    if found is None:
        raise FeatureSetMismatch(
            f"Version {version} of {model} names feature set {name!r} in its tag {FEATURE_SET_TAG}, and registered are "
            f"{', '.join(item.name for item in known) or 'none'}. Register it with `understudy features register`, or correct "
            "the tag."
        )
    if dict(found.columns) != dict(facts.inputs):
        odd = sorted(set(found.columns) ^ set(facts.inputs.items()))
        raise FeatureSetMismatch(
            f"Version {version} of {model} names feature set {name!r}, but its signature differs in "
            f"{', '.join(sorted({column for column, _ in odd}))}. Set the tag of the set that it was trained on, or log it "
            "with the columns of this one."
        )
    return found


def activate(
    connection: Connection,
    model: str,
    name: str | None,
    *,
    actor: str,
    reason: str,
    run_id: str | None,
    at: float,
    challenger: str | None = None,
) -> Exposure:
    """Make a feature set the one that requests must carry; safe to repeat.

    The change is a new generation of the model's exposure. Gateways follow once the flag document is published, together
    with whatever else is changed in the same transaction.

    Args:
        connection: A write transaction.
        model: Registered model name.
        name: A registered set; None where the version that is served names none.
        actor: Who does it.
        reason: Why, for the ledger.
        run_id: The run concerned, if one is.
        at: Unix seconds.
        challenger: The set with which a version is admitted that is to be tried beside the champion.

    Returns:
        What the model serves now.

    Raises:
        FeatureSetMismatch: No such set is registered.
        StoreError: The store does not know the model.
    """
    for wanted in filter(None, (name, challenger)):
        if feature_sets.find(connection, model, wanted) is None:
            raise FeatureSetMismatch(
                f"Model {model} has no feature set {wanted!r}, so it cannot be made active. Register it with `understudy "
                "features register`."
            )
    before = exposures.find(connection, model)
    changed = exposures.set_feature_sets(connection, model, name, challenger, at=at)
    if before is not None and before.generation != changed.generation:
        ledger.append(
            connection,
            at=at,
            actor=actor,
            action="feature_set.activated",
            model=model,
            run_id=run_id,
            reason=reason,
            body={
                "feature_set": name,
                "challenger": challenger,
                "before": before.feature_set,
                "generation": changed.generation,
            },
        )
    return changed


def part(chosen: FeatureSet | None) -> dict[str, Any]:
    """Describe a feature set for a manifest."""
    if chosen is None:
        return {"name": None, "columns": {}, "transformation": None, "snapshot": None}
    return {
        "name": chosen.name,
        "columns": {name: [number, kind] for number, (name, kind) in enumerate(chosen.columns)},
        "transformation": chosen.transformation,
        "snapshot": chosen.snapshot,
    }


def _refuse_other_rows(facts: ModelFacts, rows: pd.DataFrame, who: str) -> None:
    """Refuse rows that lack a column of a signature, or have it in another type."""
    from pandas.api import types

    fits: Mapping[str, Callable[[Any], bool]] = {
        "boolean": types.is_bool_dtype,
        "string": lambda kind: types.is_object_dtype(kind) or types.is_string_dtype(kind),
        "datetime": types.is_datetime64_any_dtype,
        **dict.fromkeys(("integer", "long", "float", "double"), types.is_numeric_dtype),
    }
    odd = []
    for column, kind in facts.inputs.items():
        if column not in rows.columns:
            odd += [f"{column} is missing"] if column in facts.required else []
        elif not fits.get(kind, lambda _: True)(rows[column].dtype):
            odd.append(f"{column} is {rows[column].dtype} and not {kind}")
    if odd:
        raise FeatureSetMismatch(
            f"{who} are not of one feature set: {', '.join(odd)}. Name rows that the transformation made for this version."
        )
