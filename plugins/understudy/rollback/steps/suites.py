"""The expectation suites that the version was admitted with, put back from the copies of its rollback point."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from understudy.errors import SnapshotBroken
from understudy.points import point as points
from understudy.points.doors import snapshots_of
from understudy.points.manifest import digest_of
from understudy.rollback.steps.step import Found, Step, Work

__all__ = ["STEP"]


def _recorded(work: Work) -> Mapping[str, str] | None:
    """Return the digest of each suite by name; None where no point of the version is on record, or it was altered."""
    with work.doors.store.read() as connection:
        point = points.newest(connection, work.plan.model, work.plan.target)
    if point is None or digest_of(dict(point.manifest)) != point.digest:
        return None
    return dict(point.parts["suites"]["files"])


def _path(work: Work, suite: str) -> Path:
    return work.doors.settings.expectations / f"{suite}.json"


def _differ(work: Work) -> list[str]:
    return [
        suite for suite, digest in (_recorded(work) or {}).items() if _digest(_path(work, suite)) != digest
    ]


def _digest(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None


def _apply(work: Work) -> None:
    """Put back what differs; what is replaced is kept. A suite decides nothing of what is served, so none stops a rollback."""
    kept = snapshots_of(work.doors)
    for suite, digest in (_recorded(work) or {}).items():
        path = _path(work, suite)
        found = _digest(path)
        if found == digest:
            continue
        try:
            content = kept.read(digest)
            if found is not None:
                kept.keep_file(path)
            _write(path, content)
        except (SnapshotBroken, OSError):
            continue  # the step names it as not restored


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".new")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    finally:
        Path(name).unlink(missing_ok=True)


def _verify(work: Work) -> Found:
    recorded = _recorded(work)
    if recorded is None:
        return {"note": f"No sound rollback point of version {work.plan.target} is on record."}
    differ = _differ(work)
    return {"parts": len(recorded), "restored": len(recorded) - len(differ), "differ": differ}


STEP = Step("suites", 2.0, lambda work: not _differ(work), _apply, _verify)
