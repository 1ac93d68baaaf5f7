"""Reads the usual requests of a compiled version straight into rows, where MLflow's parser would find the same values.

A client sends the same bytes around its rows every time: brackets, the names of the columns. They are remembered from the
first such request as a *layout*; a later one that starts and ends with them is only asked for its rows, which one decoder
reads and types. Whatever is not exactly as the layout says is nothing to this module, and MLflow's parser reads it instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON, DF_RECORDS, DF_SPLIT, SUPPORTED_FORMATS
from msgspec.structs import astuple

from understudy.gateway import protocol
from understudy.gateway.batch import MOST_COLUMNS, MOST_ROWS, Batch, ModelInput, Rows, spellings
from understudy.gateway.config import TrafficColumns

if TYPE_CHECKING:
    from understudy.gateway.compiled import Compiled

__all__ = ["QuickReader"]

Row = tuple[Any, ...]

_CONTENT_TYPES = frozenset({CONTENT_TYPE_JSON, f"{CONTENT_TYPE_JSON}; charset=utf-8"})
_CELLS: dict[str, Any] = {"number": int | float, "integer": int, "text": str, "boolean": bool}
# A column that the version does not have: MLflow's parser reads it too, and may stumble over what is nested in it.
_SCALAR = int | float | str | bool | None
_MOST_LAYOUTS = 16
# More would hold up the event loop, on which this runs.
_MOST_BYTES = 1 << 20
# A text without escapes, a number, or a word.
_PLAIN_CELL = rb'(?:"[^"\\]*"|[^"\\,\[\]{}\s]+)'
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])
_names = msgspec.json.Decoder(list[str])
_numbers = msgspec.json.Decoder(list[int])


class QuickReader:
    """Reads requests for one compiled version.

    Args:
        compiled: The version.
        traffic: The columns of its requests.
    """

    def __init__(self, compiled: Compiled, traffic: TrafficColumns) -> None:
        self._compiled = compiled
        self._hidden = traffic.envelope | traffic.private
        self._layouts: list[_Layout] = []

    def read(self, body: bytes, content_type: str | None) -> Batch | None:
        """Return the rows of a request, or nothing where MLflow's parser has to read it.

        Args:
            body: The request's body.
            content_type: Its ``Content-Type`` header.
        """
        if content_type not in _CONTENT_TYPES or len(body) > _MOST_BYTES:
            return None
        for layout in self._layouts:
            if (batch := self._read(layout, body)) is not None:
                return batch
        learned = self._learned(body)
        return None if learned is None else self._read(learned, body)

    def _read(self, layout: _Layout, body: bytes) -> Batch | None:
        raw = layout.rows_in(body)
        if raw is None:
            return None
        try:
            rows = layout.decode(raw)
        except _NOT_JSON:
            return None
        if not 0 < len(rows) <= MOST_ROWS or layout.index not in (None, len(rows)):
            return None
        return _QuickBatch(self._compiled, layout, rows, raw, body)

    def _learned(self, body: bytes) -> _Layout | None:
        try:
            found = _find(body)
        except _NOT_JSON:
            return None
        if found is None or any(layout.shape == found for layout in self._layouts):
            return None
        columns = found.columns
        if not set(self._compiled.columns) <= set(columns) or len(columns) > MOST_COLUMNS:
            return None
        try:
            layout = _layout(found, self._compiled, self._hidden)
        except ValueError:  # msgspec looks for no name with a quote, a backslash or a control character in it
            return None
        self._layouts = [layout, *self._layouts[: _MOST_LAYOUTS - 1]]
        return layout


@dataclass(frozen=True)
class _Shape:
    """What a request has besides its rows.

    Attributes:
        before: The bytes before them.
        after: The bytes after them.
        kind: ``"values"`` where each row is a list, ``"records"`` where it is an object, ``"columns"`` where the rows are an
            object of lists.
        columns: Names of the columns.
        index: Length of the rows' own index, which pandas checks; nothing where there is none.
    """

    before: bytes
    after: bytes
    kind: Literal["values", "records", "columns"]
    columns: tuple[str, ...]
    index: int | None


@dataclass(frozen=True)
class _Layout:
    """How the rows of one shape are read.

    Attributes:
        shape: The shape.
        decode: Reads and types rows; each comes out with its cells in the order of the columns.
        position: Where each column is in a row.
        inputs: Takes the version's columns out of a row.
        logged: Names of the columns that are logged.
        features: Takes them out of a row.
        cut: Takes them out of the bytes of all rows, which there are so many of, without reading their numbers; nothing where
            that cannot be. Where they do not allow it, it gives nothing.
    """

    shape: _Shape
    decode: Callable[[memoryview], Sequence[Row]]
    position: dict[str, int]
    inputs: Callable[[Row], Row]
    logged: list[str]
    features: Callable[[Row], Row]
    cut: Callable[[bytes, int], bytes | None] | None

    @property
    def index(self) -> int | None:
        return self.shape.index

    def rows_in(self, body: bytes) -> memoryview | None:
        """Return the bytes between what stands before and after the rows, or nothing where they do not stand there."""
        before, after = self.shape.before, self.shape.after
        if not (body.startswith(before) and body.endswith(after)):
            return None
        return memoryview(body)[len(before) : len(body) - len(after)]


class _QuickBatch(Batch):
    """Rows whose cells have exactly the types that the version asks for."""

    def __init__(
        self, compiled: Compiled, layout: _Layout, rows: Sequence[Row], raw: memoryview, body: bytes
    ) -> None:
        self.size = len(rows)
        self._compiled = compiled
        self._layout = layout
        self._rows = rows
        self._raw = raw
        self._body = body
        self._parsed: Batch | None = None

    def rows_for(self, compiled: Compiled, rows: Rows = None) -> Sequence[Row] | None:
        if compiled is not self._compiled:
            return None
        return list(map(self._layout.inputs, self._picked(rows)))

    def column(self, name: str) -> list[Any] | None:
        position = self._layout.position.get(name)
        return None if position is None else [row[position] for row in self._rows]

    def table(self, without: Collection[str], rows: Rows = None) -> tuple[list[str], Any]:
        layout = self._layout
        if rows is None and layout.cut is not None:
            raw = layout.cut(bytes(self._raw), self.size)
            # Space between tokens may break a line of the log; it is then written anew.
            if raw is not None and b"\n" not in raw and b"\r" not in raw:
                return layout.logged, msgspec.Raw(raw)
        return layout.logged, list(map(layout.features, self._picked(rows)))

    def features(self, without: Collection[str]) -> list[dict[str, Any]]:
        return self._as_mlflow_reads_it().features(without)

    def secrets(self, names: Collection[str]) -> set[str]:
        return spellings(self.column(name) for name in names if name in self._layout.position)

    def input_for(
        self, metadata: Any, schema: Any, without: Collection[str], rows: Rows = None
    ) -> ModelInput:
        return self._as_mlflow_reads_it().input_for(metadata, schema, without, rows)

    def _picked(self, rows: Rows) -> Sequence[Row]:
        return self._rows if rows is None else [self._rows[row] for row in rows]

    def _as_mlflow_reads_it(self) -> Batch:
        if self._parsed is None:
            self._parsed = protocol.parse(self._body, CONTENT_TYPE_JSON)
        return self._parsed


def _find(body: bytes) -> _Shape | None:
    """Return what stands around the rows of a request; nothing where its form is not one that is read here.

    Raises:
        msgspec.DecodeError: It is not JSON, or not of such a form.
    """
    parts = _parts.decode(body)
    if len(parts) != 1:
        return None
    ((form, rows),) = parts.items()
    if form not in SUPPORTED_FORMATS:
        return None
    if form == DF_SPLIT:
        split = _parts.decode(rows)
        if not {"columns", "data"} <= split.keys() <= {"columns", "data", "index"}:
            return None
        columns = _names.decode(split["columns"])
        index = len(_numbers.decode(split["index"])) if "index" in split else None
        if len(set(columns)) != len(columns):
            return None
        return _around(body, split["data"], "values", columns, index)
    if bytes(rows).startswith(b"{") and form != DF_RECORDS:
        return _around(body, rows, "columns", list(_parts.decode(rows)), None)
    first = _parts_of_first(rows)
    return None if first is None else _around(body, rows, "records", first, None)


def _parts_of_first(rows: msgspec.Raw) -> list[str] | None:
    records = msgspec.json.decode(rows, type=list[dict[str, msgspec.Raw]])
    return list(records[0]) if records else None


def _around(
    body: bytes,
    rows: msgspec.Raw,
    kind: Literal["values", "records", "columns"],
    columns: list[str],
    index: int | None,
) -> _Shape | None:
    """Cut the rows out of a body, if they can be told by where they stand.

    With a null in their place the body must be JSON whose rows are null: then whatever single value comes there is read as
    the rows, and the rest as it was.
    """
    cut = bytes(rows)
    at = body.find(cut)
    before, after = body[:at], body[at + len(cut) :]
    emptied = next(iter(_parts.decode(before + b"null" + after).values()))
    if kind == "values":
        emptied = _parts.decode(emptied)["data"]
    return _Shape(before, after, kind, tuple(columns), index) if bytes(emptied) == b"null" else None


def _layout(shape: _Shape, compiled: Compiled, hidden: Collection[str]) -> _Layout:
    kinds = {
        name: _CELLS[kind] | None if nullable else _CELLS[kind]
        for name, kind, nullable in zip(compiled.columns, compiled.kinds, compiled.nullable, strict=True)
    }
    cells = [kinds.get(name, Any if name in hidden else _SCALAR) for name in shape.columns]
    position = {name: place for place, name in enumerate(shape.columns)}
    logged = [name for name in shape.columns if name not in hidden]
    return _Layout(
        shape=shape,
        decode=_DECODERS[shape.kind](shape.columns, cells),
        position=position,
        inputs=_picker([position[name] for name in compiled.columns]),
        logged=logged,
        features=_picker([position[name] for name in logged]),
        cut=_cut(len(cells) - len(logged)) if _lists_end_with(shape, logged) else None,
    )


def _lists_end_with(shape: _Shape, logged: list[str]) -> bool:
    return shape.kind == "values" and len(logged) > 0 and list(shape.columns[-len(logged) :]) == logged


def _cut(hidden: int) -> Callable[[bytes, int], bytes | None]:
    """Return what takes the first cells out of every row of a JSON list of lists.

    If there is one bracket for each row and one for them all, brackets stand at the beginning of rows and nowhere else, not
    in a text either. What is taken out begins with one and consists of whole cells, so that as many cuts as rows are one in
    every row.
    """
    if not hidden:
        return lambda raw, rows: raw
    cells = re.compile(rb"\[\s*(?:%b\s*,\s*){%d}" % (_PLAIN_CELL, hidden))

    def cut(raw: bytes, rows: int) -> bytes | None:
        left, cuts = cells.subn(b"[", raw)
        # So counted because `bytes.count` takes five times as long.
        brackets = len(raw) - len(raw.replace(b"[", b""))
        return left if cuts == rows and brackets == rows + 1 else None

    return cut


def _values(columns: Sequence[str], cells: list[Any]) -> Callable[[memoryview], Sequence[Row]]:
    return msgspec.json.Decoder(list[tuple[tuple(cells)]]).decode  # type: ignore[misc]


def _records(columns: Sequence[str], cells: list[Any]) -> Callable[[memoryview], Sequence[Row]]:
    decoder = msgspec.json.Decoder(list[_struct(columns, cells)])  # type: ignore[misc]
    return lambda raw: list(map(astuple, decoder.decode(raw)))


def _columns(columns: Sequence[str], cells: list[Any]) -> Callable[[memoryview], Sequence[Row]]:
    decoder = msgspec.json.Decoder(_struct(columns, [list[cell] for cell in cells]))  # type: ignore[valid-type]

    def decode(raw: memoryview) -> Sequence[Row]:
        whole = astuple(decoder.decode(raw))
        if len(set(map(len, whole))) != 1:
            raise msgspec.ValidationError("columns differ in length")
        return list(zip(*whole, strict=True))

    return decode


_DECODERS = {"values": _values, "records": _records, "columns": _columns}


def _struct(columns: Sequence[str], cells: list[Any]) -> Any:
    """Return a type with these fields, all of them required and no others allowed, whatever they are called."""
    fields = {f"c{place}": name for place, name in enumerate(columns)}
    return msgspec.defstruct(
        "Named", list(zip(fields, cells, strict=True)), rename=fields, forbid_unknown_fields=True, gc=False
    )


def _picker(places: list[int]) -> Callable[[Row], Row]:
    """Return what takes these places out of a row."""
    start = places[0] if places else 0
    if places == list(range(start, start + len(places))):
        return itemgetter(slice(start, start + len(places)))
    return itemgetter(*places)
