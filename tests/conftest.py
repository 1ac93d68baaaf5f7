"""What every test gets: an environment that belongs to no installation, and the shared servers of the stack tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
_STRAY = ("mlflow.db", "mlruns", "mlartifacts", "airflow.db", "airflow.cfg", "gx", "file:")
_HOME = Path(tempfile.mkdtemp(prefix="understudy-tests-"))


def pytest_configure() -> None:
    """Cut the tests off from whatever is configured on this machine, before anything reads it at import."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW__", "MLFLOW_", "UNDERSTUDY_", "GX_")):
            del os.environ[name]
    os.environ["AIRFLOW_HOME"] = str(_HOME / "airflow")
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(REPO / "dags")
    os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(REPO / "plugins")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    os.environ["MPLCONFIGDIR"] = str(_HOME / "matplotlib")
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(part for part in (os.environ.get(name), "127.0.0.1,localhost") if part)


def pytest_unconfigure() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture(scope="session", autouse=True)
def _nothing_strays() -> Iterator[None]:
    """No test may leave a database or a tracking folder in the checkout: it forgot to say where its state lives."""
    before = {name for name in _STRAY if (REPO / name).exists()}
    yield
    strays = {name for name in _STRAY if (REPO / name).exists()} - before
    assert not strays, f"tests wrote {sorted(strays)} into {REPO}"
