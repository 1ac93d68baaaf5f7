"""Appends events to JSON-lines segments so that a crash loses nothing that was acknowledged.

A segment belongs to one writer, which belongs to one process start; nobody ever appends to a segment that somebody else
may have torn. All lines of one call reach the operating system in one write, or none of them stay. A writer holds a lock
on its segment; the operating system lets go of it when the process ends, however it ends. A segment that nobody has locked
is never written again.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from uuid import uuid4

from understudy.errors import UnderstudyError
from understudy.events.lines import Line, RequestLine, encode

__all__ = ["SEGMENT_BYTES", "SEGMENT_SECONDS", "EventWriter", "EventsUnwritable", "Kind"]

Kind = Literal["requests", "mirrors", "outcomes"]

SEGMENT_BYTES = 64 * 1024 * 1024
"""Size at which a writer starts its next segment."""

SEGMENT_SECONDS = 3600.0
"""Age at which a writer leaves its segment, so that it can be compacted although nothing more comes."""

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
        segment_bytes: Size at which the next segment is started.
        segment_seconds: Age at which a segment is left.

    Attributes:
        written: Events that reached the operating system.
        failed: Events that did not.
        written_at: Unix second of the last write; nothing before the first.
    """

    def __init__(
        self,
        events_dir: Path,
        model: str,
        kind: Kind,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
    ) -> None:
        if not _SAFE_NAME.fullmatch(model):
            raise ValueError(f"{model!r} cannot be part of a path; use letters, digits, '_', '-' and '.'")
        self.folder = events_dir / model / kind
        self.written = 0
        self.failed = 0
        self.written_at: float | None = None
        # Nobody ever writes a segment of that name again: the journal says of a name that it was compacted.
        self._name = f"{int(time.time()):x}-{uuid4().hex[:12]}"
        self._segment_bytes = segment_bytes
        self._segment_seconds = segment_seconds
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._leaver: threading.Timer | None = None
        self._size = 0
        self._sequence = 0

    def append(self, lines: Sequence[Line]) -> None:
        """Write lines; when this returns they have reached the operating system.

        Args:
            lines: Lines of this writer's kind.

        Raises:
            EventsUnwritable: None of them is in the log.
        """
        if not lines:
            return
        data = encode(lines)
        events = sum(len(line.event_id) if isinstance(line, RequestLine) else 1 for line in lines)
        with self._lock:
            try:
                self._write(data)
            except OSError as error:
                self.failed += events
                raise EventsUnwritable(
                    f"{events} event(s) could not be written to {self.folder.parent.name}/{self.folder.name} "
                    f"({error.strerror or type(error).__name__}). The event log needs a writable disk with free space; "
                    "free some and writing goes on by itself."
                ) from error
            self.written += events
            self.written_at = time.time()

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
            path = self.folder / f"{self._name}-{self._sequence:06d}.jsonl"
            self._sequence += 1
            try:
                self._handle = _create(path)
            except BlockingIOError:  # a compaction was faster than the lock
                continue
            self._size = 0
            self._leaver = threading.Timer(self._segment_seconds, self._leave, (self._handle, self._sequence))
            self._leaver.daemon = True
            self._leaver.start()
        return self._handle

    def _leave(self, handle: int, sequence: int) -> None:
        """Leave a segment for its age, unless that has happened."""
        with self._lock:
            if (self._handle, self._sequence) == (handle, sequence):
                self._leave_segment()

    def _leave_segment(self) -> None:
        if self._leaver is not None:
            self._leaver.cancel()
            self._leaver = None
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


def _create(path: Path) -> int:
    """Create and lock a segment.

    Raises:
        BlockingIOError: Somebody else has locked it, or removed it, since it was created.
    """
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL
    try:
        handle = os.open(path, flags, 0o640)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, flags, 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.fstat(handle).st_nlink:
            raise BlockingIOError
    except OSError:
        os.close(handle)
        raise
    return handle
