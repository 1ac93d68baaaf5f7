"""Batches that come as a CSV or Parquet table."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any

from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import parse_csv_input, parse_parquet_input
from mlflow.utils.proto_json_utils import MlflowInvalidInputException

from understudy.gateway.batch import MOST_COLUMNS, MOST_ROWS, Batch, ModelInput, Rows, bounded, spellings

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["csv_batch", "parquet_batch"]

_MOST_BYTES = 256 * 1024 * 1024
"""A Parquet table may be this large when unpacked: a body of a few kilobytes can stand for any number of gigabytes."""

_MOST_LINES = 10 * MOST_ROWS
"""A quoted cell may hold line ends, and lines may be empty, so that there may be more of them than rows."""

# What these say has numbers of lines and fields in it, and no cell.
_TELLS_NO_CELL = ("ArrowInvalid", "EmptyDataError", "OSError", "ParserError")

_REPEATED = re.compile(r"(.+?)\.\d+")
"""How pandas renames a column whose name is there already."""


def csv_batch(text: str) -> Batch:
    """Return the batch of a CSV body.

    Raises:
        MlflowException: It is not CSV, or has more rows or columns than are read at once.
    """
    bounded(text.count("\n") + text.count("\r"), "lines", _MOST_LINES)
    bounded(_most_fields(text), "columns", MOST_COLUMNS)
    batch = _Csv(text)
    bounded(batch.size, "rows", MOST_ROWS)
    return batch


def parquet_batch(body: bytes) -> Batch:
    """Return the batch of a Parquet body.

    Raises:
        MlflowException: It is not Parquet, or unpacks to more than is read at once.
    """
    return _Table(_read(_parse_bounded, body))


class _Table(Batch):
    """A table whose cells have types.

    Args:
        frame: The table.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame
        self.size = len(frame)
        self.splittable = self.size > 0

    def column(self, name: str) -> list[Any] | None:
        if name not in self._frame.columns:
            return None
        cells = self._cells(name)
        return [None if missing else cell for cell, missing in zip(cells.tolist(), cells.isna(), strict=True)]

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        rows = self._frame.drop(columns=self._named(without)).to_dict("records")
        return [{str(name): cell for name, cell in row.items()} for row in rows]

    def secrets(self, names: Collection[str]) -> set[str]:
        return spellings(self._cells(name).tolist() for name in self._named(names))

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        frame = self._typed(schema).drop(columns=self._named(without))
        return ModelInput(frame if rows is None else frame.iloc[list(rows)])

    def _typed(self, schema: Any) -> pd.DataFrame:
        return self._frame

    def _cells(self, name: str) -> pd.Series[Any]:
        return self._frame[name]

    def _named(self, names: Collection[str]) -> list[Any]:
        return [name for name in self._frame.columns if name in names]


class _Csv(_Table):
    """A table whose cells get their types from a version's schema.

    Args:
        text: The body.
    """

    typed = False

    def __init__(self, text: str) -> None:
        import pandas as pd

        super().__init__(_read(parse_csv_input, StringIO(text), None))
        self._text = text
        self._written: pd.DataFrame | None = None
        # Rows with more cells than the header has names: every cell stands under its neighbour's name.
        self._shifted = not isinstance(self._frame.index, pd.RangeIndex)
        self.splittable = self.splittable and not self._shifted

    def column(self, name: str) -> list[Any] | None:
        return None if self._shifted else super().column(name)

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return [{}] * self.size if self._shifted else super().features(without)

    def secrets(self, names: Collection[str]) -> set[str]:
        if self._shifted:
            return spellings(self._text.replace("\n", ",").split(","))
        return super().secrets(names)

    def _typed(self, schema: Any) -> pd.DataFrame:
        return _read(parse_csv_input, StringIO(self._text), schema, quoting=True)

    def _cells(self, name: str) -> pd.Series[Any]:
        if self._written is None:
            import pandas as pd

            # A unit like 007 must not become the number 7.
            self._written = pd.read_csv(StringIO(self._text), dtype=str)
        return self._written[name]

    def _named(self, names: Collection[str]) -> list[Any]:
        found = super()._named(names)
        repeated = ((name, _REPEATED.fullmatch(name)) for name in self._frame.columns)
        return found + [name for name, match in repeated if match and match[1] in found]


def _most_fields(text: str) -> int:
    """Return how many fields the longest line has, or a smaller number where it is harmless anyway."""
    if text.count(",") < MOST_COLUMNS or max(line.count(",") for line in text.splitlines()) < MOST_COLUMNS:
        return 0
    try:
        return max(map(len, csv.reader(StringIO(text))))
    except csv.Error:  # a cell of more than 128 KB
        return MOST_COLUMNS + 1


def _parse_bounded(body: bytes) -> pd.DataFrame:
    """Read a Parquet table, unless it unpacks to more than is read at once."""
    from pyarrow import ArrowException, parquet

    try:
        file = parquet.ParquetFile(BytesIO(body))
    except (ArrowException, OSError):
        return parse_parquet_input(BytesIO(body))  # which says why it is none
    metadata = file.metadata
    packed = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
    bounded(metadata.num_rows, "rows", MOST_ROWS)
    bounded(metadata.num_columns, "columns", MOST_COLUMNS)
    bounded(packed, "bytes", _MOST_BYTES)
    if packed * metadata.num_rows > _MOST_BYTES:
        # A value is stored once and may be meant any number of times; no row is larger than the file.
        size = 0
        for part in file.iter_batches(max(1, _MOST_BYTES // packed)):
            size += part.nbytes
            bounded(size, "bytes", _MOST_BYTES)
    return parse_parquet_input(BytesIO(body))


def _read(parse: Callable[..., pd.DataFrame], *arguments: Any, quoting: bool = False) -> pd.DataFrame:
    """Call one of MLflow's table parsers.

    Args:
        parse: The parser.
        arguments: Its arguments.
        quoting: Whether its error may quote a cell, because the caller takes secrets out of it.

    Raises:
        MlflowException: Its own error.
    """
    try:
        return parse(*arguments)
    except MlflowException as error:
        cause = error.__context__
        if cause is not None and not quoting and type(cause).__name__ not in _TELLS_NO_CELL:
            error.message = error.message.replace(str(cause), type(cause).__name__)
        raise
    except Exception as error:  # of a torn table, on the way to MLflow's parser
        raise MlflowInvalidInputException(f"It cannot be read as a table: {type(error).__name__}.") from error
