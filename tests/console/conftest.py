"""Airflow's own web application with the console mounted by the plugin, its users, and a store to show."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from understudy.settings import Settings
from understudy.store import Store

USERS = {"reader": "viewer", "boss": "admin"}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return Settings.from_env()


@pytest.fixture
def store(installation: Settings) -> Iterator[Store]:
    opened = Store.open(installation)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def airflow_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Airflow's API server application in this process: its metadata database, its auth manager, our plugin."""
    folder = tmp_path_factory.mktemp("airflow-web")
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps(dict.fromkeys(USERS, "secret")))
    settings = {
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(
            f"{name}:{role}" for name, role in USERS.items()
        ),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        "AIRFLOW__API__SECRET_KEY": secrets.token_urlsafe(32),
    }
    os.environ.update(settings)
    from airflow.api_fastapi.app import cached_app, purge_cached_app
    from airflow.utils.db import initdb

    initdb()
    purge_cached_app()
    yield cached_app(apps="core")
    purge_cached_app()
    for name in settings:
        del os.environ[name]


@pytest.fixture
def anonymous(airflow_web: Any) -> TestClient:
    return TestClient(airflow_web, raise_server_exceptions=False, follow_redirects=False)


@pytest.fixture
def viewer(airflow_web: Any, installation: Settings) -> TestClient:
    """A signed-in user with the smallest role, looking at the store of this test."""
    client = TestClient(airflow_web, raise_server_exceptions=False, follow_redirects=False)
    answer = client.post("/auth/token", json={"username": "reader", "password": "secret"})
    client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
    return client


@pytest.fixture
def boss(airflow_web: Any, installation: Settings) -> TestClient:
    """A signed-in user who may trigger DAGs."""
    client = TestClient(airflow_web, raise_server_exceptions=False, follow_redirects=False)
    answer = client.post("/auth/token", json={"username": "boss", "password": "secret"})
    client.headers["Authorization"] = f"Bearer {answer.raise_for_status().json()['access_token']}"
    return client
