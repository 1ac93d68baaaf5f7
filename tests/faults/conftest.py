"""The servers of the gateway's tests, and the report that a whole run writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.report import write_report
from tests.faults.stage import Found
from tests.gateway.conftest import changed, experiments, gateway_with, mlflow_server, moody, registered

__all__ = ["Note", "changed", "experiments", "gateway_with", "mlflow_server", "moody", "note", "registered"]

Note = Callable[[str, Callable[[], Found]], None]


@pytest.fixture
def note(repo: Path) -> Note:
    """Return a function that plays a scenario, notes what it found, and fails where something was lost or wrong.

    A scenario that breaks off is noted as well: a fault that did harm belongs into the report. Scenarios that were left out
    keep the rows of the run before.
    """

    def play(name: str, scenario: Callable[[], Found]) -> None:
        try:
            found = scenario()
        except Exception as error:
            write_report(repo / "docs", name, Found(0, 0, 0, notes=_broke_off(error)))
            raise
        write_report(repo / "docs", name, found)
        assert found.held, found

    return play


def _broke_off(error: Exception) -> str:
    """Return in one line of a table why a scenario has no result."""
    said = " ".join(str(error).replace("|", "/").split())
    return f"broke off: {type(error).__name__}: {said[:200]}"
