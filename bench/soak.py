"""One gateway under steady load for ten minutes: does anything grow, is anything lost? Writes docs/performance.md.

Single rows and batches of a hundred, a quarter of the units exposed, the mirror on, the log compacted every minute; more rows
a second than 24 million a day. Memory, open files and the log are looked at every two seconds.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.performance import load, models
from bench.performance.report import DOCS, made, store
from bench.performance.series import Sample, Soak
from bench.performance.servers import Server, start_servers

SINGLES, BATCHES, BATCH_ROWS = 3000, 30, 100
"""What is sent in turn: half of the rows come one at a time."""

CONNECTIONS = 8
PAUSE_MS = 15
_LOOK_SECONDS = 2.0
_COMPACT_SECONDS = 60.0


def main(minutes: float = 10.0, docs: Path = DOCS) -> None:
    """Keep one gateway busy and write what became of it.

    Args:
        minutes: For how long.
        docs: Where the report goes.
    """
    if why := load.missing():
        print(f"skipped: {why}")
        return
    with (
        tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder,
        start_servers(Path(folder), ("logistic",)) as servers,
    ):
        server = servers.gateway("logistic")
        server.expose(mirror=True)
        bodies = load.write_bodies(Path(folder, "bodies"), _bodies())
        found = _watched(server, servers.env(server), bodies, minutes)
    store(docs, found)
    print(f"{found.rows:,} rows, {found.load.errors} requests without an answer, {dict(found.counts)}")


def _bodies() -> list[bytes]:
    """Return single rows with a batch after every hundred, of exposed and other units in turn."""
    singles = [
        body
        for pair in zip(
            *(models.bodies(1, SINGLES // 2, "logistic", exposed=exposed) for exposed in (True, False)),
            strict=True,
        )
        for body in pair
    ]
    batches = models.bodies(BATCH_ROWS, BATCHES, "logistic", exposed=False, seed=3)
    every = SINGLES // BATCHES
    return [
        body
        for number, batch in enumerate(batches)
        for body in (*singles[number * every : (number + 1) * every], batch)
    ]


def _watched(server: Server, env: dict[str, str], bodies: Path, minutes: float) -> Soak:
    """Ask for some minutes and look at the gateway meanwhile."""
    settings = {"minutes": minutes, "connections": CONNECTIONS, "pause_ms": PAUSE_MS}
    facts = made("soak", **settings)
    pids, challenger = server.pids, server.challenger_pids
    spent, began = load.cpu_seconds(pids), time.monotonic()
    before = server.status()
    asking = load.start(server.url, bodies, CONNECTIONS, 60 * minutes, PAUSE_MS)
    samples: list[Sample] = []
    compactions = _Compactions(env, server.model)
    while asking.poll() is None:
        samples.append(_sample((time.monotonic() - began) / 60, server, pids, challenger))
        compactions.go_on()
        time.sleep(_LOOK_SECONDS)
    counted = load.ended(asking)
    spent = load.cpu_seconds(pids) - spent
    compactions.finish()
    after = server.status()
    return Soak(
        facts,
        load.as_round(counted, spent),
        after["events"]["requests"] - before["events"]["requests"],
        _counts(after, compactions, server),
        samples,
    )


class _Compactions:
    """Compacts the log once a minute, one run at a time.

    Args:
        env: The gateway's environment.
        model: Whose log.
    """

    def __init__(self, env: dict[str, str], model: str) -> None:
        self.done = 0
        self.failed = 0
        self._command = [
            sys.executable,
            "-m",
            "understudy.cli",
            "events",
            "compact",
            model,
            "--quiet",
            "20",
            "--json",
        ]
        self._env = env
        self._running: subprocess.Popen[bytes] | None = None
        self._next = time.monotonic() + _COMPACT_SECONDS

    def go_on(self) -> None:
        """Start the next one if it is time, and note how the last one ended."""
        if self._running is not None:
            if self._running.poll() is None:
                return
            self.done += 1
            self.failed += self._running.returncode != 0
            self._running = None
        if time.monotonic() >= self._next:
            self._next += _COMPACT_SECONDS
            self._running = subprocess.Popen(self._command, env=self._env, stdout=subprocess.DEVNULL)

    def finish(self) -> None:
        """Wait for the one that is under way."""
        if self._running is not None:
            self._running.wait()
            self._next = float("inf")
            self.go_on()


def _sample(minute: float, server: Server, pids: list[int], challenger: list[int]) -> Sample:
    files = [path.stat() for path in server.home.glob("events/**/*") if path.is_file()]
    return Sample(
        minute=round(minute, 3),
        gateway_mb=load.memory_mb(pids),
        challenger_mb=load.memory_mb(challenger),
        files=sum(psutil.Process(pid).num_fds() for pid in [*pids, *challenger]),
        log_mb=round(sum(one.st_size for one in files) / 1e6, 2),
        segments=len(list(server.home.glob("events/*/*/*.jsonl"))),
    )


def _counts(status: dict[str, Any], compactions: _Compactions, server: Server) -> dict[str, float]:
    found = server.home.glob("events/**/*.parquet")
    return {
        "rows mirrored": status["mirror"]["events"],
        "copies dropped": status["mirror"]["dropped"],
        "events that could not be logged": status["events"]["failed"],
        "breaker openings": status["breaker"]["opened"],
        "compactions": compactions.done,
        "compactions that failed": compactions.failed,
        "partitions": sum(1 for _ in found),
    }
