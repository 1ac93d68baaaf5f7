"""The rows of one request, in the form they came in, so that any of them can be handed to any version.

Rows are cut out of the request before they are typed, because each version has its own signature: MLflow's own parser
then reads the piece exactly as it would have read a request with only those rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

if TYPE_CHECKING:
    from understudy.gateway.compiled import Compiled

__all__ = [
    "MOST_COLUMNS",
    "MOST_ROWS",
    "Batch",
    "ModelInput",
    "Rows",
    "bounded",
    "leaves",
    "pick",
    "spellings",
]

MOST_ROWS = 100_000
"""Rows of one request. Each is an event with a line's share of the log, so that rows, not bytes, bound the memory."""

MOST_COLUMNS = 10_000
"""Columns of one request: pandas spends about a kilobyte on each, however short its name."""

Rows = Sequence[int] | None
"""Which rows; ``None`` is all of them, in the form they came in."""


@dataclass(frozen=True)
class ModelInput:
    """What a model's ``predict`` is called with."""

    data: Any
    params: dict[str, Any] | None = None
    unwrapped: bool = False


class Batch(ABC):
    """The rows of one request.

    Attributes:
        size: How many rows, each of which is an event.
        splittable: Whether rows can be told apart, so that each may have its own arm.
        typed: Whether cells come with types of their own; where they are all text, each version's signature says what they are.
    """

    size: int
    splittable: bool = True
    typed: bool = True

    @abstractmethod
    def column(self, name: str) -> list[Any] | None:
        """Return one column's raw values, or nothing where the request has no such column."""

    @abstractmethod
    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        """Return every row as named values, except for some columns."""

    def table(self, without: Collection[str], rows: Rows = None) -> tuple[list[str], Any]:
        """Return some rows as the event log has them: the names of their columns, and one list of values per row.

        A value that a row does not have is nothing. Where no names are known there are no columns, and every row is empty.
        """
        records = pick(self.features(without), rows)
        names = list(dict.fromkeys(name for record in records for name in record))
        return names, [[record.get(name) for name in names] for record in records]

    def rows_for(self, compiled: Compiled, rows: Rows = None) -> Sequence[Sequence[Any]] | None:
        """Return what a compiled version is called with, or nothing where the request is not sure to fit it."""
        return None

    @abstractmethod
    def secrets(self, names: Collection[str]) -> set[str]:
        """Return how a message may spell the values of some columns, or any text where values have no names."""

    @abstractmethod
    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        """Type some rows for a version.

        Args:
            metadata: The version's MLflow ``Model``.
            schema: Its input schema, or nothing.
            without: Columns that it does not get.
            rows: Which rows.

        Raises:
            MlflowException: They cannot be typed as the signature asks.
        """


def bounded(count: int, what: str, most: int) -> None:
    """Refuse a request of too many rows or columns.

    Raises:
        MlflowException: It has.
    """
    if count > most:
        raise MlflowException(
            f"The request has {count} {what}, but at most {most} are read at once. Send it in parts.",
            error_code=BAD_REQUEST,
        )


def pick(values: Sequence[Any], rows: Rows) -> Sequence[Any]:
    """Return the values of some rows."""
    return values if rows is None else [values[row] for row in rows]


def spellings(values: Iterable[Any]) -> set[str]:
    """Return how a message may spell the values within some values; truth values tell nothing and are left out."""
    found: set[str] = set()
    for value in leaves(list(values)):
        if isinstance(value, float) and value.is_integer():
            found.add(str(int(value)))
        elif isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53:
            found.add(str(float(value)))
        if value is not None and not isinstance(value, bool):
            found.add(_text(value))
    return found


def _text(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # a whole number of more digits than Python writes; no message has it either
        return ""


def leaves(value: Any) -> Iterator[Any]:
    """Walk through lists and objects, however deep, without a stack that could overflow."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)
        else:
            yield value
