"""A fresh store with a clock that tests move, and runs in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import declared
from understudy.settings import Settings
from understudy.store import Store, exposures, runs


class Clock:
    """Unix seconds that pass only when a test says so."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    return Settings.from_env()


@pytest.fixture
def store(installation: Settings, clock: Clock) -> Iterator[Store]:
    opened = Store.open(installation, clock)
    yield opened
    opened.close()


Start = Callable[..., runs.Run]


@pytest.fixture
def start(store: Store) -> Start:
    """Return a function that starts a run of a model, which the store adopts with champion 1."""

    def begin(version: str = "2", model: str = declared.MODEL, key: str | None = None) -> runs.Run:
        spec = declared.experiment(model=model).frozen()
        with store.write() as connection:
            at = store.clock()
            exposures.adopt(connection, model, "1", actor="tests", at=at)
            count = len(runs.latest(connection, model))
            return runs.create(
                connection,
                key=key or f"{model}-{version}-{count}",
                spec=spec,
                spec_digest="d" * 64,
                version=version,
                champion="1",
                actor="tests",
                reason="a test",
                airflow={"run_id": "manual"},
                at=at,
            )

    return begin
