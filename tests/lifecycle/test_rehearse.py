"""Rehearsals are built from what the champion did, kept, and stand in the way of a spec that misses its ceilings."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import declared
from tests.lifecycle.conftest import World
from tests.logged import lines_of
from understudy import rehearsal
from understudy.errors import NoHistory, RiskCeilingMissed, SpecInvalid
from understudy.events.writer import EventWriter
from understudy.lifecycle.history import FRESH_FOR, history_of
from understudy.lifecycle.rehearse import _kept, rehearse, require_rehearsed
from understudy.settings import Settings
from understudy.spec import Experiment

NOW = 1_700_000_000.0
RISK = {"false_promotion": 0.2, "false_rollback": 0.2, "replicates": 50}
METRICS = [
    {"name": "brier", "kind": "brier", "role": "primary", "margin": 0.02},
    {"name": "errors", "kind": "error_rate", "role": "guardrail", "margin": 0.1},
    {"name": "spent", "kind": "mean", "value": "spent", "better": "higher", "role": "guardrail", "margin": 2},
]


def spec(**changes: Any) -> Experiment:
    return declared.experiment(**{"risk": RISK} | changes)


def serve(
    settings: Settings,
    rows: int = 3000,
    rate: float = 50.0,
    told: bool = True,
    version: str = "1",
    pause: float = 0.0,
    began: float = NOW,
) -> None:
    """Write what a champion answered, with outcomes two seconds later for nine in ten."""
    rng = np.random.default_rng(1)
    received = began + np.arange(rows) / rate + np.where(np.arange(rows) > rows / 2, pause, 0.0)
    home = rng.integers(0, 2, 200)
    units = rng.integers(0, 200, rows)
    answers = rng.uniform(0.1, 0.9, rows)
    requests, outcomes = [], []
    for row in range(rows):
        unit, event = int(units[row]), f"e{began}-{row}"
        requests.append(
            {
                "event_id": event, "request_id": "r", "received_at": received[row], "event_time": received[row],
                "model": declared.MODEL, "run": None, "stage": 0, "generation": 1, "arm": "unexposed", "version": version,
                "fallback": False, "unit": f"{unit:032x}", "cohorts": {"origin": ["JFK", "LGA"][home[unit]]}, "features": {},
                "prediction": None if row % 50 == 0 else answers[row], "error": "broken" if row % 50 == 0 else None,
                "latency_ms": 5.0,
            }
        )  # fmt: skip
        if told and row % 10:
            late = float(rng.random() < answers[row])
            at = received[row] + 2.0
            values = {"spent": float(rng.exponential(3))}
            outcomes.append(
                {"event_id": event, "outcome": late, "values": values, "occurred_at": at, "received_at": at}
            )
    for kind, events in (("requests", requests), ("outcomes", outcomes)):
        log = EventWriter(settings.events_dir, declared.MODEL, kind)
        log.append(lines_of(kind, events))
        log.close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """An installation without any server."""
    monkeypatch.setenv("UNDERSTUDY_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("UNDERSTUDY_EXPERIMENTS", str(tmp_path / "experiments"))
    monkeypatch.setenv("UNDERSTUDY_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Settings.from_env()


def test_the_log_tells_rates_losses_cohorts_and_delays(settings: Settings) -> None:
    serve(settings)
    history = history_of(spec(metrics=METRICS), settings)
    summary = history.to_dict()
    assert summary["events_per_second"] == pytest.approx(50, rel=0.02)
    assert history.cohorts == ("origin=JFK", "origin=LGA")
    assert summary["metrics"]["errors"]["value"] == pytest.approx(0.02, abs=0.002)
    assert summary["metrics"]["brier"]["value"] == pytest.approx(0.2, abs=0.03)
    # Higher is better, so on the harm scale it is negative.
    assert summary["metrics"]["spent"]["value"] == pytest.approx(-3, rel=0.1)
    assert summary["label_delay_seconds"] == pytest.approx(2.0, abs=0.1)
    assert summary["label_missing_share"] == pytest.approx(0.1, abs=0.02)
    assert summary["units"] == 200
    assert set(summary["sources"].values()) == {"event log", "event log, answers of version 1"}


def test_an_outage_in_the_log_does_not_slow_the_traffic_down(settings: Settings) -> None:
    serve(settings, pause=5000.0)
    history = history_of(spec(), settings)
    assert history.events_per_second == pytest.approx(50, rel=0.05)
    assert np.diff(history.at).max() < 1


def test_only_the_champions_own_answers_count_once_there_are_enough_of_them(settings: Settings) -> None:
    serve(settings, version="1")
    serve(settings, version="2", began=NOW + 1000, rows=2000)
    assert history_of(spec(), settings).sources["brier"] == "event log, answers of version 2"
    serve(settings, version="3", began=NOW + 2000, rows=100)
    assert (
        history_of(spec(), settings, refresh=True).sources["brier"] == "event log, all versions in production"
    )


def test_without_log_and_without_servers_there_is_no_history_and_the_cause_is_named(
    settings: Settings,
) -> None:
    with pytest.raises(NoHistory, match="Serve the champion for a while"):
        rehearse(spec())


def test_a_history_is_kept_for_a_day_and_used_without_the_log(settings: Settings) -> None:
    serve(settings)
    first = history_of(spec(), settings)
    shutil.rmtree(settings.events_dir)
    assert history_of(spec(), settings).digest == first.digest
    # Ceilings and margins are no part of a history.
    assert history_of(spec(risk=None, alpha=0.01), settings).digest == first.digest
    (kept,) = (settings.home / "rehearsals").glob("history-*.npz")
    old = time.time() - FRESH_FOR - 1
    os.utime(kept, (old, old))
    assert history_of(spec(), settings).digest == first.digest
    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(NoHistory):
        history_of(spec(), settings)


def test_a_second_rehearsal_simulates_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(settings)
    first = rehearse(spec())
    assert first["cached"] is False

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("simulated again")

    monkeypatch.setattr(rehearsal, "rehearse", never)
    told: list[float] = []
    second = rehearse(spec(), progress=lambda part, _: told.append(part))
    assert second == first | {"cached": True}
    assert told == [1.0]
    for other in (spec(alpha=0.01), spec(risk=RISK | {"false_promotion": 0.3})):
        with pytest.raises(AssertionError, match="simulated again"):
            rehearse(other)
    with pytest.raises(AssertionError, match="simulated again"):
        rehearse(spec(), replicates=60)


def test_a_torn_result_is_simulated_again(settings: Settings) -> None:
    serve(settings)
    first = rehearse(spec())
    (kept,) = (settings.home / "rehearsals").glob("*.json")
    whole = kept.read_text()
    for torn in ("[]", '{"met": true}', "", whole[:200]):
        kept.write_text(torn)
        assert _kept(kept) is None
    again = rehearse(spec())
    assert again["cached"] is False
    assert again | {"seconds": 0} == first | {"seconds": 0}
    assert json.loads(kept.read_text())["met"] is True


def test_an_experiment_is_found_by_file_by_name_or_as_it_is(settings: Settings) -> None:
    serve(settings)
    path = declared.write(settings.experiments, risk=RISK)
    found = [rehearse(given) for given in (path, str(path), declared.NAME, spec())]
    assert {content["spec_digest"] for content in found} == {spec().digest()}
    assert [content["cached"] for content in found] == [False, True, True, True]
    path.write_text("name: 7")
    with pytest.raises(SpecInvalid):
        rehearse(path)


def test_without_log_the_holdout_is_scored_by_the_champion_and_the_log_only_tells_the_rate(
    world: World,
) -> None:
    declare(world, RISK)
    with pytest.raises(NoHistory, match="how often"):
        history_of(world.experiment, world.settings)
    serve_as(world, rows=300)
    history = history_of(world.experiment, world.settings)
    assert history.events_per_second == pytest.approx(50, rel=0.05)
    assert history.sources["brier"] == "holdout scored by version 1"
    assert history.sources["errors"].startswith("event log")
    assert history.units == 150
    assert history.rate(0) < 0.25


def test_a_run_without_ceilings_begins_unrehearsed_and_says_so(world: World) -> None:
    passage = world.session.passage(world.started("2"))
    found = require_rehearsed(passage)
    assert found == {
        "declared": False,
        "sentence": "The spec declares no risk ceilings, so nothing was rehearsed.",
    }
    assert not (world.settings.home / "rehearsals").exists()


def test_a_run_that_meets_its_ceilings_begins_with_the_numbers_on_record(world: World) -> None:
    declare(world, RISK)
    serve_as(world)
    found = require_rehearsed(world.session.passage(world.started("2")))
    assert found["declared"] is True
    assert all(ceiling["met"] for ceiling in found["ceilings"])
    assert "meets all 2 risk ceilings" in found["sentence"]
    assert {ceiling["name"] for ceiling in found["ceilings"]} == {"false_promotion", "false_rollback"}
    assert json.loads(json.dumps(found)) == found


def test_a_run_that_misses_a_ceiling_is_refused_with_the_numbers_and_the_fix(world: World) -> None:
    hasty = [{"percent": 50, "soak": "5s", "timeout": "30s", "min_units": 20, "margin_scale": 3}]
    declare(
        world, {"promotion": "90s", "hoped_gain": 0.04, "replicates": 50}, stages=hasty, metrics=METRICS[:2]
    )
    serve_as(world, rows=6000)
    with pytest.raises(RiskCeilingMissed) as refused:
        require_rehearsed(world.session.passage(world.started("2")))
    message = refused.value.message
    assert "promote the hoped-for gain" in message
    assert "The smallest change found that meets them: soak of the last stage" in message


def declare(world: World, risk: dict[str, Any], **changes: Any) -> None:
    world.declare(risk=risk, **changes)


def serve_as(world: World, **changes: Any) -> None:
    """Write the log of the model of a world."""
    serve(world.settings, told=changes.pop("told", True), **changes)
    (world.settings.events_dir / declared.MODEL).rename(world.settings.events_dir / world.model)
