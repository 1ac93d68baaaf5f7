"""Folds what became countable since the last look into an increment, and goes on from increments of other processes."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from understudy.events.counters import Counters, Ripeness, newest_times, watermark
from understudy.events.increment import Increment
from understudy.events.query import EvidenceQuery
from understudy.events.run_log import RunLog
from understudy.events.settling import enter_units, measure, settle
from understudy.stats.evidence import Quality
from understudy.stats.histogram import LogHistogram

__all__ = ["Checkpoint", "Fold", "Look", "needed"]


_NEVER = -1e300


@dataclass(frozen=True)
class Checkpoint:
    """What the increments up to ``seq`` hold: every event that was countable at this or an earlier checkpoint.

    An event is countable when its line, and the line of its outcome, lie before the offsets and were received by ``now``,
    and when it is ripe at the watermark.

    Attributes:
        seq: number of the last increment; 0 before the first.
        query: fingerprint of what was measured.
        now: wall clock of the look.
        watermark: event time up to which the world had moved on.
        exposed_at: receipt of the first exposed request; what came before is the units' past.
        times: the newest distinct event times.
        offsets: what had been read, as `EventLog.offsets` tells it.
        counters: counts up to here.
    """

    seq: int = 0
    query: str = ""
    now: float = 0.0
    watermark: float | None = None
    exposed_at: float | None = None
    times: tuple[float, ...] = ()
    offsets: Mapping[str, int] = field(default_factory=dict)
    counters: Mapping[str, Any] = field(default_factory=lambda: Counters().to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Checkpoint:
        """Rebuild what `to_dict` returned."""
        return cls(**{**data, "times": tuple(data["times"])})


@dataclass(frozen=True)
class Look:
    """What a look found, before it is stored.

    Attributes:
        increment: moments of what became countable.
        checkpoint: where the log stands with it.
        quality: soundness of the evidence at this look.
        new: whether anything is new at all.
    """

    increment: Increment
    checkpoint: Checkpoint
    quality: Quality
    new: bool


class Fold:
    """One process's progress through the events of one run. Hold ``lock`` around everything.

    Args:
        folder: the model's folder in the event log.
        query: what is measured.
        run_id: the run.
    """

    def __init__(self, folder: Path, query: EvidenceQuery, run_id: str) -> None:
        self.lock = threading.RLock()
        self.query = query
        self.at = Checkpoint(query=query.digest)
        self._arguments = (folder, query, run_id)
        self._log = RunLog(*self._arguments)

    def look(self, now: float) -> Look:
        """Read on and fold; :meth:`commit` or :meth:`take_back` must follow.

        Args:
            now: wall clock of the look; an earlier one than that of the look before counts as that one.
        """
        if self._log.log.restarts:
            self._start_again()
        self._position = self._log.log.position()
        self._log.log.connection.begin()
        try:
            return self._look(max(now, self.at.now))
        except BaseException:
            self.take_back()
            raise

    def commit(self, look: Look) -> None:
        """Make the look the state to go on from."""
        self._log.log.connection.commit()
        self.at = look.checkpoint

    def take_back(self) -> None:
        """Return to the state before the look."""
        self._log.log.connection.rollback()
        self._log.log.return_to(self._position)

    def catch_up(self, stored: Sequence[Checkpoint]) -> None:
        """Read what increments that somebody else stored hold, so that it is not counted again.

        Args:
            stored: the checkpoints behind our own that must be gone through one by one, see :func:`needed`.
        """
        for checkpoint in stored:
            connection = self._log.log.connection
            self._position = self._log.log.position()
            connection.begin()
            try:
                counters = Counters.from_dict(self.at.counters)
                self._log.take(checkpoint.now, counters, checkpoint.exposed_at, checkpoint.offsets)
                self._count(checkpoint.watermark, counters)
            except BaseException:
                self.take_back()
                raise
            connection.commit()
            self.at = checkpoint

    def _start_again(self) -> None:
        self._log.log.connection.close()
        self._log = RunLog(*self._arguments)
        goal, self.at = self.at, Checkpoint(query=self.query.digest)
        if goal.seq:
            self.catch_up([goal])

    def _look(self, now: float) -> Look:
        counters = Counters.from_dict(self.at.counters)
        before = counters.to_dict()
        state, exposed_at, times = self._log.take(now, counters, self.at.exposed_at)
        if self._log.log.restarts:
            self.take_back()
            return self.look(now)
        newest = newest_times(self.at.times, times)
        mark = watermark(newest)
        increment, ripe, without = self._count(mark, counters)
        quality = counters.quality(
            self.query.shares,
            ripe,
            units_without_value=without,
            watermark=mark,
            torn_lines=state.torn_lines,
            invalid_lines=state.invalid_lines,
            lost_segments=self._log.log.lost(self.at.offsets),
        )
        new = bool(increment.rows) or counters.to_dict() != before or newest != self.at.times
        checkpoint = Checkpoint(
            self.at.seq + 1,
            self.query.digest,
            now,
            mark,
            exposed_at,
            newest,
            self._log.log.offsets,
            counters.to_dict(),
        )
        return Look(increment, checkpoint, quality, new)

    def _count(self, mark: float | None, counters: Counters) -> tuple[Increment, Ripeness, dict[str, int]]:
        """Count what is countable at a watermark and note that it was."""
        log, at = self._log, _NEVER if mark is None else mark
        measure(log, at)
        columns = log.run(f"FROM ({log.moments_sql}) ORDER BY stage, arm, hour, cohort, bucket").fetchnumpy()
        parts = enter_units(log) | _latency(log)
        increment = Increment.from_columns(columns, self.query, tuple(log.tuples), **parts)
        return increment, *settle(log, at, counters)


def needed(at: Checkpoint, stored: Sequence[Checkpoint]) -> Iterator[Checkpoint]:
    """Yield the checkpoints that must be gone through one by one to count exactly what they counted.

    Of checkpoints whose watermark only rose the last one says it all: what was countable at any of them is countable
    there. One before a fall of the watermark has to be gone through, and the one at which the units' past ended.
    """
    before = at
    for index, checkpoint in enumerate(stored):
        following = stored[index + 1] if index + 1 < len(stored) else None
        fell = following is not None and _mark(following) < _mark(checkpoint)
        began = before.exposed_at is None and checkpoint.exposed_at is not None
        if following is None or fell or began:
            yield checkpoint
        before = checkpoint


def _mark(checkpoint: Checkpoint) -> float:
    return _NEVER if checkpoint.watermark is None else checkpoint.watermark


def _latency(log: RunLog) -> dict[str, Any]:
    """Return the occupied bins of the arriving requests' latencies."""
    found = log.run(
        "SELECT arm, coalesce(latency_ms, 'nan') AS latency FROM measured WHERE arrived"
    ).fetchnumpy()
    parts: list[tuple[int, int, int]] = []
    for arm in range(2):
        histogram = LogHistogram.from_values(np.asarray(found["latency"])[np.asarray(found["arm"]) == arm])
        parts += [(arm, int(bin_), int(histogram.counts[bin_])) for bin_ in np.flatnonzero(histogram.counts)]
        if histogram.unusable:
            parts.append((arm, -1, int(histogram.unusable)))
    arms, bins, counts = zip(*parts, strict=True) if parts else ((), (), ())
    return {"latency_arm": arms, "latency_bin": bins, "latency_n": counts}
