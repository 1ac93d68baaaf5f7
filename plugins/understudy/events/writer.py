"""Appends events to JSON-lines segments so that a crash loses nothing that was acknowledged.

A segment belongs to one writer, which belongs to one process start; nobody ever appends to a segment that somebody else
may have torn. All lines of one call reach the operating system in one write, or none of them stay.
"""

from __future__ import annotations

import json
import math
import os
import re
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from understudy.errors import UnderstudyError

__all__ = ["SEGMENT_BYTES", "EventWriter", "EventsUnwritable", "Kind"]

Kind = Literal["requests", "mirrors", "outcomes"]

SEGMENT_BYTES = 64 * 1024 * 1024
"""Size at which a writer starts its next segment."""

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class EventsUnwritable(UnderstudyError):
    """The event log cannot take events: the disk is full, read-only or gone."""

    code = "EVENTS_UNWRITABLE"


class EventWriter:
    """Writes one kind of event of one model, from one process. Safe to call from several threads.

    Args:
        events_dir: Root of the event log.
        model: Registered model name; its folder is created on the first write.
        kind: ``"requests"``, ``"mirrors"`` or ``"outcomes"``.
        writer_id: Name of this process start; it must never be used by a later one.
        segment_bytes: Size at which the next segment is started.

    Attributes:
        written: Events that reached the operating system.
        failed: Events that did not.
    """

    def __init__(
        self, events_dir: Path, model: str, kind: Kind, writer_id: str, *, segment_bytes: int = SEGMENT_BYTES
    ) -> None:
        for name in (model, writer_id):
            if not _SAFE_NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot be part of a path; use letters, digits, '_', '-' and '.'")
        self.folder = events_dir / model / kind
        self.written = 0
        self.failed = 0
        self._writer_id = writer_id
        self._segment_bytes = segment_bytes
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._size = 0
        self._sequence = 0

    def append(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Write events; when this returns they have reached the operating system.

        Args:
            events: JSON-safe mappings; NaN and infinities become null.

        Raises:
            EventsUnwritable: None of them is in the log.
        """
        lines = [_line(event) for event in events]
        if not lines:
            return
        data = b"".join(lines)
        with self._lock:
            try:
                self._write(data)
            except OSError as error:
                self.failed += len(lines)
                raise EventsUnwritable(
                    f"{len(lines)} event(s) could not be written to {self.folder.parent.name}/{self.folder.name} "
                    f"({error.strerror or type(error).__name__}). The event log needs a writable disk with free space; "
                    "free some and writing goes on by itself."
                ) from error
            self.written += len(lines)

    def close(self) -> None:
        """Close the segment; a later write starts a new one."""
        with self._lock:
            self._leave_segment()

    def _write(self, data: bytes) -> None:
        handle = self._segment(len(data))
        done = 0
        try:
            while done < len(data):
                # One write takes everything; a short one is followed by the error that says why.
                done += os.write(handle, data[done:])
        except OSError:
            self._take_back(handle)
            raise
        self._size += len(data)

    def _take_back(self, handle: int) -> None:
        """Remove what a failed write left behind, so that the segment ends with a complete line."""
        try:
            os.ftruncate(handle, self._size)
            clean = True
        except OSError:
            clean = False
        # A clean empty segment is used again, or a full disk would collect one empty file per attempt.
        if not clean or self._size:
            self._leave_segment()

    def _segment(self, incoming: int) -> int:
        """Return the open segment, or the next one when this one is full."""
        if self._handle is not None and self._size and self._size + incoming > self._segment_bytes:
            self._leave_segment()
        while self._handle is None:
            path = self.folder / f"{self._writer_id}-{self._sequence:06d}.jsonl"
            self._sequence += 1
            try:
                self._handle = _create(path)
            except FileExistsError:
                # Left by a process of the same name; its end may be torn, so it is never appended to.
                continue
            self._size = 0
        return self._handle

    def _leave_segment(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _create(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
    try:
        return os.open(path, flags, 0o640)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o640)


def _line(event: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(event, allow_nan=False, separators=(",", ":"))
    except (ValueError, TypeError):
        text = json.dumps(_plain(event), allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def _plain(value: Any) -> Any:
    """Return a value that strict JSON can carry."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int)):
        return value
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas' own nulls
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # NumPy scalars and arrays
        return _plain(value.tolist())
    return str(value)
