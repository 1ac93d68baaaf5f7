"""What of a model's event log has been compacted: which segments became which Parquet files.

The journal ``compacted.jsonl`` is the only authority on that. A compaction is done once its line is there; its Parquet files
count from then on, and its segments do not count any more, whether or not they are still on disk. Whoever reads the log
therefore lists the segments first and reads the journal afterwards: a segment that was missing in the list is in the journal.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

import msgspec

from understudy.errors import EventsUnreadable
from understudy.events.writer import Kind

__all__ = [
    "KINDS",
    "Archive",
    "Began",
    "Closed",
    "Compacted",
    "Partition",
    "Retired",
    "Sources",
    "segments_of",
    "sources",
    "torn_lines",
]

KINDS: tuple[Kind, ...] = ("requests", "mirrors", "outcomes")


class Closed(msgspec.Struct, frozen=True):
    """A segment that was compacted: the bytes of its complete lines, and whether a torn line after them was cut."""

    bytes: int
    torn: bool


class Partition(msgspec.Struct, frozen=True):
    """A Parquet file with the events of one kind that were received in one hour.

    Attributes:
        kind: What it holds.
        path: Relative to the model's folder, or a URL.
        rows: How many events.
        bytes: Its size.
        oldest: Unix second of the first receipt.
        newest: Unix second of the last receipt.
    """

    kind: Kind
    path: str
    rows: int
    bytes: int
    oldest: float
    newest: float


class Began(msgspec.Struct, frozen=True, tag="began"):
    """A compaction began; unless it is followed by its end, files that bear its name are leftovers.

    Attributes:
        name: Its name, and that of each of its files.
        root: URL under which it writes them; empty below the model's folder.
    """

    name: str
    root: str


class Compacted(msgspec.Struct, frozen=True, tag="compacted"):
    """A compaction is done: its segments, by kind and file name, are now these partitions."""

    name: str
    segments: dict[str, Closed]
    partitions: list[Partition]


class Retired(msgspec.Struct, frozen=True, tag="retired"):
    """Partitions that were removed because they were old enough."""

    paths: list[str]


class Archive:
    """The journal of one model, read incrementally.

    Args:
        folder: The model's folder in the event log.

    Attributes:
        path: The journal.
        done: Every compaction so far, in order.
        covered: Number of the compaction, from 1, and end of every segment that was compacted.
        retired: Paths of partitions that were removed.
        last: The last entry.
        totals: Segments of the compactions up to each one, and torn lines that were cut in them, from none on.
        size: Bytes of the journal's complete lines.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "compacted.jsonl"
        self._forget()

    def _forget(self) -> None:
        self.done: list[Compacted] = []
        self.covered: dict[str, tuple[int, Closed]] = {}
        self.retired: set[str] = set()
        self.last: Began | Compacted | Retired | None = None
        self.totals = [(0, 0)]
        self.size = 0
        self._inode = 0

    def refresh(self) -> None:
        """Read on.

        Raises:
            EventsUnreadable: A line of the journal cannot be read.
        """
        try:
            stream = self.path.open("rb")
        except FileNotFoundError:
            self._forget()
            return
        with stream:
            status = os.fstat(stream.fileno())
            if status.st_ino != self._inode or status.st_size < self.size:
                self._forget()
                self._inode = status.st_ino
            if status.st_size == self.size:
                return
            stream.seek(self.size)
            data = stream.read()
        end = data.rfind(b"\n") + 1
        for line in data[:end].splitlines():
            self._take(line)
        self.size += end

    def alive(self, kind: str, compactions: list[Compacted] | None = None) -> list[Partition]:
        """Return the partitions of a kind that are still there, of all compactions or of some."""
        return [
            partition
            for compaction in (self.done if compactions is None else compactions)
            for partition in compaction.partitions
            if partition.kind == kind and partition.path not in self.retired
        ]

    def address(self, partition: Partition) -> str:
        """Return the path or URL under which a partition can be opened."""
        return partition.path if "://" in partition.path else str(self.folder / partition.path)

    def _take(self, line: bytes) -> None:
        try:
            entry = _decoder.decode(line)
        except msgspec.DecodeError as error:
            raise EventsUnreadable(
                f"{self.path} has a line that is no entry of the journal: {error}. Without it nobody can tell which events "
                "count; restore the file from a backup."
            ) from error
        self.last = entry
        if isinstance(entry, Compacted):
            self.done.append(entry)
            segments, torn = self.totals[-1]
            cut = sum(closed.torn for closed in entry.segments.values())
            self.totals.append((segments + len(entry.segments), torn + cut))
            number = len(self.done)
            self.covered |= {name: (number, closed) for name, closed in entry.segments.items()}
        elif isinstance(entry, Retired):
            self.retired.update(entry.paths)


_decoder = msgspec.json.Decoder(Began | Compacted | Retired)


@dataclass(frozen=True)
class Sources:
    """Everything that holds events of one kind at one moment: addresses of partitions, and segments."""

    partitions: tuple[Partition, ...]
    addresses: tuple[str, ...]
    segments: tuple[Path, ...]


def segments_of(folder: Path, kind: str) -> dict[str, Path]:
    """Return the segments of a kind on disk, in order, under the names that they have in the journal."""
    return {f"{kind}/{path.name}": path for path in sorted((folder / kind).glob("*.jsonl"))}


def sources(folder: Path, kind: str) -> Sources:
    """Return where the events of a kind are. A segment may be compacted away before it is opened: then ask again."""
    segments, archive = segments_of(folder, kind), Archive(folder)
    archive.refresh()
    partitions = tuple(archive.alive(kind))
    return Sources(
        partitions,
        tuple(map(archive.address, partitions)),
        tuple(path for name, path in segments.items() if name not in archive.covered),
    )


def torn_lines(folder: Path) -> int:
    """Return how many unfinished last lines killed processes have left: those still there, and those that compactions cut.

    Nobody was ever told that such a line was written.

    Raises:
        EventsUnreadable: The journal cannot be read.
    """
    segments = {name: path for kind in KINDS for name, path in segments_of(folder, kind).items()}
    archive = Archive(folder)
    archive.refresh()
    left = (path for name, path in segments.items() if name not in archive.covered)
    return archive.totals[-1][1] + sum(map(_ends_torn, left))


def _ends_torn(segment: Path) -> bool:
    try:
        with segment.open("rb") as stream:
            if not stream.seek(0, os.SEEK_END):
                return False
            stream.seek(-1, os.SEEK_END)
            if stream.read(1) == b"\n":
                return False
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
    except (BlockingIOError, FileNotFoundError):  # it is being written, or was compacted just now
        return False
