"""Commands about the store: a backup, and putting it back where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import declared
from tests.commands import answered, run
from tests.promoted import promoted
from understudy.exposure import read_flag
from understudy.store.recovery import STRIDE


@pytest.fixture
def backup(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backup, and an installation whose store is empty."""
    promoted()
    made = answered("store", "backup", str(home / "backup"))
    assert (made["head"]["seq"], made["rows"]["certificates"]) == (6, 1)
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", f"sqlite:///{home / 'empty.db'}")
    return home / "backup"


def test_a_store_is_backed_up_and_put_back(home: Path, backup: Path) -> None:
    told = run("store", "restore", str(backup))
    assert told.exit_code == 0
    assert "every table and the ledger proven" in told.stdout
    assert f"{declared.MODEL}: everybody is on version 2" in told.stdout
    assert "does not answer" in told.stderr  # the gateway, which does not run
    flag = read_flag(home / "home" / "flags.json", declared.MODEL)
    assert flag is not None
    assert (flag.champion, flag.exposed, flag.generation > STRIDE) == ("2", False, True)
    found = answered("ledger", "verify")
    assert (found["first_broken"], found["head"]["seq"]) == (None, 8)
    assert [model["champion"] for model in answered("status")["models"]] == ["2"]


def test_the_backup_tells_how_much_it_holds(
    home: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UNDERSTUDY_STORE_URL")
    assert "up to entry 6 of the ledger" in run("store", "backup", str(backup)).stdout


def test_a_store_that_holds_something_is_left_alone(home: Path, backup: Path) -> None:
    answered("store", "restore", str(backup))
    assert answered("store", "restore", str(backup), code=1)["error"]["code"] == "STORE_NOT_EMPTY"
    told = run("store", "restore", str(backup))
    assert (told.exit_code, "UNDERSTUDY_STORE_URL" in told.stderr) == (1, True)


def test_a_torn_backup_is_refused(home: Path, backup: Path) -> None:
    backup.write_bytes(backup.read_bytes()[:-20])
    assert answered("store", "restore", str(backup), code=1)["error"]["code"] == "BACKUP_INVALID"
    assert answered("store", "restore", str(home / "nothing"), code=1)["error"]["code"] == "BACKUP_INVALID"


def test_a_place_that_cannot_be_written_is_an_error(home: Path, backup: Path) -> None:
    found = answered("store", "backup", str(backup / "below a file"), code=1)
    assert found["error"]["code"] == "STORE"
