"""Runs our commands as a terminal would, and makes something for them to look at."""

from __future__ import annotations

import json
from typing import Any

from typer.testing import CliRunner, Result

from tests import declared
from understudy.cli import app
from understudy.session import session
from understudy.store import Store, exposures, runs

__all__ = ["answered", "exposed_run", "run"]


def run(*arguments: str) -> Result:
    found = CliRunner().invoke(app, arguments)
    assert found.exception is None or isinstance(found.exception, SystemExit), found.exception
    assert "Traceback" not in found.output
    return found


def answered(*arguments: str, code: int = 0) -> Any:
    found = run(*arguments, "--json")
    assert found.exit_code == code, found.output
    return json.loads(found.stdout)


def exposed_run() -> Store:
    """Write a run into the store, with a tenth of all units exposed."""
    store = session().store
    with store.write() as connection:
        at = store.clock()
        exposures.adopt(connection, declared.MODEL, "1", actor="tests", at=at)
        run = runs.create(
            connection,
            key="k",
            spec=declared.experiment().frozen(),
            spec_digest="d",
            version="2",
            champion="1",
            actor="tests",
            reason="a test",
            airflow={"url": "http://airflow/run"},
            at=at,
        )
        exposures.raise_to(connection, run.run_id, 1, 10.0, 60.0, at=at)
    exposures.publish_flags(store, session().settings)
    return store
