"""The store on PostgreSQL: the same rules as on SQLite, where writers come from many machines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from understudy.errors import ConcurrentRun, StoreError
from understudy.settings import Settings
from understudy.store import Store, exposures, ledger, runs

SPEC: dict[str, Any] = {"name": "delay", "model": "delay", "stages": []}


@pytest.fixture(scope="module")
def store(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDERSTUDY_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("UNDERSTUDY_STORE_URL", server)
        opened = Store.open(Settings.from_env())
        yield opened
        opened.close()


def together(count: int, work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_one_of_many_racing_starts_gets_the_models_lock_and_generations_never_repeat(store: Store) -> None:
    with store.write() as connection:
        exposures.adopt(connection, "delay", "1", actor="a test", at=store.clock())
    won: list[str] = []
    lost: list[ConcurrentRun] = []

    def start(number: int) -> None:
        try:
            with store.write() as connection:
                run = runs.create(
                    connection, key=f"start-{number}", spec=SPEC, spec_digest="", version="2", champion="1",
                    actor="a test", reason="race", airflow={}, at=store.clock(),
                )  # fmt: skip
            won.append(run.run_id)
        except ConcurrentRun as error:
            lost.append(error)

    together(6, start)
    assert (len(won), len(lost)) == (1, 5)
    given: list[int] = []

    def climb(_number: int) -> None:
        for _ in range(10):
            with store.write() as connection:
                given.append(exposures.raise_to(connection, won[0], 1, 5.0, 30, at=store.clock()).generation)

    together(4, climb)
    assert len(set(given)) == 40
    with store.read() as connection:
        assert ledger.verify(connection) is None
        assert exposures.every(connection)[0].generation == max(given)


def test_a_contained_cohort_comes_back_as_it_was_put(store: Store) -> None:
    with store.write() as connection:
        at = store.clock()
        exposures.adopt(connection, "contained", "1", actor="a test", at=at)
        run = runs.create(
            connection, key="contained", spec=SPEC | {"model": "contained"}, spec_digest="", version="2", champion="1",
            actor="a test", reason="a test", airflow={}, at=at,
        )  # fmt: skip
        exposures.raise_to(connection, run.run_id, 1, 5.0, 30, at=at)
        put = exposures.contain(connection, run.run_id, ["origin=JFK", "carrier=ü"], reason="harm", at=at)
    with store.read() as connection:
        assert exposures.find(connection, "contained") == put
        assert ledger.verify(connection) is None


@pytest.mark.parametrize("change", ["UPDATE ledger SET actor = 'x'", "DELETE FROM ledger", "TRUNCATE ledger"])
def test_the_ledger_refuses_every_change(store: Store, change: str) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), store.write() as connection:
        connection.execute(sa.text(change))


def test_a_database_that_takes_no_writes_is_named_as_such(store: Store) -> None:
    def adopt() -> None:
        with store.write() as connection:
            connection.execute(sa.text("SET TRANSACTION READ ONLY"))
            exposures.adopt(connection, "another", "1", actor="a test", at=store.clock())

    with pytest.raises(StoreError, match="read-only transaction"):
        adopt()


def test_several_processes_may_open_a_fresh_store_at_once(server: str, store: Store, tmp_path: Path) -> None:
    with store.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("CREATE DATABASE fresh"))
    env = os.environ | {
        "UNDERSTUDY_HOME": str(tmp_path),
        "UNDERSTUDY_STORE_URL": server.replace("/postgres", "/fresh"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    command = [sys.executable, "-m", "understudy.cli", "status", "--json"]
    started = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(3)
    ]
    for process in started:
        output, _ = process.communicate(timeout=120)
        assert process.returncode == 0, output.decode()
