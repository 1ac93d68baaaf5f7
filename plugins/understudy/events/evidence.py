"""Turns the event log into evidence: one look at one run, any past look again, and metrics over time."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sqlalchemy.engine import Connection

from understudy.errors import StoreError
from understudy.events.fold import Checkpoint, Fold, Look, needed
from understudy.events.increment import Increment
from understudy.events.query import EvidenceQuery, MetricQuery
from understudy.events.totals import Series, Totals
from understudy.stats.evidence import Evidence, Quality
from understudy.stats.histogram import LogHistogram
from understudy.store import Store, moments

__all__ = [
    "EvidenceQuery",
    "MetricQuery",
    "Replay",
    "Series",
    "collect",
    "latency",
    "series",
    "traffic",
]

_ATTEMPTS = 20
_KEPT = 4
_AT_ONCE = 500  # increments that are added together
_SUMMARY_EVERY = 500
"""Increments after which their sum is stored too, so that a new process starts from there."""


class _Account:
    """Sums of a run's stored increments, kept by a process between looks.

    Args:
        query: what is measured.
        run_id: the run.
        without: cohorts left out of "all".
    """

    def __init__(self, query: EvidenceQuery, run_id: str, without: Sequence[str] = ()) -> None:
        self.query = query
        self.run_id = run_id
        self.at = Checkpoint()
        self.totals = Totals(query, without)
        self.quality = Quality()
        self._path: list[Checkpoint] = []

    def route(self, after: Checkpoint) -> list[Checkpoint]:
        """Return the checkpoints that a fold must go through to come from an earlier one to this account's."""
        return [item for item in (*self._path, self.at) if item.seq > after.seq]

    def advance(self, store: Store, upto: int | None = None) -> None:
        """Take in what was stored since."""
        with store.read() as connection:
            if not self.at.seq and not self.totals.without:
                self._start_from(moments.newest_summary(connection, self.run_id, upto))
            while stored := moments.load(connection, self.run_id, self.at.seq, self._next(connection, upto)):
                self.add(
                    [Checkpoint.from_dict(item.checkpoint) for item in stored],
                    Increment.together([Increment.unpack(item.body) for item in stored]),
                    Quality.from_dict(stored[-1].quality),
                )

    def _next(self, connection: Connection, upto: int | None) -> int:
        last = moments.latest_seq(connection, self.run_id) if upto is None else upto
        return max(self.at.seq, min(last, self.at.seq + _AT_ONCE))

    def _start_from(self, summed: moments.StoredIncrement | None) -> None:
        if summed is None or summed.summary is None:
            return
        self._refuse_another_question(Checkpoint.from_dict(summed.checkpoint))
        self.totals, path = Totals.unpack(self.query, summed.summary)
        self._path = [Checkpoint.from_dict(item) for item in path]
        self.at, self.quality = Checkpoint.from_dict(summed.checkpoint), Quality.from_dict(summed.quality)

    def _refuse_another_question(self, checkpoint: Checkpoint) -> None:
        if checkpoint.query != self.query.digest:
            raise StoreError(
                f"Increment {checkpoint.seq} of run {self.run_id} measured something else than what is asked for now. A run's "
                "metrics, cohorts and maturity are frozen at its start; ask for those."
            )

    def add(self, checkpoints: Sequence[Checkpoint], increment: Increment, quality: Quality) -> None:
        """Take in increments that follow, put together to one."""
        for checkpoint in checkpoints:
            self._refuse_another_question(checkpoint)
        before = self._path[-1] if self._path else Checkpoint()
        known = [self.at] if self.at.seq else []
        *passed, self.at = needed(before, [*known, *checkpoints])
        self._path += passed
        self.totals.add(increment)
        self.quality = quality

    def summary(self, look: Look) -> bytes | None:
        """Return the sums with a look added, now and then."""
        if look.checkpoint.seq % _SUMMARY_EVERY:
            return None
        ahead, _ = Totals.unpack(self.query, self.totals.pack())
        ahead.add(look.increment)
        *passed, _ = needed(self._path[-1] if self._path else Checkpoint(), [self.at, look.checkpoint])
        return ahead.pack([item.to_dict() for item in (*self._path, *passed)])

    def evidence(self, looked_at: float | None = None) -> Evidence:
        """Return the evidence of the increments taken in so far."""
        counted = self.totals.counted().tolist()
        matured = self.quality.control.matured + self.quality.challenger.matured
        quality = replace(
            self.quality,
            out_of_scale=self.totals.out_of_scale(),
            without_value={
                metric.name: max(matured - counted[index], 0)
                for index, metric in enumerate(self.query.metrics)
                if not metric.served
            },
        )
        at = self.at.now if looked_at is None else float(looked_at)
        return Evidence(
            self.query.model,
            self.run_id,
            at,
            self.totals.cells(),
            quality,
            self.at.seq,
            self.totals.latency(),
        )


