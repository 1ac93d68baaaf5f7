"""The newest entry of the ledger as others remember it, so that an end that was cut off is missed.

Whoever may write the database may also move the head that the database keeps. So it is kept in a file beside the flag document
too, in every certificate and backup, and in MLflow with every step of a run.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from understudy.errors import RecordUnreadable
from understudy.record import certificate, exported
from understudy.record.chain import Anchor, Head
from understudy.store import backup, schema

__all__ = ["keep", "kept_here", "of_file", "replace"]

_GZIP = b"\x1f\x8b"

_log = logging.getLogger(__name__)


def keep(path: Path, head: Head | None) -> None:
    """Remember a head in a file unless a newer one is remembered there, which a ledger that was cut could not replace."""
    try:
        known = _read(path)
        if head is None or not head.seq or (known is not None and known.seq >= head.seq):
            return
        replace(path, head)
    except (OSError, RecordUnreadable) as error:
        # What is served must not depend on it; `understudy ledger verify` names a file that cannot be read.
        _log.warning("The head of the ledger could not be kept: %s", error)


def replace(path: Path, head: Head) -> None:
    """Write a head in one atomic step, whatever was remembered before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(handle, "w") as stream:
            json.dump(head.__dict__, stream)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def kept_here(connection: Connection, path: Path) -> Iterator[Anchor]:
    """Yield the heads that are kept without asking anybody: the file's, and those of the certificates in the store.

    Raises:
        RecordUnreadable: The file or a certificate cannot be read.
    """
    known = _read(path)
    if known is not None:
        yield Anchor(str(path), known)
    texts = sa.select(schema.certificates.c.text).order_by(schema.certificates.c.at)
    for text in connection.execute(texts).scalars():
        yield certificate.head_of(certificate.read(text))


def of_file(path: Path) -> Anchor:
    """Return the head that a certificate, a backup or an exported ledger knows.

    Raises:
        RecordUnreadable: It is none of them, or was altered.
        BackupInvalid: It is a backup that is torn or altered.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(2)
        if start == _GZIP:
            return backup.inspect(path).anchor(path)
        with path.open(encoding="utf-8", newline="\n") as lines:
            first = lines.readline()
            if exported.FORMAT not in first:
                return certificate.head_of(certificate.read(first + lines.read()))
            lines.seek(0)
            top, walk, _ = exported.verify_lines(lines)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordUnreadable(
            f"{path} cannot be read ({error}). Give a file with a part of the record."
        ) from error
    if walk.broken is not None:
        raise RecordUnreadable(f"{path} is not whole: {walk.broken.sentence}")
    return Anchor(f"the export {path}", walk.head, float(top["exported_at"]))


def _read(path: Path) -> Head | None:
    try:
        found = json.loads(path.read_bytes())
        head = Head(int(found["seq"]), str(found["digest"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise RecordUnreadable(
            f"{path} does not say which entry of the ledger is the newest: it was altered. Look who writes there; then remove "
            "it, and the next change of exposure writes it again."
        ) from error
    return head
