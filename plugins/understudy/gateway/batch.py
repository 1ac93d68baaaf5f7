"""The rows of one request, in the form they came in, so that any of them can be handed to any version.

Rows are cut out of the request before they are typed, because each version has its own signature: MLflow's own parser
then reads the piece exactly as it would have read a request with only those rows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc.scoring_server import (
    DF_RECORDS,
    DF_SPLIT,
    SUPPORTED_FORMATS,
    _parse_json_data,
    parse_csv_input,
    parse_parquet_input,
)
from mlflow.pyfunc.utils.serving_data_parser import is_unified_llm_input

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Batch", "ModelInput", "csv_batch", "json_batch", "parquet_batch"]

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
    """

    size: int
    splittable: bool = True

    @abstractmethod
    def column(self, name: str) -> list[Any] | None:
        """Return one column's raw values, or nothing where the request has no such column."""

    @abstractmethod
    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        """Return every row as named values, except for some columns."""

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


def json_batch(content: dict[str, Any]) -> Batch:
    """Return the batch of a JSON body; one whose shape is wrong is left to MLflow's parser, which says how."""
    keys = [key for key in content if key in SUPPORTED_FORMATS]
    if len(keys) != 1 or is_unified_llm_input(content):
        return _Whole(content)
    key = keys[0]
    value, params = content[key], content.get("params")
    if key == DF_SPLIT:
        return _Split(params, value) if _is_split(value) else _Whole(content)
    if isinstance(value, list) and value:
        if all(isinstance(row, dict) for row in value):
            return _Records(params, key, value)
        return _Whole(content) if key == DF_RECORDS else _Values(params, key, value)
    if isinstance(value, dict) and value and key != DF_RECORDS:
        lengths = {len(column) if isinstance(column, list) else 0 for column in value.values()}
        if len(lengths) == 1 and lengths != {0}:
            return _Columns(params, key, value)
    return _Whole(content)


def csv_batch(text: str) -> Batch:
    """Return the batch of a CSV body.

    Raises:
        MlflowException: It is not CSV.
    """
    return _Table(lambda schema: _without_traceback(parse_csv_input, StringIO(text), schema), text=text)


def parquet_batch(body: bytes) -> Batch:
    """Return the batch of a Parquet body.

    Raises:
        MlflowException: It is not Parquet.
    """
    return _Table(lambda schema: _without_traceback(parse_parquet_input, BytesIO(body)))


def _is_split(value: Any) -> bool:
    if not isinstance(value, dict) or not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        return False
    columns, data, index = value["columns"], value["data"], value.get("index")
    if not isinstance(columns, list) or not isinstance(data, list) or not data:
        return False
    if not all(isinstance(name, str) for name in columns) or len(set(columns)) != len(columns):
        return False
    if index is not None and not (isinstance(index, list) and len(index) == len(data)):
        return False
    return all(isinstance(row, list) and len(row) == len(columns) for row in data)


def _pick(values: list[Any], rows: Rows) -> list[Any]:
    return values if rows is None else [values[row] for row in rows]


def _typed(payload: dict[str, Any], metadata: Any, schema: Any) -> ModelInput:
    parsed = _parse_json_data(payload, metadata, schema)
    return ModelInput(parsed.data, parsed.params, parsed.is_unified_llm_input)


@dataclass
class _Whole(Batch):
    """A request that cannot be split: language-model inputs, scalars, and whatever is malformed."""

    content: dict[str, Any]
    size: int = field(default=1, init=False)
    splittable: bool = field(default=False, init=False)

    def column(self, name: str) -> list[Any] | None:
        return None

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [{}]

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        return _typed(dict(self.content), metadata, schema)


@dataclass
class _Split(Batch):
    """``dataframe_split``: column names once, then rows of values."""

    params: Any
    value: dict[str, Any]

    def __post_init__(self) -> None:
        self.size = len(self.value["data"])
        self._positions = {name: position for position, name in enumerate(self.value["columns"])}

    def column(self, name: str) -> list[Any] | None:
        position = self._positions.get(name)
        return None if position is None else [row[position] for row in self.value["data"]]

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        kept = [(name, position) for name, position in self._positions.items() if name not in without]
        return [{name: row[position] for name, position in kept} for row in self.value["data"]]

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        kept = [(name, position) for name, position in self._positions.items() if name not in without]
        positions = [position for _, position in kept]
        piece = {
            "columns": [name for name, _ in kept],
            "data": [[row[position] for position in positions] for row in _pick(self.value["data"], rows)],
        }
        if self.value.get("index") is not None:
            piece["index"] = _pick(self.value["index"], rows)
        return _typed({DF_SPLIT: piece, "params": self.params}, metadata, schema)


