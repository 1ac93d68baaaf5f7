"""A fresh store with a clock that tests move, and runs in it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

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


ENGINES = ("sqlite", "postgresql")
Databases = Callable[[str], str]
_NAMES = (f"fresh_{number}" for number in itertools.count())


@pytest.fixture
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Databases:
    """Return a function that gives the address of a database without tables, of either engine."""

    def make(engine: str) -> str:
        name = next(_NAMES)
        if engine == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        server = str(request.getfixturevalue("server"))
        administering = sa.create_engine(server, isolation_level="AUTOCOMMIT")
        with administering.connect() as connection:
            connection.execute(sa.text(f"CREATE DATABASE {name}"))
        administering.dispose()
        return server.replace("/postgres", f"/{name}")

    return make


@pytest.fixture(params=ENGINES)
def either(
    request: pytest.FixtureRequest,
    database: Databases,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    clock: Clock,
) -> Iterator[Store]:
    """A fresh store, once on each engine; the environment names it."""
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNDERSTUDY_STORE_URL", database(request.param))
    opened = Store.open(Settings.from_env(), clock)
    yield opened
    opened.close()


def past_the_triggers(store: Store, *statements: str, **values: object) -> None:
    """Change the past as somebody could who owns the database."""
    with store.write() as connection:
        if store.engine.dialect.name == "sqlite":
            triggers = sa.text("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            for name in connection.execute(triggers).scalars().all():
                connection.execute(sa.text(f"DROP TRIGGER {name}"))
        else:
            connection.execute(sa.text("SET LOCAL session_replication_role = replica"))
        for statement in statements:
            connection.execute(sa.text(statement), values)
