"""Simulated traffic of many runs at once, drawn from a history.

Every run begins at a random moment of the history and goes round it as often as it needs. Units get their place in the
hash range (and so their arm) and their bucket afresh in every run. When the history comes round again, a unit keeps its
own path with the chance that peculiarities last (`History.persistence`), and otherwise takes the path of a peer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.rehearsal.history import Floats, History, Ints

Mask = NDArray[np.bool_]

__all__ = ["BUCKETS", "Picked", "Traffic"]

BUCKETS = 256
"""Clusters behind a variance: the first two hex digits of a unit's pseudonym."""

_SHUFFLES = 32
"""Different exchanges of paths; each run goes through them in its own order."""
_PEERS = 8.0
"""How far away, in the order of peers, a path is taken from."""
_MOST_COPIES = 4


@dataclass(frozen=True, eq=False)
class Picked:
    """Entries of several runs that came to count within a window of time.

    Attributes:
        run: index into the runs that were asked for.
        entry: which entry of the history.
        unit: which simulated unit of that run.
        at: seconds since the start of the run at which the request was served.
        position: the unit's place in the hash range, from 0 to 1.
    """

    run: Ints
    entry: Ints
    unit: Ints
    at: Floats
    position: Floats

    def where(self, keep: NDArray[np.bool_]) -> Picked:
        """Return some of them."""
        index = np.flatnonzero(keep)
        return Picked(*(getattr(self, name)[index] for name in _PICKED))


_PICKED = ("run", "entry", "unit", "at", "position")


