"""Files that are kept under the digest of their content, so that nobody can put another content in their place unnoticed."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

from understudy.errors import SnapshotBroken

__all__ = ["Snapshots"]

_AT_ONCE = 1 << 20
_GRACE = 86400.0
_UNFINISHED = "new-"


class Snapshots:
    """A folder of immutable files, ``<first two digits>/<SHA-256 of the content>``.

    Only its owner may read them: datasets hold whatever their owner put into them.

    Args:
        folder: Where they lie; made when something is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, digest: str) -> Path:
        """Return where the content with this SHA-256 lies, if it is kept."""
        return self.folder / digest[:2] / digest

    def keep(self, content: bytes) -> str:
        """Keep some bytes and return their SHA-256.

        Raises:
            SnapshotBroken: They cannot be written, or do not read back.
        """
        return self._keep(io.BytesIO(content), "")

    def keep_file(self, path: Path) -> str:
        """Keep a copy of a file and return the SHA-256 of what was copied.

        Raises:
            SnapshotBroken: It cannot be read or written, or does not read back.
        """
        try:
            with path.open("rb") as stream:
                return self._keep(stream, f" of {path}")
        except OSError as error:
            raise self._unwritten(f" of {path}", error) from error

    def proven(self, digest: str) -> Path:
        """Return where some content lies, once it is proven to be what was kept.

        Raises:
            SnapshotBroken: It is missing, or its content is not what was kept.
        """
        found = self.found(digest)
        if found != digest:
            says = f"hashes to {found[:12]}" if found else "is missing or unreadable"
            raise SnapshotBroken(
                f"The snapshot {self.path(digest)} {says}. Snapshots never change, and a rollback point needs this one: put it "
                "back from a backup, or start a new run, which keeps its own."
            )
        return self.path(digest)

    def read(self, digest: str) -> bytes:
        """Return what is kept under a digest.

        Raises:
            SnapshotBroken: It is missing, or its content is not what was kept.
        """
        return self.proven(digest).read_bytes()

    def found(self, digest: str) -> str | None:
        """Return what the content kept under a digest hashes to now; None where there is none that can be read."""
        try:
            with self.path(digest).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            return None

    def sweep(self, needed: Collection[str], now: float) -> int:
        """Remove what nobody needs any more or was never finished, and return how many bytes that freed.

        Args:
            needed: Digests that stay.
            now: Unix seconds. What was kept within the last day stays too: its rollback point may not be written yet.
        """
        freed = 0
        for path in (*self.folder.glob("??/*"), *self.folder.glob(f"{_UNFINISHED}*")):
            told = path.stat()
            if path.name not in needed and told.st_mtime < now - _GRACE:
                path.unlink(missing_ok=True)
                freed += told.st_size
        return freed

    def _keep(self, stream: BinaryIO, what: str) -> str:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=self.folder, prefix=_UNFINISHED)
            try:
                digest = _copy(stream, handle)
                path = self.path(digest)
                path.parent.mkdir(exist_ok=True)
                if self.found(digest) == digest:
                    os.utime(path)  # it is needed again, so it is young again
                else:
                    Path(name).replace(path)
                    _sync(path.parent)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritten(what, error) from error
        if self.found(digest) != digest:
            raise SnapshotBroken(
                f"The snapshot{what} was written to {path} and does not read back. Look after the disk, then start again."
            )
        return digest

    def _unwritten(self, what: str, error: OSError) -> SnapshotBroken:
        return SnapshotBroken(
            f"A snapshot{what} cannot be kept in {self.folder} ({error}). It must be readable there and have free space; "
            "put that right and start again."
        )


def _copy(stream: BinaryIO, handle: int) -> str:
    digest = hashlib.sha256()
    with os.fdopen(handle, "wb") as out:
        while block := stream.read(_AT_ONCE):
            digest.update(block)
            out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    """Make a rename last through a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
