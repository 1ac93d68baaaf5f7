"""Complete lines of a segment as rows of DuckDB, one per event; a line that is no event becomes a row of nulls."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

__all__ = ["FIELDS", "VALID", "Spooled", "complete_lines", "count_lines", "parsed"]

_REQUEST = {
    "request_id": "VARCHAR",
    "trace_id": "VARCHAR",
    "received_at": "DOUBLE",
    "model": "VARCHAR",
    "run": "VARCHAR",
    "stage": "INTEGER",
    "generation": "BIGINT",
}
_ROW = {
    "event_id": "VARCHAR",
    "event_time": "DOUBLE",
    "arm": "VARCHAR",
    "version": "VARCHAR",
    "unit": "VARCHAR",
    "cohorts": "MAP(VARCHAR, VARCHAR)",
    "prediction": "DOUBLE",
    "latency_ms": "DOUBLE",
    "cpu_ms": "DOUBLE",
    "fallback": "BOOLEAN",
    "error": "VARCHAR",
}
_FEATURES = {"columns": "VARCHAR[]", "features": "JSON[][]"}

FIELDS = {
    "requests": _REQUEST | _ROW | {"features": "VARCHAR"},
    "mirrors": {
        "event_id": "VARCHAR",
        "request_id": "VARCHAR",
        "trace_id": "VARCHAR",
        "received_at": "DOUBLE",
        "event_time": "DOUBLE",
        "model": "VARCHAR",
        "run": "VARCHAR",
        "version": "VARCHAR",
        "prediction": "DOUBLE",
        "error": "VARCHAR",
        "latency_ms": "DOUBLE",
        "cpu_ms": "DOUBLE",
    },
    "outcomes": {
        "event_id": "VARCHAR",
        "outcome": "DOUBLE",
        "values": "MAP(VARCHAR, DOUBLE)",
        "occurred_at": "DOUBLE",
        "received_at": "DOUBLE",
    },
}
"""Every column of an event by kind, with its type; ``features`` is an object of names and values, as JSON text."""

VALID = {
    "requests": "event_id <> '' AND arm <> '' AND stage >= 0 AND isfinite(received_at) AND isfinite(event_time)",
    "mirrors": "event_id <> '' AND isfinite(received_at)",
    "outcomes": "event_id <> '' AND isfinite(received_at)",
}
"""What makes a row an event, as SQL."""


def parsed(
    path: str, kind: str, wanted: Iterable[str], *, hidden: Iterable[str] = (), numbered: bool = False
) -> str:
    """Return the events of a file of complete lines as an SQL relation, in the order of the file.

    Args:
        path: the file.
        kind: ``"requests"``, ``"mirrors"`` or ``"outcomes"``.
        wanted: columns of :data:`FIELDS`; what is not asked for is not parsed.
        hidden: names that are left out of features and cohorts.
        numbered: add ``line``, the number of the event's line among those that are not blank, 1 for the first.

    Returns:
        SQL in brackets: the wanted columns and ``nth``, the event's place in its line, 1 for the first. A request line that
        holds no events gives no row.
    """
    wanted = tuple(wanted)
    number = "line, " if numbered else ""
    if kind != "requests":
        read = _read_json(path, {name: FIELDS[kind][name] for name in wanted}, numbered)
        return f"(SELECT {_quoted(wanted)}, {number}1 AS nth FROM {read})"
    columns = {name: FIELDS[kind][name] for name in wanted if name != "features"} | {"event_id": "VARCHAR"}
    lists = {name: f"{type_}[]" if name in _ROW else type_ for name, type_ in columns.items()}
    rows = [f"unnest({name}) AS {name}" if name in _ROW else name for name in columns]
    if "features" in wanted:
        lists |= _FEATURES
        rows += ["columns", "unnest(features) AS known"]
    shown = _shown(hidden)
    picked = ", ".join(shown.get(name, name) for name in wanted)
    unnested = f"{number}{', '.join(rows)}, generate_subscripts(event_id, 1) AS nth"
    return f"(SELECT {picked}, {number}nth FROM (SELECT {unnested} FROM {_read_json(path, lists, numbered)}))"


def _shown(hidden: Iterable[str]) -> dict[str, str]:
    """Return features, as an object, and cohorts without some names, as SQL."""
    names = ", ".join("'" + name.replace("'", "''") + "'" for name in hidden)
    pairs, cohorts = "list_zip(columns, known)", "cohorts"
    if names:
        pairs = f"list_filter({pairs}, lambda pair: pair[1] NOT IN ({names}))"
        entries = f"list_filter(map_entries({cohorts}), lambda entry: entry.key NOT IN ({names}))"
        cohorts = f"map_from_entries({entries}) AS cohorts"
    return {"features": _OBJECT.format(pairs=pairs), "cohorts": cohorts}


_OBJECT = """'{{' || array_to_string(list_transform({pairs},
    lambda pair: to_json(pair[1])::VARCHAR || ':' || coalesce(pair[2]::VARCHAR, 'null')), ',') || '}}' AS features"""


def complete_lines(path: Path) -> bytes:
    """Return a segment up to its last newline: what follows was never acknowledged."""
    data = path.read_bytes()
    return data[: data.rfind(b"\n") + 1]


def count_lines(data: bytes) -> int:
    """Return how many lines are not blank."""
    return sum(1 for line in data.split(b"\n") if line.strip())


class Spooled:
    """A private temporary file with complete lines, so that DuckDB never sees a line that is still being written."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __enter__(self) -> str:
        handle, self._path = tempfile.mkstemp(suffix=".jsonl")
        with os.fdopen(handle, "wb") as stream:
            stream.write(self._data)
        return self._path

    def __exit__(self, *_: object) -> None:
        Path(self._path).unlink()


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _read_json(path: str, fields: dict[str, str], numbered: bool) -> str:
    columns = ", ".join(f"\"{name}\": '{kind}'" for name, kind in fields.items())
    quoted = path.replace("'", "''")
    read = (
        f"read_json('{quoted}', format = 'newline_delimited', ignore_errors = true, columns = {{{columns}}})"
    )
    return f"(SELECT *, row_number() OVER () AS line FROM {read})" if numbered else read
