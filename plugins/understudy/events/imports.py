"""Imports what came of events from files and tables, by the rules of ``POST /outcomes``: all of a table, or nothing of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from understudy.errors import OutcomesInvalid
from understudy.events.archive import segments_of
from understudy.events.lines import OutcomeLine, encode
from understudy.events.outcomes import BadOutcome, read_outcome
from understudy.events.tables import Rows
from understudy.events.upkeep import Upkeep
from understudy.events.writer import SEGMENT_BYTES, EventsUnwritable

__all__ = ["Columns", "Imported", "import_outcomes"]

_MOST_PROBLEMS = 100
_WHEN = "must be Unix seconds, or a time with its zone"


@dataclass(frozen=True)
class Columns:
    """Which column means what.

    Attributes:
        event_id: Names the event.
        outcome: The label; nothing where only named numbers are told. Nothing is taken as the column ``outcome`` if there is
            one.
        occurred_at: When it happened.
        values: Column of each named number.
    """

    event_id: str = "event_id"
    outcome: str | None = None
    occurred_at: str = "occurred_at"
    values: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Imported:
    """What was imported.

    Attributes:
        outcomes: How many the table holds.
        repeated: Whether the very same ones had been imported before, so that nothing was written.
    """

    outcomes: int
    repeated: bool


def import_outcomes(
    folder: Path, source: Rows, columns: Columns, received_at: float, *, segment_bytes: int = SEGMENT_BYTES
) -> Imported:
    """Import a table.

    Segments are named after what is in them. Importing the same again therefore changes nothing, and goes on where an
    import was killed; outcomes that a longer table holds once more count once, like any that is told twice.

    Args:
        folder: The model's folder in the event log.
        source: The table.
        columns: Which column means what.
        received_at: Unix seconds; the outcomes count from then on.
        segment_bytes: Size at which a segment ends.

    Raises:
        OutcomesInvalid: With every row that breaks a rule, or a column that is missing; nothing was imported.
        EventsBusy: Events of the model are being compacted, removed or imported.
        EventsUnwritable: The disk is full or read-only; nothing was imported, or what was is kept by the next attempt.
    """
    picked = _Picked(source, columns)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Upkeep(folder) as upkeep:
            spool = _Spool(upkeep.scratch, segment_bytes)
            for line in _checked(source, picked, received_at):
                spool.add(line)
            spool.end()
            published = [
                _publish(upkeep, part, f"import-{spool.name}-{number:06d}.jsonl")
                for number, part in enumerate(spool.parts)
            ]
            return Imported(spool.outcomes, bool(published) and not any(published))
    except OSError as error:
        raise EventsUnwritable(
            f"Outcomes of {folder.name} could not be imported ({error.strerror or type(error).__name__}). The event log needs "
            "a writable disk with free space; free some and import again: what is there already is not imported twice."
        ) from error


class _Picked:
    """The columns that are read, by position."""

    def __init__(self, source: Rows, columns: Columns) -> None:
        outcome = columns.outcome
        if outcome is None and "outcome" in source.columns:
            outcome = "outcome"
        if outcome is None and not columns.values:
            raise OutcomesInvalid(
                f"{source.name} has no column 'outcome', and no column of named numbers was asked for. Name the column of the "
                "label with --outcome, or those of numbers with --value."
            )
        self.names = {"event_id": columns.event_id, "occurred_at": columns.occurred_at}
        self.names |= {"outcome": outcome} if outcome else {}
        self.names |= {f"values.{name}": column for name, column in columns.values.items()}
        repeated = sorted({name for name in source.columns if list(source.columns).count(name) > 1})
        for column in self.names.values():
            if column not in source.columns or column in repeated:
                raise OutcomesInvalid(
                    f"{source.name} has {'two columns' if column in repeated else 'no column'} {column!r}; it has "
                    f"{', '.join(map(repr, source.columns)) or 'none'}. Each column that is asked for must be there once."
                )
        self.at = {fieldname: list(source.columns).index(column) for fieldname, column in self.names.items()}
        self.width = len(source.columns)

    def item(self, cells: Sequence[Any], *, textual: bool) -> dict[str, Any]:
        """Return a row as what ``POST /outcomes`` takes."""
        found = {name: _plain(cells[index], name, textual=textual) for name, index in self.at.items()}
        values = {
            name.removeprefix("values."): value
            for name, value in found.items()
            if name.startswith("values.") and value is not None
        }
        return {name: value for name, value in found.items() if "." not in name} | {"values": values}


def _plain(value: Any, name: str, *, textual: bool) -> Any:
    """Return a value of a file or database as JSON would have carried it."""
    if textual and value == "":
        return None
    if name == "event_id":
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if textual:
        return _number_in(value, name)
    if isinstance(value, datetime) and name == "occurred_at":
        return value.timestamp() if value.tzinfo else None
    return float(value) if isinstance(value, Decimal) else value


def _number_in(text: str, name: str) -> Any:
    truth = {"true": True, "false": False}.get(text.strip().lower())
    if truth is not None and name.startswith("values."):
        return truth
    try:
        return text if "_" in text else float(text)
    except ValueError:
        pass
    if name == "occurred_at":
        try:
            when = datetime.fromisoformat(text.strip())
        except ValueError:
            return text
        return when.timestamp() if when.tzinfo else text
    return text


def _checked(source: Rows, picked: _Picked, received_at: float) -> Iterator[OutcomeLine]:
    """Yield the outcomes; at the end, refuse all of them if one row was wrong."""
    problems: list[dict[str, Any]] = []
    bad = rows = 0
    for place, cells in source.rows:
        rows += 1
        try:
            if len(cells) != picked.width:
                raise BadOutcome("", f"has {len(cells)} cells, but there are {picked.width} columns")
            line = read_outcome(picked.item(cells, textual=source.textual), received_at)
        except BadOutcome as error:
            bad += 1
            if len(problems) < _MOST_PROBLEMS:
                rule = _WHEN if error.field == "occurred_at" else error.rule
                column = picked.names.get(error.field, error.field)
                problems.append({source.unit: place, "column": column, "rule": rule})
            continue
        if not bad:
            yield line
    if bad:
        first = problems[0]
        raise OutcomesInvalid(
            f"{bad:,} of {rows:,} rows of {source.name} break a rule, so nothing was imported. The first is {source.unit} "
            f"{first[source.unit]}: {first['column'] or 'it'} {first['rule']}. Correct them and import again.",
            problems,
        )


class _Spool:
    """Outcomes on their way into segments, which are named after them all."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.parts: list[Path] = []
        self.outcomes = 0
        self._folder, self._most = folder, segment_bytes
        self._waiting: list[bytes] = []
        self._size = 0
        self._digest = hashlib.sha256()

    @property
    def name(self) -> str:
        """Fingerprint of what was added; the moment of the import is no part of it."""
        return self._digest.hexdigest()[:32]

    def add(self, line: OutcomeLine) -> None:
        data = encode([line])
        if self._size + len(data) > self._most:
            self.end()
        self._digest.update(encode([msgspec.structs.replace(line, received_at=0.0)]))
        self._waiting.append(data)
        self._size += len(data)
        self.outcomes += 1

    def end(self) -> None:
        """Write what waits as a part."""
        if not self._waiting:
            return
        part = self._folder / f"{len(self.parts):06d}"
        with part.open("wb") as stream:
            stream.writelines(self._waiting)
            stream.flush()
            os.fsync(stream.fileno())
        self.parts.append(part)
        self._waiting, self._size = [], 0


def _publish(upkeep: Upkeep, part: Path, name: str) -> bool:
    """Make a part a segment, unless it is or was one already."""
    address = f"outcomes/{name}"
    if address in upkeep.archive.covered or address in segments_of(upkeep.folder, "outcomes"):
        return False
    upkeep.store(part, address)
    return True
