"""A burst keeps its schedule whatever the server does, and counts every answer from the moment its request was due."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tests.servers import free_port
from understudy.lifecycle.burst import Burst, fire

WARM_UP = 20


class Server:
    """Answers with given statuses, or not before so many requests have come."""

    def __init__(self, *statuses: int, hold_until: int = 0) -> None:
        self.bodies: list[bytes] = []
        self.statuses = statuses or (200,)
        self.hold_until = hold_until
        self.changed = threading.Condition()

    def take(self, body: bytes) -> int:
        with self.changed:
            self.bodies.append(body)
            number = len(self.bodies) - WARM_UP
            self.changed.notify_all()
            if number > 0:
                self.changed.wait_for(lambda: len(self.bodies) - WARM_UP >= self.hold_until, timeout=30)
        return self.statuses[max(number - 1, 0) % len(self.statuses)] if number > 0 else 200


@contextmanager
def listening(server: Server) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status = server.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    http.daemon_threads = True
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def test_every_request_is_sent_and_the_bodies_come_round_again() -> None:
    server = Server()
    with listening(server) as url:
        burst = fire(url, [b"a", b"b", b"c"], rate=200, count=7, patience=10)
    assert sorted(server.bodies[WARM_UP:]) == sorted([b"a", b"b", b"c", b"a", b"b", b"c", b"a"])
    assert (burst.sent, burst.error_rate, dict(burst.outcomes)) == (7, 0.0, {"200": 7})
    assert np.isfinite(burst.latency).all()


def test_a_server_that_stalls_makes_late_whatever_was_due_meanwhile() -> None:
    rate, count = 100.0, 30
    # Nothing is answered before the last request has come, which no client does that waits for answers.
    with listening(Server(hold_until=count)) as url:
        burst = fire(url, [b"x"], rate, count, patience=30)
    due = np.arange(count) / rate
    assert burst.error_rate == 0.0
    assert (burst.latency >= due[-1] - due).all()


def test_refusals_are_no_answers() -> None:
    with listening(Server(200, 500, 400)) as url:
        burst = fire(url, [b"x"], rate=200, count=9, patience=10)
    assert dict(burst.outcomes) == {"200": 3, "500": 3, "400": 3}
    assert burst.error_rate == pytest.approx(2 / 3)
    assert int(np.isnan(burst.latency).sum()) == 6


def test_a_server_that_never_answers_costs_no_more_than_the_patience_allows() -> None:
    with listening(Server(hold_until=10**6)) as url:
        burst = fire(url, [b"x"], rate=200, count=5, patience=0.5)
    assert dict(burst.outcomes) == {"TimeoutError": 5}
    assert burst.error_rate == 1.0


def test_nobody_listening_is_counted_by_the_name_of_the_error() -> None:
    burst = fire(f"http://127.0.0.1:{free_port()}", [b"x"], rate=100, count=4, patience=5)
    assert sum(burst.outcomes.values()) == 4
    assert not {"200"} & set(burst.outcomes)
    assert burst.error_rate == 1.0
    assert math.isnan(burst.percentile(0.99))
    assert burst.to_dict()["p99"] is None


def measured(latency: list[float], delay: list[float] | None = None, rate: float = 10.0) -> Burst:
    late = np.array(delay or [0.0] * len(latency))
    return Burst(rate, late, np.array(latency), {"200": len(latency)})


def test_a_percentile_is_an_observed_time_and_rather_the_one_above() -> None:
    burst = measured([0.1, 0.2, 0.3, math.nan])
    assert (burst.percentile(0.5), burst.percentile(0.99)) == (0.2, 0.3)


def test_what_the_sender_was_late_can_be_left_out() -> None:
    burst = measured([1.0, 1.2], [0.9, 1.0])
    assert burst.percentile(0.99) == 1.2
    assert burst.percentile(0.99, since_sent=True) == pytest.approx(0.2)


def test_a_sender_that_falls_behind_achieved_less_and_one_that_caught_up_did_not() -> None:
    count = 100
    behind = measured([9.0] * count, list(np.linspace(0, 10, count)))
    # The last tenth is 9.55 s late at its middle, beside the 10 s that the burst was to take.
    assert behind.achieved == pytest.approx(count / (10 + 9.55), rel=0.001)
    hiccup = measured([1.0] * count, [0.0] * 40 + [2.0] * 10 + [0.0] * 50)
    assert hiccup.achieved == 10.0
