"""Sends requests to a gateway on a fixed schedule, whether or not earlier ones are answered, and measures the answers.

Every latency is counted from the moment at which its request was due. A gateway that stalls therefore makes all requests
late that were due meanwhile; a client that waited for answers would send fewer and hide the stall (coordinated omission).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Burst", "fire"]

_CONNECTIONS = 100
# Less than the gateway's own patience with an idle connection, or a request could meet one that is just being closed.
_IDLE_SECONDS = 2.0
_WARM_UP = 20
_ANSWERED = "200"
_HEADERS = {"Content-Type": "application/json"}


@dataclass(frozen=True, eq=False)
class Burst:
    """What came of a burst, one item per request in the order in which they were due.

    Attributes:
        rate: Requests per second that were asked for.
        delay: Seconds from the moment a request was due to the moment it was this process's turn to send it.
        latency: Seconds from the moment it was due to its answer; NaN where it got none.
        outcomes: How often each HTTP status came, or the name of the error in its place.
    """

    rate: float
    delay: NDArray[np.float64]
    latency: NDArray[np.float64]
    outcomes: Mapping[str, int]

    @property
    def sent(self) -> int:
        """How many requests were sent."""
        return len(self.latency)

    @property
    def error_rate(self) -> float:
        """Share of the requests without an answer."""
        return float(np.isnan(self.latency).mean())

    @property
    def achieved(self) -> float:
        """Requests per second that were sent: fewer than asked for where the delay grew until the end.

        A delay that was caught up with made the burst rather harder. The median over the last tenth leaves out a hiccup.
        """
        behind = float(np.median(self.delay[-max(1, self.sent // 10) :]))
        return self.sent / (self.sent / self.rate + behind)

    def percentile(self, share: float, *, since_sent: bool = False) -> float:
        """Return a percentile of the time to answer in seconds; NaN without answers.

        Args:
            share: Between 0 and 1.
            since_sent: Count from the sending, which leaves out what this process was late.
        """
        taken = self.latency - self.delay if since_sent else self.latency
        answered = taken[np.isfinite(taken)]
        # An observed value, and rather the one above: a limit may not be met by interpolation.
        return float(np.quantile(answered, share, method="higher")) if answered.size else math.nan

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe numbers; seconds, and None where nothing was measured."""
        numbers = {
            "rate": self.rate,
            "achieved": self.achieved,
            "error_rate": self.error_rate,
            "p50": self.percentile(0.5),
            "p99": self.percentile(0.99),
        }
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        return {"sent": self.sent, **finite, "outcomes": dict(self.outcomes)}


def fire(url: str, bodies: Sequence[bytes], rate: float, count: int, patience: float) -> Burst:
    """Send scoring requests at even distances.

    Args:
        url: Base URL of the gateway.
        bodies: JSON bodies, sent one after the other and from the first again.
        rate: Requests per second.
        count: How many requests.
        patience: Seconds after which a request that was sent is given up.
    """
    import uvloop

    burst: Burst = uvloop.run(_fire(url, bodies, rate, count, patience))
    return burst


async def _fire(url: str, bodies: Sequence[bytes], rate: float, count: int, patience: float) -> Burst:
    # Sending costs a tenth of the time that it takes with httpx, so that a fast gateway can be outpaced.
    import aiohttp

    delay, latency = np.full(count, np.nan), np.full(count, np.nan)
    outcomes: Counter[str] = Counter()
    connector = aiohttp.TCPConnector(limit=_CONNECTIONS, keepalive_timeout=_IDLE_SECONDS)
    timeout = aiohttp.ClientTimeout(total=patience)

    async with aiohttp.ClientSession(url, connector=connector, timeout=timeout, headers=_HEADERS) as client:

        async def send(number: int) -> str:
            try:
                async with client.post("/invocations", data=bodies[number % len(bodies)]) as answer:
                    await answer.read()
                return str(answer.status)
            except (aiohttp.ClientError, TimeoutError) as error:
                return type(error).__name__

        async def measure(number: int, due: float) -> None:
            outcome = await send(number)
            outcomes[outcome] += 1
            if outcome == _ANSWERED:
                latency[number] = perf_counter() - due

        # What only the first calls of a process have to do is not the burst's.
        for number in range(_WARM_UP):
            if await send(number) != _ANSWERED:
                break
        began = perf_counter()
        async with asyncio.TaskGroup() as under_way:
            for number in range(count):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - perf_counter()))
                delay[number] = perf_counter() - due
                under_way.create_task(measure(number, due))
    return Burst(rate, delay, latency, outcomes)
