"""The feature sets of each model: which columns a version needs, and what makes them. A registered one does not change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import FeatureSetMismatch
from understudy.store import ledger, schema

__all__ = ["FeatureSet", "every", "find", "register"]


@dataclass(frozen=True)
class FeatureSet:
    """One version of a model's features.

    Attributes:
        model: Registered model name.
        name: What versions of the model call it in their tag.
        columns: Name and type of each column, in the order of the signature.
        transformation: SHA-256 of whatever makes the features.
        snapshot: SHA-256 of rows that it made, as a Parquet file.
    """

    model: str
    name: str
    columns: tuple[tuple[str, str], ...]
    transformation: str
    snapshot: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return {**self.__dict__, "columns": [list(column) for column in self.columns]}


def find(connection: Connection, model: str, name: str) -> FeatureSet | None:
    """Return a feature set, if it is registered."""
    return next((item for item in every(connection, model) if item.name == name), None)


def every(connection: Connection, model: str) -> list[FeatureSet]:
    """Return the feature sets of a model in the order in which they were registered."""
    table = schema.feature_sets
    query = sa.select(table).where(table.c.model == model).order_by(table.c.at, table.c.name)
    return [
        FeatureSet(
            row.model,
            row.name,
            tuple((str(name), str(kind)) for name, kind in row.columns),
            row.transformation,
            row.snapshot,
        )
        for row in connection.execute(query)
    ]


def register(connection: Connection, wanted: FeatureSet, *, actor: str, at: float) -> FeatureSet:
    """Register a feature set; safe to repeat.

    Args:
        connection: A write transaction.
        wanted: The feature set.
        actor: Who does it.
        at: Unix seconds.

    Raises:
        FeatureSetMismatch: One of that name is registered and is another.
    """
    known = find(connection, wanted.model, wanted.name)
    if known == wanted:
        return known
    if known is not None:
        raise FeatureSetMismatch(
            f"Feature set {wanted.name!r} of {wanted.model} is registered with {len(known.columns)} columns, transformation "
            f"{known.transformation[:12]} and rows {known.snapshot[:12]}, and this one differs. A registered set does not "
            "change: choose another name."
        )
    connection.execute(schema.feature_sets.insert().values(**wanted.to_dict(), actor=actor, at=at))
    ledger.append(
        connection,
        at=at,
        actor=actor,
        action="feature_set.registered",
        model=wanted.model,
        reason=f"Feature set {wanted.name} with {len(wanted.columns)} columns.",
        body=wanted.to_dict(),
    )
    return wanted
