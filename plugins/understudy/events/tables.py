"""Reads rows of a Parquet file, a CSV file or an SQL query one after another, as plain values with their place."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from understudy.errors import DataMissing, OutcomesInvalid
from understudy.events.parquet import filesystem

__all__ = ["Rows", "opened_file", "opened_query"]

Report = Callable[[float, str], None]
_AT_ONCE = 10_000


@dataclass(frozen=True)
class Rows:
    """A table that is being read.

    Attributes:
        name: What messages call it.
        unit: What ``place`` counts: ``"line"`` of a text file, or ``"row"``.
        columns: Names of the columns.
        textual: Whether every value is text, as in CSV, and an empty one is none.
        rows: Place and values of each row, as many values as there are columns.
    """

    name: str
    unit: str
    columns: Sequence[str]
    textual: bool
    rows: Iterator[tuple[int, Sequence[Any]]]


@contextmanager
def opened_file(address: str, report: Report) -> Iterator[Rows]:
    """Open a file that ends in ``.parquet``, ``.csv`` or ``.csv.gz``.

    Args:
        address: Path, or a URL that fsspec opens.
        report: Is told the share that was read, and how much that is.

    Raises:
        DataMissing: There is no such file, or nothing that could open it.
        OutcomesInvalid: It is no such file.
    """
    if "://" in address and urlsplit(address).password is not None:
        raise OutcomesInvalid(
            "The address holds a password, and whoever lists processes would see it. Give storage credentials in the "
            "environment, as its fsspec package reads them, or name a connection for an SQL table."
        )
    name = address.rstrip("/").rpartition("/")[2]
    kind = ".csv" if name.endswith(".csv.gz") else name[name.rfind(".") :] if "." in name else ""
    if kind not in (".parquet", ".csv"):
        raise OutcomesInvalid(
            f"{name} is no file that can be imported: its name must end in .parquet, .csv or .csv.gz. For an SQL table, name "
            "a connection and give --table or --query."
        )
    with _stream(address, name) as (stream, size):
        opened = _parquet(stream, name, report) if kind == ".parquet" else _csv(stream, size, name, report)
        yield opened


@contextmanager
def _stream(address: str, name: str) -> Iterator[tuple[IO[bytes], int]]:
    try:
        storage, path = filesystem(address)
        size = int(storage.size(path) or 0)
        stream = storage.open(path, "rb")
    except (OSError, ValueError, ImportError) as error:
        raise DataMissing(
            f"{name} cannot be opened ({type(error).__name__}). It must be a file that this process can read, or a URL whose "
            "fsspec package is installed."
        ) from error
    with stream:
        yield stream, size


def _parquet(stream: IO[bytes], name: str, report: Report) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(stream)
    except (pa.ArrowException, OSError) as error:
        raise OutcomesInvalid(f"{name} is no Parquet file: {error}. Write it again.") from error
    total = file.metadata.num_rows

    def rows() -> Iterator[tuple[int, Sequence[Any]]]:
        number = 0
        try:
            for batch in file.iter_batches(_AT_ONCE):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, values
                report(number / max(total, 1), f"{number:,} rows")
        except (pa.ArrowException, OSError) as error:
            raise OutcomesInvalid(
                f"{name} cannot be read beyond row {number} ({type(error).__name__}). Write it again."
            ) from error

    return Rows(name, "row", file.schema_arrow.names, False, rows())


def _csv(stream: IO[bytes], size: int, name: str, report: Report) -> Rows:
    packed: IO[bytes] = stream
    if name.endswith(".gz"):
        import gzip

        packed = gzip.GzipFile(fileobj=stream)  # type: ignore[assignment]
    reader = csv.reader(io.TextIOWrapper(packed, "utf-8-sig", newline=""), strict=True)

    def lines() -> Iterator[tuple[int, list[str]]]:
        try:
            for cells in reader:
                if cells:
                    yield reader.line_num, cells
                if reader.line_num % _AT_ONCE == 0:
                    report(min(stream.tell() / max(size, 1), 1.0), f"{reader.line_num:,} lines")
        except (UnicodeDecodeError, csv.Error, EOFError, OSError) as error:
            raise OutcomesInvalid(
                f"{name} cannot be read beyond line {reader.line_num} ({type(error).__name__}): it must be CSV in UTF-8, with "
                "commas and one line of names. Save it as that."
            ) from error

    found = lines()
    _, header = next(found, (0, []))
    return Rows(name, "line", header, True, found)


@contextmanager
def opened_query(
    url: sa.URL, *, table: str | None = None, query: str | None = None, report: Report
) -> Iterator[Rows]:
    """Open an SQL table, or what a query finds; the transaction is taken back at the end, whatever the query did.

    Args:
        url: The database.
        table: Its table, with its schema before a dot where that is needed.
        query: A query in its own SQL; either this or a table.
        report: Is told how much was read.

    Raises:
        DataMissing: The database does not answer, or refuses.
    """
    name = table or "the query"
    try:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.connect().execution_options(stream_results=True, max_row_buffer=_AT_ONCE) as connection:
            result = connection.execute(sa.text(query) if query is not None else _whole(str(table)))
            yield Rows(name, "row", list(result.keys()), False, _fetched(result, report))
    except (sa.exc.SQLAlchemyError, ImportError) as error:
        # What the database says of data may quote it.
        says = "" if isinstance(error, sa.exc.DataError) else f": {getattr(error, 'orig', None) or error}"
        raise DataMissing(
            f"{name} cannot be read from {url.render_as_string(hide_password=True)} "
            f"({type(error).__name__}{says.splitlines()[0] if says else ''}). Check the connection, its driver and what is asked."
        ) from None


def _whole(table: str) -> sa.Select[Any]:
    schema, _, name = table.rpartition(".")
    return sa.select(sa.text("*")).select_from(sa.table(name, schema=schema or None))


def _fetched(result: Iterable[Any], report: Report) -> Iterator[tuple[int, Sequence[Any]]]:
    for number, row in enumerate(result, 1):
        if number % _AT_ONCE == 0:
            report(0.0, f"{number:,} rows")
        yield number, tuple(row)
