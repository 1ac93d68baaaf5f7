"""The task that keeps the event log does it, says so in its log, and fails when something failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import declared
from tests.events.test_reader import request
from tests.logged import lines_of
from understudy.errors import SettingMissing
from understudy.events.writer import EventWriter
from understudy.orchestration.event_log_task import KeepEventsOperator
from understudy.session import session


@pytest.fixture
def logged(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    declared.write(home / "experiments")
    monkeypatch.setattr("understudy.events.compaction.QUIET", -60.0)
    doors = session()
    writer = EventWriter(doors.settings.events_dir, declared.MODEL, "requests")
    writer.append(lines_of("requests", [request(1, received_at=doors.store.clock())]))
    writer.close()


def test_it_compacts_and_its_log_says_what_it_did(logged: None, capsys: pytest.CaptureFixture[str]) -> None:
    (done,) = KeepEventsOperator(task_id="keep").execute({})
    assert (done["model"], done["segments"], done["events"]) == (declared.MODEL, 1, 1)
    assert "delay: 1 segments with 1 events are 1 partitions now" in capsys.readouterr().out


def test_it_fails_when_something_could_not_be_done(logged: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "soon")
    with pytest.raises(SettingMissing):
        KeepEventsOperator(task_id="keep").execute({})
