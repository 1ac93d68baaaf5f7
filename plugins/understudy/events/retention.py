"""Removes events that are old enough, whole files at a time, and says what is stored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.events.archive import KINDS, Archive, Closed, Compacted, Retired, segments_of, torn_lines
from understudy.events.upkeep import Upkeep, locked
from understudy.events.writer import EventsUnwritable

__all__ = ["Retention", "inventory", "retain"]

_DAY = 86400.0


@dataclass
class Retention:
    """What was removed.

    Attributes:
        partitions: Files.
        events: Events in them.
        segments: Segments that were never compacted.
        bytes: Space that is free again.
    """

    partitions: int = 0
    events: int = 0
    segments: int = 0
    bytes: int = 0


def retain(folder: Path, *, days: float, now: float, needed_from: float | None = None) -> Retention:
    """Remove every partition, and every segment that nobody writes, whose newest event is older than some days.

    Args:
        folder: The model's folder in the event log.
        days: What was received longer ago goes.
        now: Unix seconds.
        needed_from: Nothing goes that was received at or after this, however old: a run that is on still counts it.

    Raises:
        EventsBusy: Another process compacts or removes events of this model.
        EventsUnwritable: The disk or the storage refuses.
    """
    found = Retention()
    before = now - days * _DAY if needed_from is None else min(now - days * _DAY, needed_from)
    if not folder.is_dir():
        return found
    try:
        with Upkeep(folder) as upkeep:
            _retire_partitions(upkeep, before, found)
            _retire_segments(upkeep, before, found)
    except OSError as error:
        raise EventsUnwritable(
            f"Old events of {folder.name} could not be removed: {error}. What was begun is finished by the next attempt; make "
            "the storage reachable and writable."
        ) from error
    return found


def _retire_partitions(upkeep: Upkeep, before: float, found: Retention) -> None:
    old = [part for kind in KINDS for part in upkeep.archive.alive(kind) if part.newest < before]
    if old:
        upkeep.write(Retired([part.path for part in old]))
        upkeep.remove(*(part.path for part in old))
    found.partitions += len(old)
    found.events += sum(part.rows for part in old)
    found.bytes += sum(part.bytes for part in old)


def _retire_segments(upkeep: Upkeep, before: float, found: Retention) -> None:
    """Remove segments that could not be compacted, as a compaction to nothing, so that no reader starts again."""
    for kind in KINDS:
        for name, path in segments_of(upkeep.folder, kind).items():
            status = path.stat()
            if status.st_mtime >= before:
                continue
            try:
                with locked(path):
                    upkeep.write(Compacted("", {name: Closed(status.st_size, torn=False)}, []))
                    upkeep.remove(name)
            except BlockingIOError:
                continue
            found.segments += 1
            found.bytes += status.st_size


def inventory(folder: Path) -> dict[str, Any]:
    """Return what is stored of a model's events.

    Returns:
        ``compactions``, ``torn_lines`` (see :func:`~understudy.events.archive.torn_lines`), and by kind ``segments`` and
        ``segment_bytes`` that are not compacted, ``partitions``, ``partition_bytes``, ``events`` in partitions, and
        ``oldest`` and ``newest`` receipt in them as Unix seconds, null where there are none.

    Raises:
        EventsUnreadable: The journal cannot be read.
    """
    segments = {kind: segments_of(folder, kind) for kind in KINDS}
    archive = Archive(folder)
    archive.refresh()
    kinds = {}
    for kind in KINDS:
        left = [path for name, path in segments[kind].items() if name not in archive.covered]
        alive = archive.alive(kind)
        kinds[kind] = {
            "segments": len(left),
            "segment_bytes": sum(path.stat().st_size for path in left if path.exists()),
            "partitions": len(alive),
            "partition_bytes": sum(part.bytes for part in alive),
            "events": sum(part.rows for part in alive),
            "oldest": min((part.oldest for part in alive), default=None),
            "newest": max((part.newest for part in alive), default=None),
        }
    return {"compactions": len(archive.done), "torn_lines": torn_lines(folder), "kinds": kinds}
