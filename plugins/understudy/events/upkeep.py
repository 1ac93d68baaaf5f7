"""Changes what is stored of a model's events: one process at a time, and whatever a crash left behind is put right first."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self

import msgspec

from understudy.errors import EventsBusy
from understudy.events.archive import KINDS, Archive, Began, Compacted, Retired, segments_of
from understudy.events.parquet import filesystem

__all__ = ["Upkeep", "locked"]

_LOCAL = "file://"


class Upkeep:
    """The right to change what is stored, for as long as the context lasts.

    Args:
        folder: The model's folder in the event log; it must exist.

    Attributes:
        archive: The journal, up to date.
        scratch: Folder for files that are not finished; empty at first.

    Raises:
        EventsBusy: Somebody else has it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.archive = Archive(folder)
        self.scratch = folder / "compacting"
        self._open = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            try:
                opened.enter_context(locked(self.folder / "compacting.lock", create=True))
            except BlockingIOError:
                raise EventsBusy(
                    f"Events of {self.folder.name} are being compacted, imported or removed by another process. One does it "
                    "at a time; try again when it has ended."
                ) from None
            self.archive.refresh()
            self._put_right()
            self._open = opened.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, entry: Began | Compacted | Retired) -> None:
        """Add an entry to the journal; when this returns it is on the disk."""
        data = msgspec.json.encode(entry) + b"\n"
        handle = os.open(self.archive.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
        try:
            while data:
                data = data[os.write(handle, data) :]
            os.fsync(handle)
        finally:
            os.close(handle)
        _sync(self.folder)
        self.archive.refresh()

    def store(self, finished: Path, address: str) -> None:
        """Move a finished file to where it belongs: a path below the folder, or a URL. Afterwards it is there for good."""
        if "://" not in address or address.startswith(_LOCAL):
            _place(finished, self.folder / address.removeprefix(_LOCAL))
            return
        storage, path = filesystem(address)
        storage.makedirs(path.rpartition("/")[0], exist_ok=True)
        storage.put_file(str(finished), path)
        if storage.size(path) != finished.stat().st_size:
            raise OSError(f"{address} has not the size of what was stored there")
        finished.unlink()

    def remove(self, *addresses: str) -> None:
        """Remove partitions and segments that the journal does not count any more; it is no matter if they are gone."""
        for address in addresses:
            if "://" in address and not address.startswith(_LOCAL):
                storage, path = filesystem(address)
                if storage.exists(path):
                    storage.rm_file(path)
                continue
            local = self.folder / address.removeprefix(_LOCAL)
            local.unlink(missing_ok=True)
            for parent in (local.parent, local.parent.parent):
                if (
                    parent.name.startswith(("hour=", "day="))
                    and parent.is_dir()
                    and not any(parent.iterdir())
                ):
                    parent.rmdir()

    def _put_right(self) -> None:
        archive = self.archive
        if archive.path.exists() and archive.path.stat().st_size > archive.size:
            os.truncate(archive.path, archive.size)
        if isinstance(archive.last, Began):
            self.remove(*self._leftovers(archive.last))
        elif isinstance(archive.last, Retired):
            self.remove(*archive.last.paths)
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()
        self.remove(
            *(name for kind in KINDS for name in segments_of(self.folder, kind) if name in archive.covered)
        )

    def _leftovers(self, began: Began) -> Iterator[str]:
        pattern = f"*/day=*/hour=*/{began.name}.parquet*"
        if not began.root:
            yield from (str(path.relative_to(self.folder)) for path in self.folder.glob(pattern))
            return
        storage, path = filesystem(began.root)
        yield from (storage.unstrip_protocol(found) for found in storage.glob(f"{path}/{pattern}"))


@contextmanager
def locked(path: Path, *, create: bool = False) -> Iterator[int]:
    """Hold the lock of a file.

    Args:
        path: The file.
        create: Whether it is made where it is missing.

    Raises:
        BlockingIOError: Somebody else holds it.
        FileNotFoundError: There is no such file.
    """
    handle = os.open(path, os.O_RDWR | (os.O_CREAT if create else 0), 0o640)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield handle
    finally:
        os.close(handle)


def _place(finished: Path, target: Path) -> None:
    """Move a file and make sure that a loss of power does not undo it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if finished.stat().st_dev != target.parent.stat().st_dev:
        beside = target.with_name(f"{target.name}.part")
        shutil.copyfile(finished, beside)
        finished.unlink()
        finished = beside
    with finished.open("rb") as stream:
        os.fsync(stream.fileno())
    finished.replace(target)
    for parent in list(target.parents)[:3]:
        _sync(parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
