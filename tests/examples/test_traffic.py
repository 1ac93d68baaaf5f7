from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from examples.flights.flights import LABEL, OUTCOME, REQUEST, Flights
from examples.flights.traffic import Replayer
from tests.examples.gateway_double import RecordingGateway

FAST = 1e6
ROOT = Path(__file__).resolve().parents[2]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not reached in time"
        time.sleep(0.01)


def test_a_replay_to_the_end_sends_every_row_once_in_order_and_every_outcome(
    small: Flights, gateway: RecordingGateway
) -> None:
    table = small.read("traffic")
    replayer = Replayer(gateway.url, small, rows_per_second=FAST)
    replayer.start()
    progress = replayer.wait(30)
    assert [r["flight_id"] for r in gateway.requests] == table["flight_id"].tolist()
    assert progress.sent == len(table)
    assert progress.failed == 0
    landed = table.dropna(subset=[LABEL]).sort_values("landed_at", kind="stable")
    assert [o["event_id"] for o in gateway.outcomes] == landed["flight_id"].tolist()
    assert [o["outcome"] for o in gateway.outcomes] == landed[LABEL].tolist()
    assert progress.outcomes == len(landed) < len(table)


def test_requests_carry_the_request_columns_and_never_the_outcome(
    small: Flights, gateway: RecordingGateway
) -> None:
    replayer = Replayer(gateway.url, small, rows_per_second=FAST, max_rows=300)
    replayer.start()
    replayer.wait(30)
    assert set(gateway.requests[0]) == set(REQUEST)
    assert not set(REQUEST) & set(OUTCOME)
    assert any(row["wind_gust"] is None for row in gateway.requests)
    assert isinstance(gateway.requests[0]["hour"], int)
    assert isinstance(gateway.requests[0]["distance"], float)


def test_one_request_holds_one_quarter_of_an_hour(small: Flights, gateway: RecordingGateway) -> None:
    replayer = Replayer(gateway.url, small, rows_per_second=FAST, max_rows=500)
    replayer.start()
    replayer.wait(30)
    quarters = pd.Series([r["scheduled_at"] // 900 for r in gateway.requests])
    assert len(gateway.batches) == quarters.nunique()
    assert sum(gateway.batches) == 500


def test_no_outcome_is_sent_before_the_clock_has_passed_its_landing(
    small: Flights, gateway: RecordingGateway
) -> None:
    replayer = Replayer(gateway.url, small, rows_per_second=FAST, max_rows=800)
    replayer.start()
    progress = replayer.wait(30)
    sent = {row["flight_id"] for row in gateway.requests}
    times = [o["occurred_at"] for o in gateway.outcomes]
    assert times == sorted(times)
    assert times[-1] <= progress.clock
    assert {o["event_id"] for o in gateway.outcomes} <= sent
    assert progress.outcomes < progress.sent


def test_flights_in_the_air_settle_when_asked(small: Flights, gateway: RecordingGateway) -> None:
    replayer = Replayer(gateway.url, small, rows_per_second=FAST, max_rows=400, settle=True)
    replayer.start()
    replayer.wait(30)
    known = small.read("traffic").head(400)[LABEL].notna().sum()
    assert len(gateway.outcomes) == known


def test_a_gateway_that_goes_away_costs_neither_rows_nor_order(
    small: Flights, gateway: RecordingGateway
) -> None:
    table = small.read("traffic")
    replayer = Replayer(gateway.url, small, rows_per_second=4_000)
    replayer.start()
    until(lambda: replayer.progress.sent > 200)
    gateway.close()
    until(lambda: replayer.progress.retries > 1)
    gateway.open()
    progress = replayer.wait(60)
    once = list(
        dict.fromkeys(row["flight_id"] for row in gateway.requests)
    )  # a lost answer may repeat one request
    assert once == table["flight_id"].tolist()
    assert progress.sent == len(table)
    events = list(dict.fromkeys(o["event_id"] for o in gateway.outcomes))
    assert (
        events == table.dropna(subset=[LABEL]).sort_values("landed_at", kind="stable")["flight_id"].tolist()
    )


def test_refused_rows_are_counted_and_passed_over_while_outcomes_insist(
    small: Flights, gateway: RecordingGateway
) -> None:
    gateway.answers["/invocations"] = [400, 503, 200]
    gateway.answers["/outcomes"] = [503, 500, 503, 500, 503, 500]
    replayer = Replayer(gateway.url, small, rows_per_second=FAST)
    replayer.start()
    progress = replayer.wait(60)
    table = small.read("traffic")
    assert 0 < progress.failed < 30
    assert progress.sent + progress.failed == len(table)
    assert progress.outcomes == table[LABEL].notna().sum() == len(gateway.outcomes)


def test_a_second_session_goes_on_where_the_first_stopped(
    small: Flights, gateway: RecordingGateway, tmp_path: Path
) -> None:
    table, state = small.read("traffic"), tmp_path / "position.json"
    for _ in range(2):
        replayer = Replayer(gateway.url, small, rows_per_second=FAST, max_rows=700, state=state)
        replayer.start()
        replayer.wait(30)
    assert [r["flight_id"] for r in gateway.requests] == table["flight_id"].head(1400).tolist()
    events = [o["event_id"] for o in gateway.outcomes]
    assert len(events) == len(set(events))
    clock = json.loads(state.read_text())["clock"]
    assert set(events) == set(table[table["landed_at"] <= clock].head(1400)["flight_id"])


def test_a_replay_from_a_later_day_sends_no_outcome_of_flights_never_asked(
    flights: Flights, gateway: RecordingGateway
) -> None:
    replayer = Replayer(gateway.url, flights, start="2013-05-02", rows_per_second=FAST, max_rows=600)
    replayer.start()
    replayer.wait(30)
    assert gateway.requests[0]["flight_id"].startswith("20130502-")
    assert gateway.outcomes
    assert {o["event_id"] for o in gateway.outcomes} <= {r["flight_id"] for r in gateway.requests}


def test_it_stops_when_asked_even_while_the_gateway_is_away(
    small: Flights, gateway: RecordingGateway
) -> None:
    gateway.close()
    replayer = Replayer(gateway.url, small, rows_per_second=FAST)
    replayer.start()
    until(lambda: replayer.progress.retries > 0)
    assert replayer.stop(10).sent == 0
    assert not replayer.running
    assert replayer.problem is None


@pytest.mark.parametrize("speed", [0, -5, float("nan")])
def test_a_speed_that_is_no_speed_is_refused(small: Flights, speed: float) -> None:
    with pytest.raises(ValueError, match="rows_per_second"):
        Replayer("http://127.0.0.1:9", small, rows_per_second=speed)


def test_as_a_process_it_ends_cleanly_on_sigterm_and_keeps_its_position(
    flights: Flights, gateway: RecordingGateway, tmp_path: Path
) -> None:
    state = tmp_path / "position.json"
    command = [
        sys.executable,
        "-m",
        "examples.flights.traffic",
        "--gateway",
        gateway.url,
        "--data",
        str(flights.folder),
        "--from",
        "2013-04-11",
        "--rows-per-second",
        "300",
        "--state",
        str(state),
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    try:
        until(lambda: len(gateway.requests) > 100, 60)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    last = json.loads(output.strip().splitlines()[-1])
    assert last["sent"] == len(gateway.requests) == json.loads(state.read_text())["sent"]
