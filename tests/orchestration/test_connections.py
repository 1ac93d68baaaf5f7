"""Databases are named, never typed: by an environment variable or by an Airflow connection."""

from __future__ import annotations

import json

import pytest

from understudy.errors import SettingMissing
from understudy.orchestration.connections import database_url


def test_an_environment_variable_holds_an_sqlalchemy_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "postgresql+psycopg2://ann:p%40ss@db:5433/sales?sslmode=require")
    found = database_url("WAREHOUSE")
    assert (found.drivername, found.username, found.password) == ("postgresql+psycopg2", "ann", "p@ss")
    assert (found.host, found.port, found.database, dict(found.query)) == (
        "db", 5433, "sales", {"sslmode": "require"},
    )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "postgres://ann:p%40ss@db:5433/sales?sslmode=require",
        json.dumps(
            {
                "conn_type": "postgres", "login": "ann", "password": "p@ss", "host": "db", "port": 5433, "schema": "sales",
                "extra": {"sslmode": "require", "__note": "ours", "retries": 3},
            }
        ),
    ],
)  # fmt: skip
def test_an_airflow_connection_is_found_where_airflow_looks(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", text)
    found = database_url("warehouse")
    assert found.render_as_string(hide_password=False) == (
        "postgresql://ann:p%40ss@db:5433/sales?sslmode=require"
    )


def test_a_file_database_of_airflow_is_named_by_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_LOCAL", json.dumps({"conn_type": "sqlite", "host": "/data/told.db"}))
    assert str(database_url("local")) == "sqlite:////data/told.db"


def test_a_name_that_nothing_bears_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_NOWHERE", raising=False)
    with pytest.raises(
        SettingMissing, match="neither an environment variable nor an Airflow connection called 'nowhere'"
    ):
        database_url("nowhere")


def test_a_variable_that_is_no_url_is_an_error_without_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE", "hunter2 is the password")
    with pytest.raises(SettingMissing, match="WAREHOUSE is set, but is no SQLAlchemy URL") as caught:
        database_url("WAREHOUSE")
    assert "hunter2" not in str(caught.value)
