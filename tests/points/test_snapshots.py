"""Snapshots: named by their content, read back, never half written, and kept as long as somebody needs them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.points.conftest import altered
from understudy.errors import SnapshotBroken
from understudy.points.snapshots import Snapshots

CONTENT = bytes(range(256)) * 9000  # more than one block


@pytest.fixture
def kept(tmp_path: Path) -> Snapshots:
    return Snapshots(tmp_path / "home" / "snapshots")


def test_content_is_kept_under_its_digest_and_only_its_owner_reads_it(
    kept: Snapshots, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    digest = kept.keep_file(tmp_path / "file")
    assert digest == hashlib.sha256(CONTENT).hexdigest() == kept.keep(CONTENT)
    assert kept.read(digest) == CONTENT
    assert kept.path(digest) == kept.folder / digest[:2] / digest
    assert kept.path(digest).stat().st_mode & 0o077 == 0
    assert [path for path in kept.folder.rglob("*") if path.is_file()] == [kept.path(digest)]


def test_an_altered_or_missing_snapshot_is_not_read(kept: Snapshots) -> None:
    digest = kept.keep(CONTENT)
    altered(kept.path(digest))
    assert kept.found(digest) not in (None, digest)
    with pytest.raises(SnapshotBroken, match="hashes to"):
        kept.read(digest)
    kept.path(digest).unlink()
    assert kept.found(digest) is None
    with pytest.raises(SnapshotBroken, match="is missing"):
        kept.read(digest)


def test_keeping_the_same_content_again_mends_what_was_altered(kept: Snapshots) -> None:
    digest = kept.keep(CONTENT)
    altered(kept.path(digest))
    assert kept.keep(CONTENT) == digest
    assert kept.read(digest) == CONTENT


def test_a_file_that_cannot_be_read_or_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(SnapshotBroken, match="no such thing"):
        Snapshots(tmp_path).keep_file(tmp_path / "no such thing")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SnapshotBroken, match="cannot be kept"):
        Snapshots(tmp_path / "file" / "below").keep(b"x")


def test_what_nobody_needs_goes_once_it_is_a_day_old(kept: Snapshots) -> None:
    needed, old, young, again = (kept.keep(text) for text in (b"needed", b"old!", b"young", b"again"))
    for digest in (needed, old, again):
        os.utime(kept.path(digest), (1000.0, 1000.0))
    os.utime(kept.path(young), (90_000.0, 90_000.0))
    (kept.folder / "new-torn").write_bytes(b"12")
    os.utime(kept.folder / "new-torn", (1000.0, 1000.0))  # somebody died while writing it
    kept.keep(b"again")  # a run that begins needs it, though its point is not written yet
    assert kept.sweep({needed}, now=100_000.0) == len(b"old!12")
    assert [kept.found(digest) is not None for digest in (needed, old, young, again)] == [
        True,
        False,
        True,
        True,
    ]
