"""Send the flights of 2013 to a gateway in time order, and their outcomes once the replay clock has passed the landing.

``python -m examples.flights.traffic --gateway http://127.0.0.1:5080 --data DIR --from 2013-04-01 --rows-per-second 600``
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson

from examples.flights.feeds import NEW_YORK
from examples.flights.flights import LABEL, REQUEST, Flights, prepare

QUARTER: Final = 900
OUTCOMES_A_POST: Final = 200
OUTCOMES_EVERY: Final = (
    3600  # seconds of the replay clock between two posts, unless a full post is due earlier
)
RETRY_WAITS: Final = (
    0.05,
    0.1,
    0.2,
    0.5,
    1.0,
)  # the last one repeats until the gateway is back or we are stopped
TRIES_ON_SERVER_ERROR: Final = 5


class Stopped(Exception):
    """The replayer was asked to stop while it waited for the gateway."""


@dataclass(frozen=True)
class Progress:
    """How far a replay has come. Counters are over all sessions that share a state file.

    Attributes:
        sent: rows answered by the gateway with 200.
        failed: rows the gateway refused (they are not sent again).
        outcomes: outcomes accepted.
        outcomes_failed: outcomes the gateway refused as malformed.
        retries: attempts repeated because the gateway was away or said 5xx.
        clock: epoch second the replay has reached (scheduled departure of the last row sent), 0 before the first.
        position: index of the next row of the traffic table.
        outcome_position: index of the next outcome in landing order.
        started_at_row: index of the first row of the replay; earlier flights were never asked, so get no outcome.
    """

    sent: int = 0
    failed: int = 0
    outcomes: int = 0
    outcomes_failed: int = 0
    retries: int = 0
    clock: int = 0
    position: int = 0
    outcome_position: int = 0
    started_at_row: int = 0


class Replayer:
    """Replays traffic in one thread over one kept-alive connection, so that order is the order of the world.

    Args:
        gateway: base address of the gateway.
        flights: the prepared data.
        start: first day of the replay (New York date ``YYYY-MM-DD``); ignored where ``state`` knows a position.
        rows_per_second: target speed; may be changed while running.
        max_rows: stop after this many rows of this session; None replays to the end of the year.
        state: file that remembers the position between sessions; None remembers nothing.
        settle: send the outcomes still in the air when the rows have run out (always done at the year's end).
    """

    def __init__(
        self,
        gateway: str,
        flights: Flights,
        start: str = "2013-04-01",
        rows_per_second: float = 500.0,
        max_rows: int | None = None,
        state: Path | None = None,
        settle: bool = False,
    ) -> None:
        if not rows_per_second > 0:
            raise ValueError(f"rows_per_second is {rows_per_second}, must be above 0")
        self.rows_per_second = rows_per_second
        self._gateway, self._max_rows, self._state, self._settle = (
            gateway.rstrip("/"),
            max_rows,
            state,
            settle,
        )
        self._table = flights.read("traffic")
        self._scheduled = self._table["scheduled_at"].to_numpy()
        self._by_landing = self._landing_order()
        self._landed = self._table["landed_at"].to_numpy()[self._by_landing]
        self._progress = self._resume(start)
        self._stop, self._thread = (
            threading.Event(),
            threading.Thread(target=self._guarded, name="replayer", daemon=True),
        )
        self.problem: BaseException | None = None

    @property
    def progress(self) -> Progress:
        """Return a consistent snapshot of the counters."""
        return self._progress

    @property
    def running(self) -> bool:
        """Say whether rows may still be sent."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begin to send in a thread of its own."""
        self._thread.start()

    def stop(self, timeout: float = 30.0) -> Progress:
        """Stop after the request under way and return the counters; safe to call more than once.

        Raises:
            TimeoutError: if the request under way does not end within ``timeout`` seconds.
        """
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
            if self._thread.is_alive():
                raise TimeoutError(f"the replayer still waits for {self._gateway} after {timeout:g} s")
        return self._progress

    def wait(self, timeout: float | None = None) -> Progress:
        """Wait until the rows have run out or the replayer was stopped; raise what stopped it otherwise."""
        self._thread.join(timeout)
        if self.problem is not None:
            raise self.problem
        return self._progress

    def _guarded(self) -> None:
        try:
            with httpx.Client(base_url=self._gateway, timeout=30.0) as client:
                self._run(client)
        except Stopped:
            pass
        except BaseException as problem:  # kept for the caller: a thread has nobody to raise to
            self.problem = problem
        finally:
            self._remember()

    def _run(self, client: httpx.Client) -> None:
        anchor, paced, speed, last_outcomes = time.monotonic(), 0, self.rows_per_second, self._progress.clock
        for begin, end in self._batches():
            if self._stop.is_set():
                return
            self._send_rows(client, begin, end)
            clock = self._progress.clock
            if clock - last_outcomes >= OUTCOMES_EVERY or self._due(clock) >= OUTCOMES_A_POST:
                self._send_outcomes(client, clock)
                last_outcomes = clock
                self._remember()
            paced += end - begin
            behind = time.monotonic() - (anchor + paced / speed)
            if speed != self.rows_per_second or behind > 1.0:  # never make up for lost time with a burst
                anchor, paced, speed = time.monotonic(), 0, self.rows_per_second
            elif behind < 0:
                self._stop.wait(-behind)
        if not self._stop.is_set():
            over = self._settle or self._progress.position >= len(self._table)
            self._send_outcomes(client, int(self._landed.max(initial=0)) if over else self._progress.clock)

    def _batches(self) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows that share one scheduled quarter of an hour."""
        begin = self._progress.position
        last = len(self._table) if self._max_rows is None else min(len(self._table), begin + self._max_rows)
        quarters = self._scheduled[begin:last] // QUARTER
        edges = begin + np.flatnonzero(np.diff(quarters)) + 1
        for left, right in zip([begin, *edges], [*edges, last], strict=True):
            if right > left:
                yield int(left), int(right)

    def _send_rows(self, client: httpx.Client, begin: int, end: int) -> None:
        rows = self._table.iloc[begin:end][list(REQUEST)]
        body = {"dataframe_split": {"columns": list(REQUEST), "data": rows.to_numpy(dtype=object).tolist()}}
        accepted = self._post(client, "/invocations", body)
        count, now = end - begin, self._progress
        self._progress = replace(
            now,
            position=end,
            clock=int(self._scheduled[end - 1]),
            sent=now.sent + count * accepted,
            failed=now.failed + count * (not accepted),
        )

    def _due(self, clock: int) -> int:
        """Count the outcomes that are known at ``clock`` and not sent yet."""
        return int(np.searchsorted(self._landed, clock, side="right")) - self._progress.outcome_position

    def _send_outcomes(self, client: httpx.Client, clock: int) -> None:
        """Send what has landed by ``clock`` and was asked before, in landing order."""
        due = self._progress.outcome_position + self._due(clock)
        for begin in range(self._progress.outcome_position, due, OUTCOMES_A_POST):
            end = min(begin + OUTCOMES_A_POST, due)
            rows = self._by_landing[begin:end]
            rows = rows[(rows >= self._progress.started_at_row) & (rows < self._progress.position)]
            accepted = (
                self._post(client, "/outcomes", {"outcomes": self._outcomes(rows)}) if len(rows) else True
            )
            now = self._progress
            self._progress = replace(
                now,
                outcome_position=end,
                outcomes=now.outcomes + len(rows) * accepted,
                outcomes_failed=now.outcomes_failed + len(rows) * (not accepted),
            )

    def _outcomes(self, rows: Any) -> list[dict[str, Any]]:
        landed = self._table.iloc[rows][["flight_id", LABEL, "landed_at"]].itertuples(index=False)
        return [
            {"event_id": event, "outcome": float(late), "occurred_at": float(at)}
            for event, late, at in landed
        ]

    def _post(self, client: httpx.Client, path: str, body: dict[str, Any]) -> bool:
        """Post until the gateway answers; say whether it accepted.

        A gateway that is away is waited for, so nothing is lost or overtaken. A refusal (4xx) is final. A server error is
        tried again, for requests a few times (one poisonous row must not stop the day), for outcomes until it works.
        """
        content = orjson.dumps(
            body, option=orjson.OPT_SERIALIZE_NUMPY
        )  # NaN becomes null, which JSON can carry
        tries = 0
        while True:
            try:
                status = client.post(
                    path, content=content, headers={"Content-Type": "application/json"}
                ).status_code
            except httpx.TransportError:
                status = 0
            tries += 1
            if 0 < status < 500:
                return status == 200
            if status >= 500 and path == "/invocations" and tries >= TRIES_ON_SERVER_ERROR:
                return False
            self._progress = replace(self._progress, retries=self._progress.retries + 1)
            if self._stop.wait(RETRY_WAITS[min(tries, len(RETRY_WAITS)) - 1]):
                raise Stopped

    def _landing_order(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        known = np.flatnonzero(self._table[LABEL].notna().to_numpy())
        return known[np.argsort(self._table["landed_at"].to_numpy()[known], kind="stable")].astype(np.int64)

    def _resume(self, start: str) -> Progress:
        """Return the remembered position, or the first row of ``start``."""
        if self._state is not None and self._state.exists():
            return Progress(**json.loads(self._state.read_text()))
        day = datetime.fromisoformat(start).replace(tzinfo=NEW_YORK)
        row = int(np.searchsorted(self._scheduled, int(day.timestamp()), side="left"))
        if row >= len(self._table):
            raise ValueError(f"no traffic from {start} on; the table ends with the year 2013")
        landed = int(np.searchsorted(self._landed, self._scheduled[row], side="left"))
        return Progress(position=row, started_at_row=row, outcome_position=landed)

    def _remember(self) -> None:
        if self._state is not None:
            scratch = self._state.with_suffix(".partial")
            scratch.write_text(json.dumps(asdict(self._progress)))
            scratch.replace(self._state)


def main(arguments: list[str] | None = None) -> int:
    """Replay from the command line until the rows run out or SIGINT or SIGTERM asks to stop."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.flights.traffic", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--gateway", required=True, help="base address, such as http://127.0.0.1:5080")
    parser.add_argument("--data", required=True, type=Path, help="data folder (prepared on first use)")
    parser.add_argument("--from", dest="start", default="2013-04-01", help="first New York date, YYYY-MM-DD")
    parser.add_argument("--rows-per-second", type=float, default=500.0)
    parser.add_argument("--max-rows", type=int)
    parser.add_argument("--state", type=Path, help="file that remembers the position between sessions")
    parser.add_argument(
        "--settle", action="store_true", help="also send the outcomes still in the air at the end"
    )
    given = parser.parse_args(arguments)
    replayer = Replayer(
        given.gateway,
        prepare(given.data),
        given.start,
        given.rows_per_second,
        given.max_rows,
        given.state,
        given.settle,
    )
    asked = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.set())
    replayer.start()
    while replayer.running and not asked.wait(1.0):
        _say(replayer.progress)
    _say(replayer.stop())
    if replayer.problem is not None:
        print(f"replay ended early: {replayer.problem!r}", file=sys.stderr)
        return 1
    return 0


def _say(progress: Progress) -> None:
    clock = datetime.fromtimestamp(progress.clock, UTC).isoformat() if progress.clock else None
    print(json.dumps(asdict(progress) | {"clock_utc": clock}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
