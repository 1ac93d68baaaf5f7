"""A backup holds what rollback points and feature sets need, once however many backups there are, and says what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import declared
from tests.points.conftest import altered
from understudy.errors import BackupInvalid, SettingMissing, SnapshotBroken
from understudy.lifecycle.restoration import SNAPSHOTS, back_up, restore
from understudy.points.doors import snapshots_of
from understudy.points.manifest import PARTS, digest_of, seal
from understudy.points.snapshots import Snapshots
from understudy.session import Session
from understudy.settings import Settings
from understudy.store import Store, exposures, feature_sets, records, runs
from understudy.store.feature_sets import FeatureSet
from understudy.verdicts import Outcome, Verdict

MODEL = declared.MODEL
CONTENT = {name: name.encode() * 20 for name in ("holdout", "suite", "requests", "transformation", "rows")}


@pytest.fixture
def doors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """An installation with a run that keeps a dataset, a suite and the requests it was judged on, and a feature set."""
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNDERSTUDY_GATEWAY_URLS", ",")
    settings = Settings.from_env()
    found = Session(settings, Store.open(settings, lambda: 1_700_000_000.0))
    kept = {name: snapshots_of(found).keep(content) for name, content in CONTENT.items()}
    parts = {key: {"kept": None} for key in PARTS} | {
        "snapshot": {"datasets": {"holdout": kept["holdout"]}},
        "suites": {"files": {"rows": kept["suite"]}},
        "model": {"files": {"model.pkl": "f" * 64}},
    }
    manifest = seal(parts)
    with found.store.write() as connection:
        exposures.adopt(connection, MODEL, "1", actor="tests", at=1.0)
        run = runs.create(
            connection, key="k", spec=declared.experiment(model=MODEL).frozen(), spec_digest="d", version="2", champion="1",
            actor="tests", reason="r", airflow={}, at=1.0,
        )  # fmt: skip
        records.save_rollback_point(connection, run.run_id, MODEL, "1", manifest, digest_of(manifest), at=1.0)
        judged = Verdict(Outcome.PASS, "ok", "All hold.", {"data": {"requests": kept["requests"]}})
        records.record_verdict(connection, run.run_id, "check_data", judged, at=2.0)
        columns = (("hour", "double"),)
        chosen = FeatureSet(MODEL, "hours", columns, kept["transformation"], kept["rows"])
        feature_sets.register(connection, chosen, actor="tests", at=1.0)
    yield found
    found.store.close()


def lost(doors: Session, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Snapshots:
    """Lose store and snapshots, and name an empty store."""
    doors.store.close()
    doors.settings.snapshots_dir.rename(tmp_path / "lost")
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    return snapshots_of(doors)


def contents(kept: Snapshots) -> set[bytes]:
    return {path.read_bytes() for path in kept.folder.glob("??/*")}


def test_everything_that_a_point_a_verdict_or_a_feature_set_names_goes_with_the_backup_and_comes_back(
    doors: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshots_of(doors).keep(b"what nobody needs")
    told = back_up(doors, tmp_path / "backups" / "one")
    assert (told["snapshots"], told["snapshots_missing"]) == (5, [])
    beside = Snapshots(tmp_path / "backups" / SNAPSHOTS)
    assert contents(beside) == set(CONTENT.values())
    kept = lost(doors, monkeypatch, tmp_path)
    assert restore(tmp_path / "backups" / "one", "tests")["snapshots_missing"] == []
    assert contents(kept) == set(CONTENT.values())


def test_a_second_backup_in_the_same_place_copies_only_what_is_new(doors: Session, tmp_path: Path) -> None:
    back_up(doors, tmp_path / "backups" / "one")
    copies = sorted((tmp_path / "backups" / SNAPSHOTS).glob("??/*"))
    before = [path.stat().st_ino for path in copies]
    # One that was damaged since is mended, because every backup proves what lies there.
    altered(copies[0])
    back_up(doors, tmp_path / "backups" / "two")
    assert sorted((tmp_path / "backups" / SNAPSHOTS).glob("??/*")) == copies
    after = [path.stat().st_ino for path in copies]
    assert after[1:] == before[1:]
    assert copies[0].read_bytes() in CONTENT.values()


def test_a_snapshot_that_is_altered_or_gone_is_named_and_everything_else_is_backed_up(
    doors: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = snapshots_of(doors)
    paths = {path.read_bytes(): path for path in whole.folder.glob("??/*")}
    altered(paths[CONTENT["holdout"]])
    paths[CONTENT["rows"]].unlink()
    told = back_up(doors, tmp_path / "one")
    first, second = sorted(told["snapshots_missing"])
    assert first.startswith("Feature set hours of ")
    assert "is missing" in first
    assert second.startswith(f"The rollback point of run {declared.NAME}-v2-1 needs what is not there")
    assert "hashes to" in second
    assert told["snapshots"] == 3
    lost(doors, monkeypatch, tmp_path)
    found = restore(tmp_path / "one", "tests")
    assert len(found["snapshots_missing"]) == 2
    assert found["exposures"][0]["champion"] == "1"


def test_a_copy_that_was_damaged_beside_the_backup_is_not_put_back(
    doors: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(doors, tmp_path / "one")
    for path in (tmp_path / SNAPSHOTS).glob("??/*"):
        if path.read_bytes() == CONTENT["suite"]:
            altered(path)
    kept = lost(doors, monkeypatch, tmp_path)
    (complaint,) = restore(tmp_path / "one", "tests")["snapshots_missing"]
    assert "is missing" in complaint
    assert contents(kept) == set(CONTENT.values()) - {CONTENT["suite"]}


def test_snapshots_that_are_still_there_are_left_alone(
    doors: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up(doors, tmp_path / "one")
    doors.store.close()
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    before = {path: path.stat().st_ino for path in doors.settings.snapshots_dir.glob("??/*")}
    restore(tmp_path / "one", "tests")
    assert {path: path.stat().st_ino for path in doors.settings.snapshots_dir.glob("??/*")} == before


def test_a_place_that_takes_no_snapshots_and_a_torn_backup_are_errors(
    doors: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / SNAPSHOTS).write_text("a file where the folder should be")
    with pytest.raises(SnapshotBroken, match="cannot be kept"):
        back_up(doors, tmp_path / "one")
    kept = lost(doors, monkeypatch, tmp_path)
    (tmp_path / "one").write_bytes((tmp_path / "one").read_bytes()[:-20])
    with pytest.raises(BackupInvalid):
        restore(tmp_path / "one", "tests")
    assert not kept.folder.exists()
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "soon")
    with pytest.raises(SettingMissing):
        restore(tmp_path / "one", "tests")