@dataclass
class _Records(Batch):
    """``dataframe_records``, and ``instances`` or ``inputs`` that are lists of named values."""

    params: Any
    key: str
    value: list[dict[str, Any]]

    def __post_init__(self) -> None:
        self.size = len(self.value)

    def column(self, name: str) -> list[Any] | None:
        if not any(name in row for row in self.value):
            return None
        return [row.get(name) for row in self.value]

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [{name: cell for name, cell in row.items() if name not in without} for row in self.value]

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        piece = [
            {name: cell for name, cell in row.items() if name not in without}
            for row in _pick(self.value, rows)
        ]
        return _typed({self.key: piece, "params": self.params}, metadata, schema)


@dataclass
class _Columns(Batch):
    """``inputs`` or ``instances`` as named lists of equal length."""

    params: Any
    key: str
    value: dict[str, list[Any]]

    def __post_init__(self) -> None:
        self.size = len(next(iter(self.value.values())))

    def column(self, name: str) -> list[Any] | None:
        return self.value.get(name)

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        kept = {name: column for name, column in self.value.items() if name not in without}
        return [{name: column[row] for name, column in kept.items()} for row in range(self.size)]

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        piece = {name: _pick(column, rows) for name, column in self.value.items() if name not in without}
        return _typed({self.key: piece, "params": self.params}, metadata, schema)


@dataclass
class _Values(Batch):
    """``inputs`` or ``instances`` without names: nothing in them can be a unit or a feature that is logged."""

    params: Any
    key: str
    value: list[Any]

    def __post_init__(self) -> None:
        self.size = len(self.value)

    def column(self, name: str) -> list[Any] | None:
        return None

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [{} for _ in self.value]

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        return _typed({self.key: _pick(self.value, rows), "params": self.params}, metadata, schema)


class _Table(Batch):
    """A CSV or Parquet body.

    Args:
        read: Reads the body as a version's schema asks.
        text: The CSV text, whose cells have no type of their own.
    """

    def __init__(self, read: Callable[[Any], pd.DataFrame], text: str | None = None) -> None:
        self._read = read
        self._text = text
        self._frame = read(None)
        self._cells: pd.DataFrame | None = None
        self.size = len(self._frame)
        self.splittable = self.size > 0

    def column(self, name: str) -> list[Any] | None:
        if name not in self._frame.columns:
            return None
        if self._text is None:
            cells = self._frame[name]
        else:
            # A unit like 007 must not become the number 7.
            if self._cells is None:
                import pandas as pd

                self._cells = pd.read_csv(StringIO(self._text), dtype=str)
            cells = self._cells[name]
        return [None if missing else cell for cell, missing in zip(cells.tolist(), cells.isna(), strict=True)]

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        kept = self._frame.drop(columns=[name for name in without if name in self._frame.columns])
        return [{str(name): cell for name, cell in row.items()} for row in kept.to_dict("records")]

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        frame = self._read(schema)
        frame = frame.drop(columns=[name for name in without if name in frame.columns])
        return ModelInput(frame if rows is None else frame.iloc[list(rows)])


def _without_traceback(parse: Callable[..., pd.DataFrame], *arguments: Any) -> pd.DataFrame:
    """Call one of MLflow's table parsers; its error quotes a traceback, and sometimes a cell, which stay here."""
    try:
        return parse(*arguments)
    except MlflowException as error:
        cause = error.__context__ or error
        shown = (
            str(cause) if type(cause).__name__ in ("EmptyDataError", "ParserError") else type(cause).__name__
        )
        raise MlflowException(
            "Failed to parse input as a Pandas DataFrame. Ensure that the input is a valid CSV or Parquet "
            f"representation of one. Error: '{shown.strip()}'",
            error_code=BAD_REQUEST,
        ) from None
