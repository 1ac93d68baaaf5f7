"""Batches that come as a JSON document."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import (
    DF_RECORDS,
    DF_SPLIT,
    SUPPORTED_FORMATS,
    _parse_json_data,
)
from mlflow.pyfunc.utils.serving_data_parser import is_unified_llm_input
from mlflow.utils.proto_json_utils import MlflowInvalidInputException

from understudy.gateway.batch import (
    MOST_COLUMNS,
    MOST_ROWS,
    Batch,
    ModelInput,
    Rows,
    bounded,
    leaves,
    pick,
    spellings,
)

__all__ = ["json_batch"]


def json_batch(content: dict[str, Any]) -> Batch:
    """Return the batch of a JSON body; one whose shape is wrong is left to MLflow's parser, which says how.

    Raises:
        MlflowException: It has more rows or columns than are read at once.
    """
    bounded(len(content), "fields", MOST_COLUMNS)
    keys = [key for key in content if key in SUPPORTED_FORMATS]
    if len(keys) != 1 or is_unified_llm_input(content):
        return _Whole(content)
    key = keys[0]
    value, params = content[key], content.get("params")
    _bound(value.get("data") if key == DF_SPLIT and isinstance(value, dict) else value)
    if key == DF_SPLIT:
        return _Split(params, value) if _is_split(value) else _Whole(content, _no_rows(value))
    if isinstance(value, list) and value:
        named = [isinstance(row, dict) for row in value]
        if all(named):
            return _Records(params, key, value)
        return _Whole(content) if key == DF_RECORDS or any(named) else _Values(params, key, value)
    if isinstance(value, dict) and value and key != DF_RECORDS:
        lengths = {len(column) if isinstance(column, list) else 0 for column in value.values()}
        if len(lengths) == 1 and lengths != {0}:
            bounded(max(lengths), "rows", MOST_ROWS)
            return _Columns(params, key, value)
    return _Whole(content, value == [])


def _bound(value: Any) -> None:
    """Refuse too many rows, or too many columns that are named one by one."""
    if isinstance(value, (list, dict)):
        bounded(len(value), *(("rows", MOST_ROWS) if isinstance(value, list) else ("columns", MOST_COLUMNS)))


def _bound_width(data: list[Any]) -> None:
    """Refuse rows of too many values, of which a table would make as many columns."""
    bounded(max((len(row) for row in data if isinstance(row, list)), default=0), "columns", MOST_COLUMNS)


def _no_rows(split: Any) -> bool:
    return isinstance(split, dict) and split.get("data") == []


def _is_split(value: Any) -> bool:
    """Return whether this is rows of values and, if they are named, one name for each value of the longest row."""
    if not isinstance(value, dict) or not {"data"} <= value.keys() <= {"columns", "data", "index"}:
        return False
    columns, data, index = value.get("columns"), value["data"], value.get("index")
    if not isinstance(data, list) or not data or not all(isinstance(row, list) for row in data):
        return False
    if index is not None and not (isinstance(index, list) and len(index) == len(data)):
        return False
    if columns is None:
        return True
    if not isinstance(columns, list) or any(isinstance(name, (list, dict)) for name in columns):
        return False
    return max(map(len, data)) == len(columns)


def _kept(row: dict[str, Any], without: Collection[str]) -> dict[str, Any]:
    return {name: cell for name, cell in row.items() if name not in without}


def _typed(payload: dict[str, Any], metadata: Any, schema: Any) -> ModelInput:
    try:
        parsed = _parse_json_data(payload, metadata, schema)
    except MlflowException:
        raise
    except Exception as error:  # MLflow's own server answers 500 where its parser stumbles
        raise MlflowInvalidInputException(
            f"The rows cannot be read as the model's signature asks: {type(error).__name__}."
        ) from error
    return ModelInput(parsed.data, parsed.params, parsed.is_unified_llm_input)


class _Whole(Batch):
    """A request that cannot be split: language-model inputs, scalars, and whatever is malformed.

    Args:
        content: The body.
        empty: Whether it has no rows at all, and so is no event.
    """

    splittable = False

    def __init__(self, content: dict[str, Any], empty: bool = False) -> None:
        self._content = content
        self.size = 0 if empty else 1

    def column(self, name: str) -> list[Any] | None:
        return None

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [{}] * self.size

    def secrets(self, names: Collection[str]) -> set[str]:
        # Where values stand apart from their names, each of them may be a private one.
        named = self._content.get(DF_SPLIT)
        columns = set(leaves(named.get("columns"))) if isinstance(named, dict) else set()
        values = [leaf for leaf in leaves(self._content) if leaf not in columns]
        found = spellings(
            values if columns & set(names) else (value for value in values if isinstance(value, str))
        )
        waiting: list[Any] = [self._content]
        while waiting:
            part = waiting.pop()
            if isinstance(part, dict):
                found |= spellings(part[name] for name in names if name in part)
            waiting.extend(
                part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
            )
        return found

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        return _typed(_stripped(self._content, without), metadata, schema)


def _stripped(content: dict[str, Any], without: Collection[str]) -> dict[str, Any]:
    """Return a malformed or unwrapped request without some names, as far as it names its values."""
    content = _kept(content, without)
    for key in SUPPORTED_FORMATS & content.keys():
        value = content[key]
        if isinstance(value, dict):
            value = _kept(value, without)
            if key == DF_SPLIT and isinstance(data := value.get("data"), (list, dict)):
                value["data"] = _cells(data, without)
                if isinstance(columns := value.get("columns"), list) and data != value["data"]:
                    value["columns"] = [name for name in columns if name not in without]
        content[key] = _cells(value, without) if isinstance(value, list) else value
    return content


def _cells(data: list[Any] | dict[str, Any], without: Collection[str]) -> Any:
    if isinstance(data, dict):
        return _kept(data, without)
    return [_kept(row, without) if isinstance(row, dict) else row for row in data]


class _Split(Batch):
    """``dataframe_split``: column names once, or not at all, then rows of values."""

    def __init__(self, params: Any, value: dict[str, Any]) -> None:
        self._params = params
        self._value = value
        self._names: list[Any] = value.get("columns") or []
        _bound_width(value["data"])
        width = len(self._names)
        # pandas fills short rows with nothing, which must also hold where the longest row goes elsewhere.
        self._data = [row + [None] * (width - len(row)) if len(row) < width else row for row in value["data"]]
        self.size = len(self._data)

    def column(self, name: str) -> list[Any] | None:
        positions = [position for position, known in enumerate(self._names) if known == name]
        return [row[positions[0]] for row in self._data] if len(positions) == 1 else None

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        kept = [(str(name), position) for position, name in enumerate(self._names) if name not in without]
        return [{name: row[position] for name, position in kept} for row in self._data]

    def secrets(self, names: Collection[str]) -> set[str]:
        if not self._names:
            return spellings(leaf for leaf in leaves(self._data) if isinstance(leaf, str))
        positions = [position for position, name in enumerate(self._names) if name in names]
        return spellings(row[position] for row in self._data for position in positions)

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        data = pick(self._data, rows)
        piece = {**self._value, "data": data}
        if any(name in without for name in self._names):
            kept = [position for position, name in enumerate(self._names) if name not in without]
            piece["columns"] = [self._names[position] for position in kept]
            piece["data"] = [[row[position] for position in kept] for row in data]
        if piece.get("index") is not None:
            piece["index"] = pick(piece["index"], rows)
        return _typed({DF_SPLIT: piece, "params": self._params}, metadata, schema)


class _Records(Batch):
    """``dataframe_records``, and ``instances`` or ``inputs`` that are lists of named values."""

    def __init__(self, params: Any, key: str, value: list[dict[str, Any]]) -> None:
        self._params = params
        self._key = key
        self._value = value
        self.size = len(value)
        # In the order in which pandas finds them.
        self._names = dict.fromkeys(name for row in value for name in row)
        bounded(len(self._names), "columns", MOST_COLUMNS)

    def column(self, name: str) -> list[Any] | None:
        return [row.get(name) for row in self._value] if name in self._names else None

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [_kept(row, without) for row in self._value]

    def secrets(self, names: Collection[str]) -> set[str]:
        return spellings(row[name] for row in self._value for name in names if name in row)

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        piece = [_kept(row, without) for row in pick(self._value, rows)]
        if rows is not None and self._key == DF_RECORDS:
            # A column that only other rows have is missing in these, as in a request with all of them.
            missing = dict.fromkeys(_kept(self._names, without), float("nan"))
            piece = [row if len(row) == len(missing) else missing | row for row in piece]
        return _typed({self._key: piece, "params": self._params}, metadata, schema)


class _Columns(Batch):
    """``inputs`` or ``instances`` as named lists of equal length."""

    def __init__(self, params: Any, key: str, value: dict[str, list[Any]]) -> None:
        self._params = params
        self._key = key
        self._value = value
        self.size = len(next(iter(value.values())))

    def column(self, name: str) -> list[Any] | None:
        return self._value.get(name)

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        kept = _kept(self._value, without)
        return [{name: column[row] for name, column in kept.items()} for row in range(self.size)]

    def secrets(self, names: Collection[str]) -> set[str]:
        return spellings(self._value[name] for name in names if name in self._value)

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        piece = {name: pick(column, rows) for name, column in _kept(self._value, without).items()}
        return _typed({self._key: piece, "params": self._params}, metadata, schema)


class _Values(Batch):
    """``inputs`` or ``instances`` without names: nothing in them can be a unit or a feature that is logged."""

    def __init__(self, params: Any, key: str, value: list[Any]) -> None:
        self._params = params
        self._key = key
        self._value = value
        self.size = len(value)

    def column(self, name: str) -> list[Any] | None:
        return None

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [{}] * self.size

    def secrets(self, names: Collection[str]) -> set[str]:
        return spellings(leaf for leaf in leaves(self._value) if isinstance(leaf, str))

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        if schema is not None and not schema.is_tensor_spec():
            _bound_width(self._value)
        return _typed({self._key: pick(self._value, rows), "params": self._params}, metadata, schema)
