"""Turns rows of a request into the matrix that the last step of a pipeline would get, in the same floating-point steps."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from understudy.gateway.compiled.refusal import Declined

__all__ = ["MOST_CELLS", "Feature", "Flag", "Floats", "Matrix", "Number", "Operation", "Rows"]

Rows = Sequence[Sequence[Any]]
Floats = NDArray[np.float64]
Operation = tuple[Literal["fill", "subtract", "divide"], float]

# 16 MB: a request beyond it is better off on a thread of its own.
MOST_CELLS = 2_000_000
_OPERATIONS: tuple[Literal["fill", "subtract", "divide"], ...] = ("fill", "subtract", "divide")
# What leaves a number as it is, bit for bit.
_NEUTRAL = {"fill": np.nan, "subtract": 0.0, "divide": 1.0}


@dataclass(frozen=True)
class Number:
    """A column of the request as a number.

    Attributes:
        column: Its position in a row.
        operations: What is done with it, in this order; ``fill`` stands in for null.
    """

    column: int
    operations: tuple[Operation, ...] = ()

    @property
    def filled(self) -> bool:
        """Whether a null in it becomes a number."""
        return any(kind == "fill" for kind, _ in self.operations)


@dataclass(frozen=True)
class Flag:
    """1 where a column of the request has a certain value, else 0.

    Attributes:
        column: Its position in a row.
        value: The value.
        known: Every value of the column that has a flag, or is one without a flag.
        strict: Whether any other value is an error.
    """

    column: int
    value: Any
    known: tuple[Any, ...]
    strict: bool


Feature = Number | Flag


class Matrix:
    """Builds matrices of ``rows x features``.

    Null stands for NaN, as in MLflow. Numbers beyond ``limit`` are declined, so that whole numbers are exact, nothing
    overflows, and infinity never gets in.

    Args:
        features: What each column of the matrix is.
        limit: Largest absolute value of a number.
        nulls: Whether the last step takes NaN.
    """

    def __init__(self, features: Sequence[Feature], limit: float, nulls: bool) -> None:
        self.features = tuple(features)
        numbers = [(place, feature) for place, feature in enumerate(features) if isinstance(feature, Number)]
        self._places = [place for place, _ in numbers]
        self._tables = _tables(features)
        self._limit = limit
        self._pick = _picker([number.column for _, number in numbers])
        self._whole = [number.column for _, number in numbers] == list(range(len(numbers)))
        self._row = struct.Struct(f"{len(numbers)}d")
        self._layers = _layers([number.operations for _, number in numbers])
        self._strict = [at for at, (_, number) in enumerate(numbers) if not (nulls or number.filled)]

    def takes_null(self, column: int) -> bool:
        """Return whether a null in a column of the request is as good as any number."""
        if any(table.column == column for table in self._tables):
            return False
        return all(self.features[self._places[at]].column != column for at in self._strict)

    def build(self, rows: Rows) -> Floats:
        """Return the matrix of some rows, C-ordered, in double precision.

        Raises:
            Declined: MLflow has to answer these rows.
        """
        if not 0 < len(rows) * max(1, len(self.features)) <= MOST_CELLS:
            raise Declined
        numbers = self._numbers(rows)
        if len(self._places) == len(self.features):
            return numbers
        matrix = np.zeros((len(rows), len(self.features)))
        matrix[:, self._places] = numbers
        for table in self._tables:
            column, places = table.column, table.places
            for at, row in enumerate(rows):
                place = places.get(row[column])
                if place is None:
                    self._unknown(row[column], table.strict)
                elif place >= 0:
                    matrix[at, place] = 1.0
        return matrix

    def _numbers(self, rows: Rows) -> Floats:
        numbers = self._packed(rows)
        # One pass tells the usual case: no NaN, nothing large. The comparison is false for NaN.
        usual = np.vdot(numbers, numbers) <= self._limit * self._limit
        if not usual:
            self._check(numbers)
        for kind, values in self._layers:
            if kind == "fill":
                numbers = numbers if usual else np.where(np.isnan(numbers), values, numbers)
            elif kind == "subtract":
                numbers -= values
            else:
                numbers /= values
        return numbers

    def _packed(self, rows: Rows) -> Floats:
        alike = self._whole and len(rows[0]) == len(self._places)
        picked = rows if alike else list(map(self._pick, rows))
        try:
            try:
                # In half of the time that NumPy takes to look at every number.
                cells = bytearray().join([self._row.pack(*row) for row in picked])
                return np.ndarray((len(rows), len(self._places)), np.float64, cells)
            except struct.error:  # null is no number to it
                return np.array(picked, dtype=np.float64)
        except OverflowError:
            raise Declined from None

    def _check(self, numbers: Floats) -> None:
        if (np.abs(numbers) > self._limit).any() or np.isnan(numbers[:, self._strict]).any():
            raise Declined

    def _unknown(self, cell: Any, strict: bool) -> None:
        """Decline a value that has no flag where MLflow may see another one: it may cut off zero bytes or wrap numbers."""
        doubtful = (
            cell.endswith("\0") if isinstance(cell, str) else cell is None or not abs(cell) <= self._limit
        )
        if strict or doubtful:
            raise Declined


@dataclass(frozen=True)
class _Table:
    """Where the flag of each value of a column is; -1 for a value that is known and has none."""

    column: int
    places: Mapping[Any, int]
    strict: bool


def _tables(features: Sequence[Feature]) -> list[_Table]:
    tables: list[_Table] = []
    place = 0
    while place < len(features):
        feature = features[place]
        if isinstance(feature, Number):
            place += 1
            continue
        places = dict.fromkeys(feature.known, -1)
        while place < len(features):
            flag = features[place]
            if not isinstance(flag, Flag) or flag.known is not feature.known or places[flag.value] >= 0:
                break
            places[flag.value] = place
            place += 1
        tables.append(_Table(feature.column, places, feature.strict))
    return tables


def _layers(chains: Sequence[tuple[Operation, ...]]) -> list[tuple[str, Floats]]:
    """Return operations on whole rows that do to each number what its own chain does, in its order."""
    pending = [list(chain) for chain in chains]
    layers: list[tuple[str, Floats]] = []
    while any(pending):
        for kind in _OPERATIONS:
            due = [chain and chain[0][0] == kind for chain in pending]
            if any(due):
                values = [
                    chain.pop(0)[1] if now else _NEUTRAL[kind]
                    for chain, now in zip(pending, due, strict=True)
                ]
                layers.append((kind, np.array(values, dtype=np.float64)))
    return layers


def _picker(columns: Sequence[int]) -> Callable[[Sequence[Any]], Sequence[Any]]:
    if not columns:
        return lambda row: ()
    if list(columns) == list(range(columns[0], columns[0] + len(columns))):
        return itemgetter(slice(columns[0], columns[0] + len(columns)))
    return itemgetter(*columns)
