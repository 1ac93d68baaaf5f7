"""Whatever happens in whatever order, nobody sees a challenger that has not passed, and there is always a way back.

`pytest tests/machine/test_machine.py --hypothesis-profile=long` looks longer, and elsewhere each time. `test_broken.py`
shows that it sees what is broken.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests import declared
from tests.machine.conftest import LONG
from tests.machine.installation import SPEC, stage
from tests.machine.machine import Machine
from understudy.settings import Settings
from understudy.store import Store

_AT_ALL = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
QUICK = settings(_AT_ALL, max_examples=15, stateful_step_count=16, derandomize=True)
FEW = settings(QUICK, max_examples=3, phases=[Phase.generate])


def _long(quick: settings, examples: int) -> settings:
    if not _is_long():
        return quick
    return settings(
        _AT_ALL, max_examples=examples, stateful_step_count=25, derandomize=False, print_blob=True
    )


def _is_long() -> bool:
    return settings.get_current_profile_name() == LONG


def fresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an installation that is copied for every example."""
    template = folder / "template"
    declared.write(template / "experiments", **SPEC)
    (template / "expectations").mkdir()
    rows = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}
    (template / "expectations" / "rows.json").write_text(json.dumps({"name": "rows", "expectations": [rows]}))
    (template / "data").mkdir()
    frame = pd.DataFrame({"hour": np.arange(20.0), "origin": ["JFK", "LGA"] * 10, "late": [0, 1] * 10})
    for name in ("reference", "holdout"):
        frame.to_parquet(template / "data" / f"{name}.parquet")
    with monkeypatch.context() as patch:
        patch.setenv("UNDERSTUDY_HOME", str(template / "home"))
        Store.open(Settings.from_env()).close()
    return template


def on_sqlite(folder: Path, monkeypatch: pytest.MonkeyPatch) -> type[Machine]:
    class OnSqlite(Machine):
        template = fresh(folder, monkeypatch)
        store_url = staticmethod(lambda place: f"sqlite:///{place / 'home' / 'store.db'}")
        thorough = _is_long()
        known: ClassVar[set[Any]] = set()

    return OnSqlite


def test_on_sqlite_every_law_holds_and_a_way_back_is_there_from_every_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = on_sqlite(tmp_path, monkeypatch)
    with stage():
        run_state_machine_as_test(machine, settings=_long(QUICK, 400))
    assert len(machine.known) > 15, "it hardly came anywhere"


def test_on_postgresql_every_law_holds_and_a_way_back_is_there_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: str
) -> None:
    class OnPostgres(Machine):
        template = fresh(tmp_path, monkeypatch)
        store_url = staticmethod(_databases(server))
        copies = False

    with stage():
        run_state_machine_as_test(OnPostgres, settings=_long(FEW, 60))


def _databases(server: str) -> Callable[[Path], str]:
    """Return a function that makes a database without tables and gives its address."""
    administering = sa.create_engine(server, isolation_level="AUTOCOMMIT")
    numbers = itertools.count()

    def make(_: Path) -> str:
        name = f"machine_{next(numbers)}"
        with administering.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        administering.dispose()
        return server.replace("/postgres", f"/{name}")

    return make
