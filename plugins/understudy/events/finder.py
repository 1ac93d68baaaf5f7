"""Finds events by an id in the whole log: a scan for the id's bytes, so that only lines which hold it are parsed."""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import duckdb
import msgspec

from understudy.events.archive import Sources, sources
from understudy.events.lines import MirroredRow, OutcomeLine, RequestLine
from understudy.events.parquet import read_parquet
from understudy.events.writer import Kind

__all__ = ["find_events"]

_IDS: Mapping[str, tuple[str, ...]] = {
    "requests": ("event_id", "request_id", "trace_id"),
    "mirrors": ("event_id", "request_id", "trace_id"),
    "outcomes": ("event_id",),
}
_DECODERS: Mapping[str, msgspec.json.Decoder[Any]] = {
    "requests": msgspec.json.Decoder(RequestLine),
    "mirrors": msgspec.json.Decoder(MirroredRow),
    "outcomes": msgspec.json.Decoder(OutcomeLine),
}


def find_events(events_dir: Path, kind: Kind, ids: Collection[str]) -> list[dict[str, Any]]:
    """Return the events of a kind that bear one of some ids, of every model, as they were logged.

    Args:
        events_dir: Root of the event log.
        kind: ``"requests"``, ``"mirrors"`` or ``"outcomes"``.
        ids: Ids of events, requests or traces; outcomes are known by their event's only.

    Returns:
        One dict an event, by receipt, with the fields of its line but its features; outcomes have their ``model`` added.
    """
    found: list[dict[str, Any]] = []
    for folder in sorted(path for path in events_dir.glob("*") if path.is_dir()) if ids else ():
        found += [{"model": folder.name} | event for event in _of_model(folder, kind, ids)]
    return sorted(found, key=lambda event: float(event["received_at"]))


def _of_model(folder: Path, kind: Kind, ids: Collection[str]) -> list[dict[str, Any]]:
    while True:
        where = sources(folder, kind)
        try:
            return [*_in_segments(where, kind, ids), *_in_partitions(where, kind, ids)]
        except (FileNotFoundError, duckdb.IOException):
            if sources(folder, kind) == where:  # nothing was moved meanwhile: a file is really missing
                raise


def _in_segments(where: Sources, kind: Kind, ids: Collection[str]) -> Iterator[dict[str, Any]]:
    for path in where.segments:
        for line in _lines_with(path, ids):
            try:
                event = _DECODERS[kind].decode(line)
            except msgspec.DecodeError:
                continue
            events = event.events() if kind == "requests" else [msgspec.structs.asdict(event)]
            yield from (fields for fields in events if any(fields[name] in ids for name in _IDS[kind]))


def _lines_with(path: Path, ids: Collection[str]) -> list[bytes]:
    """Return the complete lines of a segment that hold one of the ids as a JSON text."""
    with path.open("rb") as stream:
        try:
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # it is empty
            return []
        with data:
            found = {}
            for wanted in map(msgspec.json.encode, ids):
                at = data.find(wanted)
                while at >= 0:
                    start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
                    if end < 0:  # never acknowledged
                        break
                    found[start] = data[start:end]
                    at = data.find(wanted, end)
            return [line for _, line in sorted(found.items())]


def _in_partitions(where: Sources, kind: Kind, ids: Collection[str]) -> Iterator[dict[str, Any]]:
    if not where.addresses:
        return
    matches = " OR ".join(f"{name} IN (SELECT unnest($ids))" for name in _IDS[kind])
    with duckdb.connect(":memory:") as connection:
        relation = read_parquet(connection, where.addresses)
        cursor = connection.execute(f"SELECT * FROM {relation} WHERE {matches}", {"ids": list(ids)})
        names = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            yield {name: value for name, value in zip(names, row, strict=True) if name != "features"}