class _Progress:
    """One process's way through a run: its fold, and sums with and without contained cohorts."""

    def __init__(self, events_dir: Path, query: EvidenceQuery, run_id: str) -> None:
        self.lock = threading.RLock()
        self.query = query
        self.run_id = run_id
        self.fold = Fold((events_dir / query.model).resolve(), query, run_id)
        self.account = _Account(query, run_id)
        self._others: OrderedDict[frozenset[str], _Account] = OrderedDict()

    def look(self, store: Store, now: float) -> Look:
        """Fold what is new and store it, unless another process was faster; then go on from what that one stored."""
        for _ in range(_ATTEMPTS):
            self.account.advance(store)
            self.fold.catch_up(self.account.route(self.fold.at))
            look = self.fold.look(now)
            try:
                if not look.new or self._store(store, look):
                    return look
            finally:
                if self.account.at.seq != look.checkpoint.seq:
                    self.fold.take_back()
        raise StoreError(
            f"{_ATTEMPTS} times in a row another process stored a look at run {self.run_id} first. Two guards watch one "
            "run; end one of them."
        )

    def _store(self, store: Store, look: Look) -> bool:
        seq, at = look.checkpoint.seq, look.checkpoint.now
        content = (look.checkpoint.to_dict(), look.quality.to_dict(), look.increment.pack())
        item = moments.StoredIncrement(self.run_id, seq, at, *content, self.account.summary(look))
        with store.write() as connection:
            stored = moments.append(connection, item)
        if stored:
            self.fold.commit(look)
            self.account.add([look.checkpoint], look.increment, look.quality)
        return stored

    def summed(self, store: Store, without: Sequence[str]) -> _Account:
        """Return the sums that leave some cohorts out of "all"."""
        if not without:
            return self.account
        key = frozenset(without)
        account = self._others.pop(key, None) or _Account(self.query, self.run_id, without)
        self._others[key] = account
        if len(self._others) > _KEPT:
            self._others.popitem(last=False)
        account.advance(store, self.account.at.seq)
        return account


_progress: OrderedDict[tuple[object, ...], _Progress] = OrderedDict()
_progress_lock = threading.Lock()


def _kept(store: Store, events_dir: Path, query: EvidenceQuery, run_id: str) -> _Progress:
    """Return this process's progress; a forked child starts its own, because DuckDB does not survive a fork."""
    key = (os.getpid(), str(store.engine.url), events_dir.resolve(), repr(query), run_id)
    with _progress_lock:
        found = _progress.pop(key, None) or _Progress(events_dir, query, run_id)
        _progress[key] = found
        if len(_progress) > _KEPT:
            _progress.popitem(last=False)
        return found


def collect(
    store: Store,
    events_dir: Path,
    query: EvidenceQuery,
    run_id: str,
    now: float,
    without: Sequence[str] = (),
) -> Evidence:
    """Look at a run: fold what became countable since the last look, store it, and return what is known by now.

    Metrics of served events count every event of the challenger and control arms. Metrics that need an
    outcome count an event only once it is older, in event time, than the maturity window: otherwise quickly
    known outcomes (an early landing) would be over-represented. Matured events without an outcome are counted
    as missing. An event that was counted stays counted as it was; an outcome that comes late is in a later increment.

    Args:
        store: where increments are kept; looks of several processes at once agree through it.
        events_dir: root of the event log.
        query: what to look for.
        run_id: the run whose events count.
        now: wall clock of the look; whatever was received later is not in it.
        without: cohorts like ``"origin=JFK"`` that are left out of "all", at every stage.

    Returns:
        Evidence; without any event it is empty and every interval from it is undetermined.

    Raises:
        StoreError: the store does not answer, or holds increments of other metrics.
    """
    progress = _kept(store, events_dir, query, run_id)
    with progress.lock:
        look = progress.look(store, now)
        evidence = progress.summed(store, without).evidence(now)
        files = {
            name: getattr(look.quality, name) for name in ("torn_lines", "invalid_lines", "lost_segments")
        }
        return replace(evidence, quality=replace(evidence.quality, **files))


class Replay:
    """Past looks of a run, from the store alone. Asked in the order they were made, each costs only what it added.

    Args:
        store: where increments are kept.
        query: what was looked for.
        run_id: the run.
    """

    def __init__(self, store: Store, query: EvidenceQuery, run_id: str) -> None:
        self._store, self._query, self._run_id = store, query, run_id
        self._accounts: dict[frozenset[str], _Account] = {}

    def at(self, seq: int, without: Sequence[str] = ()) -> Evidence:
        """Return the evidence of one look again.

        Args:
            seq: the look's :attr:`~understudy.stats.evidence.Evidence.seq`.
            without: the cohorts that were left out of "all".

        Raises:
            StoreError: increments are missing, or measured something else.
        """
        key = frozenset(without)
        account = self._accounts.get(key)
        if account is None or account.at.seq > seq:
            account = self._accounts[key] = _Account(self._query, self._run_id, without)
        account.advance(self._store, seq)
        return account.evidence()


def traffic(store: Store, query: EvidenceQuery, run_id: str) -> dict[tuple[str, ...], float]:
    """Return how many events of both arms came per combination of cohort values, as stored so far.

    Raises:
        StoreError: increments are missing, or measured something else.
    """
    account = _Account(query, run_id)
    account.advance(store)
    return account.totals.traffic()


def latency(store: Store, query: EvidenceQuery, run_id: str) -> LogHistogram:
    """Return the answer times of control and challenger, in milliseconds, as stored so far.

    Raises:
        StoreError: increments are missing, or measured something else.
    """
    account = _Account(query, run_id)
    account.advance(store)
    return account.totals.latency()


def series(store: Store, query: EvidenceQuery, run_id: str) -> list[Series]:
    """Return every metric over the hours of event time, by arm, as stored so far.

    Raises:
        StoreError: increments are missing, or measured something else.
    """
    account = _Account(query, run_id)
    account.advance(store)
    return account.totals.series()
