"""What every test gets: an environment that belongs to no installation, and the shared servers of the stack tests."""

from __future__ import annotations

import gc
import json
import os
import shutil
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).resolve().parents[1]
_STRAY = ("mlflow.db", "mlruns", "mlartifacts", "airflow.db", "airflow.cfg", "gx", "file:")
_HOME = Path(tempfile.mkdtemp(prefix="understudy-tests-"))


def pytest_configure() -> None:
    """Cut the tests off from whatever is configured on this machine, before anything reads it at import."""
    for name in list(os.environ):
        if name.startswith(("AIRFLOW__", "MLFLOW_", "UNDERSTUDY_", "GX_", "OTEL_", "TRACEPARENT")):
            del os.environ[name]
    os.environ["AIRFLOW_HOME"] = str(_HOME / "airflow")
    os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"
    os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(REPO / "dags")
    os.environ["AIRFLOW__CORE__PLUGINS_FOLDER"] = str(REPO / "plugins")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    os.environ["COLUMNS"] = "200"  # width of the command line's tables
    os.environ["MPLCONFIGDIR"] = str(_HOME / "matplotlib")
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(part for part in (os.environ.get(name), "127.0.0.1,localhost") if part)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, and keep it away from what was collected: that lives to the end."""
    from understudy.gateway.imports import importing

    with importing():
        return (yield)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> object:
    """Keep the tests of one room in one process, so that they share its servers."""
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return nodeid.split("::")[0].split("/")[1]

    return Rooms(config, log)


def pytest_unconfigure() -> None:
    gc.unfreeze()  # otherwise some libraries report at the end what they take for leaks
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The checkout."""
    return REPO


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation in which nothing else runs."""
    from tests.servers import free_port

    values = {
        "UNDERSTUDY_HOME": str(tmp_path / "home"),
        "UNDERSTUDY_EXPERIMENTS": str(tmp_path / "experiments"),
        "UNDERSTUDY_EXPECTATIONS": str(tmp_path / "expectations"),
        "UNDERSTUDY_GATEWAY_URLS": f"http://127.0.0.1:{free_port()}",
    }
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    for name in ("MLFLOW_TRACKING_URI", "UNDERSTUDY_PSEUDONYM_KEY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "experiments").mkdir()
    (tmp_path / "expectations").mkdir()
    rows = {"type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1}}
    (tmp_path / "expectations" / "rows.json").write_text(json.dumps({"name": "rows", "expectations": [rows]}))
    return tmp_path


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """A PostgreSQL of our own, on a free port; the address of its first database, from which others are made."""
    from tests.postgres import start_postgres

    with start_postgres() as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def _nothing_strays() -> Iterator[None]:
    """No test may leave a database or a tracking folder in the checkout: it forgot to say where its state lives."""
    before = {name for name in _STRAY if (REPO / name).exists()}
    yield
    strays = {name for name in _STRAY if (REPO / name).exists()} - before
    assert not strays, f"tests wrote {sorted(strays)} into {REPO}"
