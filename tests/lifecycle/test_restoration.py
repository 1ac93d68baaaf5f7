"""After a restore: gateways that have seen more than the backup knows follow again, and nobody is exposed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import declared
from tests.gateway.watched import MODEL, NOW, RUN, Watched, player
from tests.servers import free_port
from understudy.errors import BackupInvalid, StaleGeneration, StoreNotEmpty
from understudy.exposure import Exposure, publish, read_flag
from understudy.lifecycle.restoration import restore
from understudy.settings import Settings
from understudy.store import Store, exposures, ledger, runs
from understudy.store.backup import back_up
from understudy.store.recovery import STRIDE


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    monkeypatch.setenv("UNDERSTUDY_HOME", str(folder))
    monkeypatch.setenv("UNDERSTUDY_GATEWAY_URLS", ",")
    return folder


@pytest.fixture
def backup(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup in which version 2 is exposed at generation 2; the store is lost afterwards, and an empty one takes its place."""
    store = Store.open(Settings.from_env(), lambda: NOW)
    with store.write() as connection:
        exposures.adopt(connection, MODEL, "1", actor="tests", at=NOW)
        run = runs.create(
            connection, key="k", spec=declared.experiment(model=MODEL).frozen(), spec_digest="d", version="2", champion="1",
            actor="tests", reason="r", airflow={}, at=NOW,
        )  # fmt: skip
        exposures.raise_to(connection, run.run_id, 1, 50.0, 30.0, at=NOW)
    exposures.publish_flags(store, Settings.from_env())
    back_up(store, tmp_path / "backup")
    store.close()
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{tmp_path / 'empty.db'}")
    return tmp_path / "backup"


def published(home: Path) -> Exposure:
    found = read_flag(home / "flags.json", MODEL)
    assert found is not None
    return found


def test_a_gateway_that_had_seen_more_follows_the_restored_store_and_serves_the_champion_to_all(
    home: Path, backup: Path
) -> None:
    async def scene(gateway: Watched) -> None:
        # After the backup the run went on to generation 7, and this gateway serves that.
        await gateway.follows(RUN)
        assert (gateway.percent, gateway.mark.exists()) == (5.0, True)
        (home / "flags.json").unlink()  # only the gateway's own mark is left
        found = restore(backup, "tests")
        await gateway.looks()
        assert gateway.served == Exposure(MODEL, RUN.generation + STRIDE, "1")
        assert (gateway.percent, gateway.error) == (0.0, "")
        assert found["not_followed"] == []
        gateway.restart()
        await gateway.looks()
        assert gateway.served == Exposure(MODEL, RUN.generation + STRIDE, "1")

    player(home)(scene)


def test_a_gateway_whose_mark_nobody_could_read_follows_all_the_same(
    home: Path, backup: Path, tmp_path: Path
) -> None:
    async def scene(gateway: Watched) -> None:
        await gateway.follows(RUN)
        (home / "flags.json").unlink()
        gateway.mark.rename(tmp_path / "mark")  # as of a gateway on another machine
        restore(backup, "tests")
        (tmp_path / "mark").rename(gateway.mark)
        await gateway.looks()
        assert gateway.served == Exposure(MODEL, 2 + STRIDE, "1")

    player(home)(scene)


def test_the_backups_own_exposure_would_have_been_refused_or_come_back(home: Path, backup: Path) -> None:
    """Shows what the rule is for: the very document of the backup's time keeps a gateway where it is."""

    async def scene(gateway: Watched) -> None:
        old = published(home)
        await gateway.follows(RUN)
        await gateway.follows(old)
        assert gateway.served == RUN
        assert "went back to generation 2" in gateway.error

    player(home)(scene)


def test_a_version_promoted_after_the_backup_goes_on_serving(home: Path, backup: Path) -> None:
    publish(home / "flags.json", [Exposure(MODEL, 9, "2")])
    found = restore(backup, "tests")
    assert published(home) == Exposure(MODEL, 9 + STRIDE, "2")
    assert found["moved"] == {MODEL: str(home / "flags.json")}


def test_a_model_that_only_the_flag_document_knows_keeps_its_flag(home: Path, backup: Path) -> None:
    publish(home / "flags.json", [Exposure("new", 4, "3", "5", "r", 1, 50.0, int(NOW) + 30)])
    restore(backup, "tests")
    assert read_flag(home / "flags.json", "new") == Exposure("new", 4 + STRIDE, "3")


def test_the_run_of_the_backup_can_never_raise_exposure_again(home: Path, backup: Path) -> None:
    found = restore(backup, "tests")
    store = Store.open(Settings.from_env(), lambda: NOW)
    with store.write() as connection:
        assert exposures.renew(connection, found["ended"][0], 30.0, at=NOW) is None
    with pytest.raises(StaleGeneration, match="failed"), store.write() as connection:
        exposures.raise_to(connection, found["ended"][0], 1, 5.0, 30.0, at=NOW)
    store.close()


def test_the_ledger_goes_on_verifies_and_its_kept_head_is_the_new_one(home: Path, backup: Path) -> None:
    settings = Settings.from_env()
    # Before the store was lost its ledger was longer than the backup's.
    settings.ledger_head_path.write_text('{"seq": 90, "digest": "f"}')
    found = restore(backup, "tests")
    from understudy.store import heads

    store = Store.open(settings)
    with store.read() as connection:
        examined = ledger.examine(connection, heads.kept_here(connection, settings.ledger_head_path))
    store.close()
    assert (examined.broken, examined.head.__dict__) == (None, found["head"])


@pytest.mark.parametrize("content", [b"", b"torn", b"[]", b'{"flags": {"delay": {}}}', b'{"flags": 5}'])
def test_a_flag_document_that_cannot_be_read_is_told_and_written_anew(
    home: Path, backup: Path, content: bytes
) -> None:
    (home / "flags.json").write_bytes(content)
    found = restore(backup, "tests")
    assert len(found["not_followed"]) == 1
    assert str(home / "flags.json") in found["not_followed"][0]
    assert published(home) == Exposure(MODEL, 2 + STRIDE, "1")


def test_a_gateway_that_does_not_answer_is_named(
    home: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("UNDERSTUDY_GATEWAY_URLS", url)
    (complaint,) = restore(backup, "tests")["not_followed"]
    assert url in complaint


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def _removed(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("spoil", [_torn, _removed])
def test_a_backup_that_cannot_be_trusted_changes_nothing_at_all(
    home: Path, backup: Path, spoil: Callable[[Path], None]
) -> None:
    before = (home / "flags.json").read_bytes()
    spoil(backup)
    with pytest.raises(BackupInvalid):
        restore(backup, "tests")
    assert (home / "flags.json").read_bytes() == before


def test_a_second_restore_is_refused_and_changes_nothing(home: Path, backup: Path) -> None:
    restore(backup, "tests")
    before = (home / "flags.json").read_bytes()
    with pytest.raises(StoreNotEmpty):
        restore(backup, "tests")
    assert (home / "flags.json").read_bytes() == before
