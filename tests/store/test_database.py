"""Opening the store: migrations, several processes at once, and every way in which it cannot be used."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from understudy.errors import StoreError
from understudy.settings import Settings
from understudy.store import Store, ledger
from understudy.store.schema import metadata


def test_the_migrations_create_the_very_tables_that_the_code_declares(store: Store) -> None:
    with store.read() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_the_migrations_and_the_code_agree_on_every_key_and_every_nullable_column(store: Store) -> None:
    found = sa.MetaData()
    found.reflect(store.engine)
    assert set(found.tables) == {*metadata.tables, "alembic_version"}
    for name, declared in metadata.tables.items():
        real = found.tables[name]
        shape = [(column.name, column.nullable, column.primary_key) for column in declared.columns]
        assert [(column.name, column.nullable, column.primary_key) for column in real.columns] == shape
        unique = {tuple(c.name for c in k.columns) for k in _unique(declared)}
        assert {tuple(c.name for c in k.columns) for k in _unique(real)} == unique


def _unique(table: sa.Table) -> list[sa.UniqueConstraint]:
    return [found for found in table.constraints if isinstance(found, sa.UniqueConstraint)]


def test_several_processes_may_open_a_fresh_store_at_once(installation: Settings) -> None:
    code = (
        "from understudy.settings import Settings; from understudy.store import Store, ledger\n"
        "store = Store.open(Settings.from_env())\n"
        "with store.write() as c: ledger.append(c, at=store.clock(), actor='p', action='opened', reason='r')"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(6)
    ]
    outputs = [process.communicate(timeout=90)[1] for process in started]
    assert [process.returncode for process in started] == [0] * 6, "\n".join(outputs)
    with Store.open(installation).read() as connection:
        assert len(ledger.entries(connection)) == 6
        assert ledger.verify(connection) is None


def test_opening_again_keeps_what_is_there(store: Store, installation: Settings) -> None:
    with store.write() as connection:
        ledger.append(connection, at=1.0, actor="a", action="b", reason="c")
    with Store.open(installation).read() as connection:
        assert len(ledger.entries(connection)) == 1


def test_a_store_of_a_newer_version_is_refused_and_left_alone(store: Store, installation: Settings) -> None:
    with store.write() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(StoreError, match=r"0999.*newer version"):
        Store.open(installation)
    with store.read() as connection:
        assert connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar() == "0999"


def _in_a_file(tmp_path: Path) -> str:
    (tmp_path / "file").write_text("x")
    return f"sqlite:///{tmp_path / 'file' / 'store.db'}"


def _a_folder(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}"


def _no_database(tmp_path: Path) -> str:
    (tmp_path / "text.db").write_text("This is a letter, not a database. " * 100)
    return f"sqlite:///{tmp_path / 'text.db'}"


def _read_only(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'ro.db'}"
    Store.open(replace(Settings.from_env(), store_url=url)).close()
    return f"sqlite:///file:{tmp_path / 'ro.db'}?mode=ro&uri=true"


@pytest.mark.parametrize(
    "make",
    [
        _in_a_file,
        _a_folder,
        _no_database,
        _read_only,
        lambda _: "no url at all",
        lambda _: "sqlite:////proc/nowhere/store.db",
        lambda _: "unknown://user:hunter2@host/db",
        lambda _: "mysql+nodriver://user:hunter2@host/db",
    ],
    ids=["in a file", "a folder", "no database", "read-only", "no url", "unwritable", "unknown", "no driver"],
)
def test_a_store_that_cannot_be_used_is_an_error_with_the_fix(
    make: Callable[[Path], str], installation: Settings, tmp_path: Path
) -> None:
    broken = replace(installation, store_url=make(tmp_path))
    with pytest.raises(StoreError, match="UNDERSTUDY_STORE_URL") as caught:
        Store.open(broken)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_transaction_that_fails_changes_nothing(store: Store) -> None:
    def fail() -> None:
        with store.write() as connection:
            ledger.append(connection, at=1.0, actor="a", action="b", reason="c")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.read() as connection:
        assert ledger.entries(connection) == []


def test_a_database_that_fails_later_is_an_error_with_the_fix(store: Store) -> None:
    with pytest.raises(StoreError, match="nothing was changed"), store.write() as connection:
        connection.execute(sa.text("SELECT * FROM no_such_table"))


def test_a_reader_sees_one_state_while_others_write(store: Store) -> None:
    with store.read() as reading:
        assert ledger.entries(reading) == []
        with store.write() as connection:
            ledger.append(connection, at=1.0, actor="a", action="b", reason="c")
        assert ledger.entries(reading) == []
