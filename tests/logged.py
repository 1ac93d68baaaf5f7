"""Events as flat dictionaries, which tests are easily written with, and as lines of the event log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from understudy.events.lines import Line, MirroredRow, OutcomeLine, RequestLine

_BY_ROW = (
    "event_id",
    "event_time",
    "arm",
    "version",
    "unit",
    "cohorts",
    "prediction",
    "latency_ms",
    "cpu_ms",
    "fallback",
    "error",
)
_OF_LINE = ("request_id", "trace_id", "received_at", "model", "run", "stage", "generation")


def line_of(*events: Mapping[str, Any]) -> dict[str, Any]:
    """Return flat events of one request as its line; what is the same for all is taken from the first."""
    columns = list(events[0].get("features", {}))
    return {
        **{name: events[0].get(name) for name in _OF_LINE},
        **{name: [event.get(name) for event in events] for name in _BY_ROW},
        "columns": columns,
        "features": [[event.get("features", {}).get(name) for name in columns] for event in events],
    }


def events_of(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a request line as flat dictionaries."""
    shared = {name: line[name] for name in _OF_LINE}
    rows = zip(*(line[name] for name in _BY_ROW), line["features"], strict=True)
    return [
        shared
        | dict(zip(_BY_ROW, row, strict=True))
        | {"features": dict(zip(line["columns"], known, strict=True))}
        for *row, known in rows
    ]


def request_of(*events: Mapping[str, Any]) -> RequestLine:
    """Return flat events of one request as what an `EventWriter` takes."""
    return RequestLine(**line_of(*events))


def lines_of(kind: str, events: Iterable[Mapping[str, Any]]) -> list[Line]:
    """Return flat events as what an `EventWriter` takes, one request per event."""
    if kind == "requests":
        return [request_of(event) for event in events]
    shape = MirroredRow if kind == "mirrors" else OutcomeLine
    return [shape(**{name: event.get(name) for name in shape.__struct_fields__}) for event in events]


def logged_events(events_dir: Path, model: str, kind: str = "requests") -> list[dict[str, Any]]:
    """Return every event of a kind in a model's segments."""
    lines = [
        json.loads(line)
        for path in sorted((events_dir / model / kind).glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [event for line in lines for event in events_of(line)] if kind == "requests" else lines