class _Stream:
    """The entries in the order in which they come to count, round and round.

    Args:
        history: The history.
        moment: When each entry counts, in seconds since the history began; infinite ones never count.
    """

    def __init__(self, history: History, moment: Floats) -> None:
        counted = np.flatnonzero(np.isfinite(moment))
        rounds = np.floor(moment[counted] / history.span)
        within = moment[counted] - rounds * history.span
        order = np.argsort(within, kind="stable")
        self.span = history.span
        self.entry = counted[order].astype(np.int64)
        self.when = within[order]
        self.later = rounds[order].astype(np.int64)
        self.unit = history.unit[self.entry].astype(np.int32)
        self.at = history.at[self.entry]

    def passed(self, moment: Floats) -> Ints:
        """Return how many entries have come to count by each moment, counted through all rounds."""
        rounds = np.floor(moment / self.span)
        inside = np.searchsorted(self.when, moment - rounds * self.span, side="right")
        return np.asarray(rounds.astype(np.int64) * len(self.entry) + inside, dtype=np.int64)

    def newest(self, moment: Floats) -> Floats:
        """Return the moment of the last entry up to each moment."""
        last = self.passed(moment) - 1
        return np.asarray((last // len(self.entry)) * self.span + self.when[last % len(self.entry)])


class Traffic:
    """Traffic of some runs.

    Args:
        history: What it is drawn from.
        runs: How many runs.
        rng: Source of chance; the same state gives the same traffic.
    """

    def __init__(self, history: History, runs: int, rng: np.random.Generator) -> None:
        self.history = history
        self.runs = runs
        self.copies = min(_MOST_COPIES, max(1, math.ceil(history.scale)))
        self.weight = history.scale / self.copies
        shape = (runs, history.units * self.copies)
        self.position = rng.random(shape)
        self.bucket = rng.integers(0, BUCKETS, shape, dtype=np.int16)
        self.phase = rng.random(runs) * history.span
        self._first_shuffle = rng.integers(0, _SHUFFLES, runs)
        self._shuffles = _shuffles(history, rng)
        self._served = _Stream(history, history.at)
        known = (history.denominator[list(history.delayed)] > 0).any(axis=0) & np.isfinite(history.delay)
        self._labelled = _Stream(history, np.where(known, history.at + history.delay, np.inf))

    def pick(self, runs: Ints, after: Floats, until: Floats, known: Mask, labelled: bool) -> Picked:
        """Return what came to count in (after, until] of each run, of the units that are wanted.

        Args:
            runs: Which runs.
            after: Seconds since the start of each run.
            until: The same, not earlier.
            known: (run, unit) of all runs, the units that are wanted.
            labelled: Entries whose outcome came to count, in place of requests that were served.
        """
        stream = self._labelled if labelled else self._served
        phase = self.phase[runs]
        window = stream.passed(after + phase), stream.passed(until + phase)
        parts = [
            self._pick(stream, runs, window, known, copy) for copy in range(self.copies) if len(stream.entry)
        ]
        if len(parts) == 1:
            return parts[0]
        empty = np.zeros(0, dtype=np.int64)
        return Picked(
            *(np.concatenate([empty, *(getattr(part, name) for part in parts)]) for name in _PICKED)
        )

    def _pick(self, stream: _Stream, runs: Ints, window: tuple[Ints, Ints], known: Mask, copy: int) -> Picked:
        run, rounds, place = _places(*window, len(stream.entry))
        if stream.later.any():
            rounds -= stream.later[place]
        least = int(rounds.min(initial=0))
        shuffle = self._shuffle_of(runs, least, int(rounds.max(initial=0)))[run, rounds - least]
        unit = self._shuffles[shuffle, stream.unit[place]]
        if copy:
            unit = unit + copy * self.history.units
        near = np.flatnonzero(known[runs[run], unit])
        run, place = run[near], place[near]
        at = rounds[near] * self.history.span + stream.at[place] - self.phase[runs[run]]
        whose = unit[near].astype(np.int64)
        found = Picked(run, stream.entry[place], whose, at, self.position[runs[run], whose])
        return found if (at >= 0).all() else found.where(at >= 0)

    def _shuffle_of(self, runs: Ints, least: int, most: int) -> Ints:
        """Return who takes whose path in each run (row) and round (column, from ``least`` to ``most``)."""
        rounds = np.arange(least, most + 1)
        later = 1 + (self._first_shuffle[runs][:, None] + rounds) % _SHUFFLES
        return np.where(rounds == 0, 0, later)

    def newest(self, runs: Ints, now: Floats) -> Floats:
        """Return when the last request before ``now`` came, in seconds since the start of each run."""
        phase = self.phase[runs]
        return self._served.newest(now + phase) - phase

    def gap_within(self, runs: Ints, after: Floats, until: Floats, longest: float) -> NDArray[np.bool_]:
        """Tell the runs whose own history has a pause of more than ``longest`` seconds that ends in (after, until]."""
        when = self._served.when
        pauses = np.diff(np.concatenate([when[-1:] - self.history.span, when]))
        ends = when[pauses > longest]
        if not len(ends):
            return np.zeros(len(runs), dtype=bool)
        phase = self.phase[runs]
        return np.asarray(
            _passed(ends, until + phase, self.history.span) > _passed(ends, after + phase, self.history.span)
        )

    def values(self, metric: int, entry: Ints) -> tuple[Floats, Floats]:
        """Return numerator and denominator of some entries.

        A unit that stands for several keeps the average and takes their joint spread: its own distance from the average
        counts by the square root of their number.
        """
        n, d = self.history.numerator[metric, entry], self.history.denominator[metric, entry]
        if self.weight == 1:
            return n, d
        rate = np.nan_to_num(self.history.rate(metric))
        return self.weight * rate * d + math.sqrt(self.weight) * (n - rate * d), self.weight * d


def _places(first: Ints, end: Ints, size: int) -> tuple[Ints, Ints, Ints]:
    """Split every count in [first, end) of each range into its range, its round and its place in the round."""
    run, counter = _ranges(first, end)
    if (
        len(first) and (end - first).max() <= size
    ):  # at most one turn of the round: no division of every count
        begun = first // size
        place = counter - (begun * size)[run]
        over = place >= size
        return run, begun[run] + over, np.where(over, place - size, place)
    rounds, place = np.divmod(counter, size)
    return run, rounds, place


def _ranges(first: Ints, end: Ints) -> tuple[Ints, Ints]:
    """Return every whole number in [first, end) of each range, with the index of its range."""
    length = np.maximum(end - first, 0)
    which = np.repeat(np.arange(len(first)), length)
    begins = np.cumsum(length) - length
    return which, np.arange(int(length.sum())) - begins[which] + first[which]


def _passed(moments: Floats, until: Floats, span: float) -> Floats:
    rounds = np.floor(until / span)
    inside = np.searchsorted(moments, until - rounds * span, side="right")
    return np.asarray(rounds * len(moments) + inside)


def _shuffles(history: History, rng: np.random.Generator) -> NDArray[np.int32]:
    """Return who takes whose path, (1 + shuffles, unit): the first is nobody else's, then exchanges among peers."""
    order, _, first, _ = history.peers
    found = [np.arange(history.units)]
    group = first[order]
    for _ in range(_SHUFFLES):
        moving = rng.random(history.units) >= history.persistence
        seats = np.flatnonzero(moving)  # places in the order of peers whose units exchange their paths
        wish = seats + rng.uniform(-_PEERS, _PEERS, len(seats))
        seated = seats[np.lexsort((wish, group[seats]))]
        takes = np.arange(history.units)
        takes[order[seats]] = order[seated]
        found.append(takes)

    return np.stack(found).astype(np.int32)
