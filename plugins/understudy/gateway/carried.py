"""Whether a request carries the feature set that is in force, column by column and cell by cell, before any model is asked.

MLflow's parser turns ``"7"`` into 7 and cuts 5.5 down to 5 where a signature asks for a whole number. To somebody who merely
scores that is a service; of features that were declared it is a mistake that nobody would ever notice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from understudy.gateway.batch import Batch
from understudy.gateway.protocol import bad_request

__all__ = ["require_carried"]

_FITS: Mapping[str, Callable[[Any], bool]] = {
    "boolean": lambda cell: type(cell) is bool,
    "string": lambda cell: type(cell) is str,
    **dict.fromkeys(("float", "double"), lambda cell: type(cell) in (int, float)),
    **dict.fromkeys(
        ("integer", "long"),
        lambda cell: type(cell) is int or (type(cell) is float and (cell.is_integer() or cell != cell)),
    ),
}
"""Which cells a type takes; of other types MLflow's own check has to do. What is missing is MLflow's business, too."""

_KINDS = {
    bool: "a truth value",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "an object",
}


def require_carried(batch: Batch, schema: Any, feature_set: str) -> None:
    """Refuse a request that lacks a column of the feature set, or has a cell of another type in it.

    Args:
        batch: The request; one whose rows cannot be told apart is left to MLflow's check.
        schema: The champion's input schema, which has the columns of the set.
        feature_set: Name of the set, for the message.

    Raises:
        MlflowException: It does not carry the set. The message names the column and never a value.
    """
    if not batch.splittable or schema is None or not schema.has_input_names():
        return
    for column in schema.inputs:
        cells = batch.column(column.name)
        if cells is None and column.required:
            raise bad_request(
                f"The request does not carry feature set {feature_set!r}: column {column.name} is missing."
            )
        kind = str(column.type).removeprefix("DataType.")
        fits = _FITS.get(kind) if batch.typed else None
        if cells is None or fits is None:
            continue
        for row, cell in enumerate(cells):
            if cell is not None and not fits(cell):
                found = _KINDS.get(type(cell), type(cell).__name__)
                raise bad_request(
                    f"The request does not carry feature set {feature_set!r}: column {column.name} is {found} in row {row}, and "
                    f"must be {kind}."
                )
