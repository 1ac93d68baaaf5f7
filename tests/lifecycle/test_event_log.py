"""Keeping the log of every model: what is done for each, what stops nothing else, and what a run keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import declared
from tests.events.test_reader import request
from tests.logged import lines_of
from understudy.errors import SettingMissing
from understudy.events.lookups import recent_requests
from understudy.events.upkeep import Upkeep
from understudy.events.writer import EventsUnwritable, EventWriter
from understudy.lifecycle.event_log import keep_events, retain_events
from understudy.session import Session, session
from understudy.store import exposures, runs

DAY = 86400.0


@pytest.fixture
def doors(home: Path, monkeypatch: pytest.MonkeyPatch) -> Session:
    """An installation with two models, each with an event of a year ago and one of today, written long enough ago."""
    for model in ("delay", "price"):
        content = declared.content(name=f"{model}_test", model=model)
        declared.write(home / "experiments", **content)
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "90")
    monkeypatch.setattr("understudy.events.compaction.QUIET", -60.0)
    found = session()
    for model in ("delay", "price"):
        for age in (365, 0):
            log(found, model, f"{age}", found.store.clock() - age * DAY)
    return found


def log(doors: Session, model: str, name: str, received_at: float) -> None:
    writer = EventWriter(doors.settings.events_dir, model, "requests")
    writer.append(lines_of("requests", [request(1, event_id=name, model=model, received_at=received_at)]))
    writer.close()


def left(doors: Session, model: str) -> list[str]:
    return list(recent_requests(doors.settings.events_dir, model, 9)["event_id"])


def test_every_model_is_compacted_and_loses_what_is_old(doors: Session) -> None:
    told: list[str] = []
    done = keep_events(doors, told.append)
    assert [(one["model"], one.get("days")) for one in done] == [
        ("delay", None), ("delay", 90), ("price", None), ("price", 90),
    ]  # fmt: skip
    assert left(doors, "delay") == left(doors, "price") == ["0"]
    assert not list(doors.settings.events_dir.glob("*/requests/*.jsonl"))
    assert told[0].startswith("delay: 2 segments with 2 events are 2 partitions now")
    assert "1 partitions with 1 events" in told[1]
    assert keep_events(doors, told.append)[1]["events"] == 0


def test_without_an_age_nothing_is_removed(doors: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "price=30")
    keep_events(doors, lambda sentence: None)
    assert left(doors, "delay") == ["365", "0"]
    assert left(doors, "price") == ["0"]


def test_an_age_that_cannot_be_read_removes_nothing_compacts_all_and_is_a_failure(
    doors: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDERSTUDY_RETENTION_DAYS", "soon")
    told: list[str] = []
    with pytest.raises(SettingMissing):
        keep_events(doors, told.append)
    assert left(doors, "delay") == left(doors, "price") == ["365", "0"]
    assert sum("2 segments with 2 events" in sentence for sentence in told) == 2


def test_what_fails_for_one_model_stops_nothing_else_and_is_told(
    doors: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Upkeep.store

    def full(upkeep: Upkeep, finished: Path, address: str) -> None:
        if upkeep.folder.name == "delay":
            raise OSError(28, "No space left on device")
        real(upkeep, finished, address)

    monkeypatch.setattr(Upkeep, "store", full)
    told: list[str] = []
    with pytest.raises(EventsUnwritable, match="delay"):
        keep_events(doors, told.append)
    assert left(doors, "price") == ["0"]
    assert any("No space left" in sentence for sentence in told)


def test_a_model_that_somebody_works_on_or_that_nobody_knows_is_left_for_the_next_time(
    doors: Session,
) -> None:
    log(doors, "unknown", "365", 1.0)
    told: list[str] = []
    with Upkeep(doors.settings.events_dir / "delay"):
        keep_events(doors, told.append)
    assert left(doors, "delay") == ["365", "0"]
    assert left(doors, "price") == ["0"]
    assert sum("left as it is" in sentence for sentence in told) == 3
    assert list((doors.settings.events_dir / "unknown").rglob("*.jsonl"))


def test_before_anything_was_logged_there_is_nothing_to_do(home: Path) -> None:
    told: list[str] = []
    assert keep_events(session(), told.append) == []
    assert told == ["No events have been logged yet."]


@pytest.mark.parametrize(
    ("covariate", "kept"), [(None, ["0", "since"]), ("history", ["0", "365", "before", "since"])]
)
def test_nothing_goes_that_a_run_needs_which_is_on(
    doors: Session, covariate: str | None, kept: list[str]
) -> None:
    """A run of a hundred days counts its own events, and with a covariate what its units did before."""
    now, metrics = doors.store.clock(), declared.content()["metrics"]
    keep_events(doors, lambda sentence: None)
    log(doors, "delay", "365", now - 365 * DAY)
    began = now - 100 * DAY
    log(doors, "delay", "before", began - 7200.0)
    log(doors, "delay", "since", began)
    with doors.store.write() as connection:
        exposures.adopt(connection, "delay", "1", actor="tests", at=began)
        spec = declared.experiment(metrics=[*metrics[:-1], metrics[-1] | {"covariate": covariate}]).frozen()
        runs.create(
            connection, key="k", spec=spec, spec_digest="d", version="2", champion="1", actor="tests", reason="a test",
            airflow={}, at=began,
        )  # fmt: skip
    keep_events(doors, lambda sentence: None)
    assert sorted(left(doors, "delay")) == kept
    if covariate is None:
        assert retain_events(doors, "delay", 0.0)["events"] == 0
