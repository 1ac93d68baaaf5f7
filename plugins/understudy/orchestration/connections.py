"""Databases by the name of an environment variable or of an Airflow connection, so that no password is ever typed."""

from __future__ import annotations

import os

import sqlalchemy as sa

from understudy.errors import SettingMissing

__all__ = ["database_url"]

_DRIVERS = {"postgres": "postgresql", "mssql": "mssql+pymssql"}


def database_url(name: str) -> sa.URL:
    """Return the address of a database.

    Args:
        name: Environment variable with an SQLAlchemy URL or, where there is none of that name, an Airflow connection, from
            whichever place Airflow looks for them.

    Raises:
        SettingMissing: There is neither, or the URL cannot be read; it is not shown.
    """
    if text := os.environ.get(name):
        try:
            return sa.make_url(text)
        except (sa.exc.ArgumentError, ValueError):
            raise SettingMissing(
                f"{name} is set, but is no SQLAlchemy URL. Make it one, like postgresql+psycopg2://user:password@host/database."
            ) from None
    return _of_airflow(name)


def _of_airflow(name: str) -> sa.URL:
    from airflow.exceptions import AirflowException
    from airflow.models import Connection

    try:
        found = Connection.get_connection_from_secrets(name)
    except AirflowException:
        raise SettingMissing(
            f"There is neither an environment variable nor an Airflow connection called {name!r}. Set one of them to the "
            "database; a password on the command line would be seen by everybody who lists processes."
        ) from None
    kind = str(found.conn_type or "").lower()
    options = {key: value for key, value in (found.extra_dejson or {}).items() if isinstance(value, str)}
    return sa.URL.create(
        _DRIVERS.get(kind, kind.replace("-", "+")),
        found.login or None,
        found.password or None,
        (found.host or None) if kind != "sqlite" else None,
        found.port,
        found.schema if kind != "sqlite" else found.host or found.schema,
        {key: value for key, value in options.items() if not key.startswith("__")},
    )
