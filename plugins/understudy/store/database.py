"""Opens the store, brings its schema up to date and gives out transactions."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url

from understudy.errors import StoreError
from understudy.settings import Settings

__all__ = ["NEWEST", "Store", "revision_of", "upgrade"]

NEWEST = "0008"
"""The revision of the schema that this code works with."""

_BUSY_SECONDS = 30
_WRITE_LOCK = 0x756E6465727374  # any fixed number; this one spells "underst"


class Store:
    """A connection pool with a clock.

    Args:
        engine: Where the tables are.
        clock: Source of Unix seconds; tests give their own.
    """

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.time) -> None:
        self.engine = engine
        self.clock = clock

    @classmethod
    def open(cls, settings: Settings, clock: Callable[[], float] = time.time) -> Store:
        """Open the store of an installation and bring its schema up to date.

        Raises:
            StoreError: The database cannot be opened, is read-only or belongs to a newer Understudy.
        """
        with _opening(settings):
            engine = _engine(settings.store_url)
            _migrate(engine, settings.home)
            _prove_writable(engine)
        return cls(engine, clock)

    @classmethod
    def as_found(cls, settings: Settings, clock: Callable[[], float] = time.time) -> Store:
        """Open the store of an installation and leave its schema as it is, if it has any.

        Raises:
            StoreError: The database cannot be opened.
        """
        with _opening(settings):
            engine = _engine(settings.store_url)
            with engine.connect() as connection:
                revision_of(connection)
        return cls(engine, clock)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Give a transaction that sees one consistent state and changes nothing.

        Raises:
            StoreError: The database does not answer.
        """
        with self._answering(), self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Give a transaction that excludes every other writer until it ends.

        Raises:
            StoreError: The database does not answer, stays locked, is full or cannot be written. Nothing was changed.
        """
        with self._answering(), _writing(self.engine) as connection:
            yield connection

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        # Which class a driver chooses for a database that is read-only, broken or closed to this user differs by engine.
        except sa.exc.DBAPIError as error:
            if _is_refused(error):
                raise
            raise StoreError(
                f"The store {_shown(self.engine.url)} does not work ({_cause(error)}), and nothing was changed. It must be "
                "reachable, writable and have free space; put that right and run the step again."
            ) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self.engine.dispose()


def _is_refused(error: sa.exc.DBAPIError) -> bool:
    """Return whether the database works and one of its rules forbids this very change: a constraint, or a trigger of ours."""
    return isinstance(error, sa.exc.IntegrityError) or getattr(error.orig, "pgcode", None) == "P0001"


@contextmanager
def _opening(settings: Settings) -> Iterator[None]:
    try:
        yield
    except (sa.exc.SQLAlchemyError, OSError, ImportError) as error:
        raise StoreError(
            f"The store {_shown(settings.store_url)} cannot be opened ({_cause(error)}). It must be a database that "
            "this user may write; check UNDERSTUDY_STORE_URL and the folder's permissions."
        ) from error


def _engine(url: str) -> Engine:
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True)
    if parsed.database and not parsed.database.startswith("file:"):
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(url, connect_args={"timeout": _BUSY_SECONDS})

    @sa.event.listens_for(engine, "connect")
    def _configure(raw: object, _record: object) -> None:
        # The driver would begin transactions on its own and too late; SQLAlchemy's begin event below does it instead.
        raw.isolation_level = None  # type: ignore[attr-defined]
        cursor = raw.cursor()  # type: ignore[attr-defined]
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = FULL")
        cursor.close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("understudy_write")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(understudy_write=True) as connection:
        if engine.dialect.name != "postgresql":
            with connection.begin():
                yield connection
            return
        # At a stricter level, which a server may have as its default, who waited for the lock would not see what was written
        # by the one who held it.
        with connection.execution_options(isolation_level="READ COMMITTED").begin():
            # SQLite's write lock covers the whole database; here it is one lock that every writer takes, until it commits.
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_WRITE_LOCK)))
            yield connection


def _prove_writable(engine: Engine) -> None:
    """Write nothing once: a store that can only be read would otherwise fail in the middle of a step."""
    with _writing(engine) as connection:
        # SQLite gives the write lock of a read-only file away and refuses only the statement.
        connection.execute(sa.text("UPDATE alembic_version SET version_num = version_num WHERE 1 = 0"))


def _migrate(engine: Engine, home: Path) -> None:
    with engine.connect() as connection:
        if revision_of(connection) == NEWEST:
            return
    home.mkdir(parents=True, exist_ok=True)
    # Several processes start at once; the first one migrates, the others find it done.
    with (home / "migrate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with _writing(engine) as connection:
            upgrade(connection)


def upgrade(connection: Connection, revision: str = NEWEST) -> None:
    """Bring the schema up to a revision, in the caller's write transaction.

    Raises:
        StoreError: The schema is of a newer Understudy.
    """
    from alembic import command
    from alembic.config import Config

    found = revision_of(connection)
    if found is not None and found > NEWEST:
        raise StoreError(
            f"The store has schema {found}, this Understudy knows up to {NEWEST}. A newer version wrote it; use that one."
        )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def revision_of(connection: Connection) -> str | None:
    """Return the revision of the schema; None where there is none yet."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()


def _shown(url: str | URL) -> str:
    try:
        return make_url(url).render_as_string(hide_password=True)
    except sa.exc.ArgumentError:
        # It may hold a password in a place where nobody can tell it from the rest.
        return "of UNDERSTUDY_STORE_URL"


def _cause(error: Exception) -> str:
    """Return the driver's own words, without the statement and its values."""
    return (str(getattr(error, "orig", None) or error).splitlines() or [type(error).__name__])[0]
