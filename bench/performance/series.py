"""What was measured, as it is kept in docs/performance.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Literal

Figure = Literal["rate", "p50_ms", "p99_ms", "cpu_us"]


@dataclass(frozen=True)
class Round:
    """What one measurement found.

    Attributes:
        rate: Requests a second.
        p50_ms: Median of the time to answer.
        p99_ms: Its 99th percentile.
        cpu_us: CPU time of the server for each request.
        errors: Requests that were not answered with 2xx.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int = 0


@dataclass(frozen=True)
class Series:
    """One server under one kind of load, round by round.

    Attributes:
        server: Which server.
        model: Which model.
        rows: Rows of a request.
        connections: How many connections wait for an answer at once.
        pause_ms: How long each of them rests before it asks again.
        rounds: What was found.
    """

    server: str
    model: str
    rows: int
    connections: int
    pause_ms: int = 0
    rounds: list[Round] = field(default_factory=list)

    def typical(self, figure: Figure) -> float:
        """Return the median of the rounds."""
        return median(getattr(one, figure) for one in self.rounds)

    def against(self, other: Series, figure: Figure) -> float:
        """Return the median of the rounds' ratios to those of another server, which came right before or after."""
        pairs = zip(self.rounds, other.rounds, strict=True)
        return median(getattr(own, figure) / getattr(theirs, figure) for own, theirs in pairs)


@dataclass(frozen=True)
class Serving:
    """What `bench.serving` found.

    Attributes:
        made: Where, when and how.
        peers: The servers.
        parts: The gateway with and without its parts.
        memory: Resident MB of each server, its challenger apart.
    """

    made: dict[str, str]
    peers: list[Series]
    parts: list[Series]
    memory: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sample:
    """The gateway at one moment.

    Attributes:
        minute: Since the start.
        gateway_mb: Resident memory.
        challenger_mb: The same of the challenger's process.
        files: Open files of both.
        log_mb: Size of everything in the event log.
        segments: Its files that are still lines.
    """

    minute: float
    gateway_mb: float
    challenger_mb: float
    files: int
    log_mb: float
    segments: int


@dataclass(frozen=True)
class Soak:
    """What `bench.soak` found.

    Attributes:
        made: Where, when and how.
        load: The load as one measurement.
        rows: Rows that were answered.
        counts: Other things that were counted, by what they are called.
        samples: The gateway over time.
    """

    made: dict[str, str]
    load: Round
    rows: int
    counts: dict[str, float]
    samples: list[Sample]


@dataclass(frozen=True)
class Return:
    """One rollback.

    Attributes:
        by: ``"engine"`` or ``"command"``.
        zero: Seconds until the last gateway exposed nobody.
        verified: Seconds until everything was read back.
        steps: Seconds until each step was done, as the ledger has them.
    """

    by: str
    zero: float
    verified: float
    steps: dict[str, float]


@dataclass(frozen=True)
class Rollbacks:
    """What `bench.rollback` found.

    Attributes:
        made: Where, when and how.
        returns: The rollbacks.
    """

    made: dict[str, str]
    returns: list[Return]


@dataclass
class Measured:
    """All of docs/performance.json; a part that was never measured is nothing."""

    serving: Serving | None = None
    soak: Soak | None = None
    rollback: Rollbacks | None = None
