"""Sums of many runs at once, by arm, cohort, stage and bucket, and the moments of a look taken from them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from understudy.rehearsal.history import Floats, History, Ints
from understudy.rehearsal.traffic import BUCKETS
from understudy.stats.cells import ALL, Cells
from understudy.stats.ratio import ArmMoments

__all__ = ["Counted", "Tally"]

# Sums of squares minus their linear part are rounding noise below this share of what was subtracted.
_NOISE = 1e-12
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Counted:
    """Events to add: which run, arm (0 control, 1 challenger), stage (from 0), bucket and combination of cohorts."""

    run: Ints
    arm: Ints
    stage: Ints
    bucket: Ints
    combination: Ints


class Tally:
    """Sums per (run, arm, cohort, stage, bucket) of every metric.

    Metrics whose numerator is nothing but zeros and that count the same events share one lane.

    Args:
        history: The history; it names metrics and cohorts.
        runs: How many runs.
        stages: How many stages.
        silent: per metric, whether its numerator is always zero.
        contains: whether cohorts may be sent back, so that "all" must be put together again without them.
    """

    def __init__(
        self, history: History, runs: int, stages: int, silent: tuple[bool, ...], contains: bool
    ) -> None:
        self.history = history
        self.stages = stages
        self.lane_of, self.widths, self.leaders = _lanes(history, silent)
        self.cohorts = len(history.cohorts)
        self._rows = _rows_of(history)
        shape = (runs, 2, 1 + self.cohorts, stages)
        self.sums = [np.zeros((*shape, width, BUCKETS)) for width in self.widths]
        self.non_finite = np.zeros((len(history.metrics), *shape[:3]))
        parts = history.member.shape[0]
        self._parts = [
            np.zeros((runs, 2, parts, stages, width, BUCKETS)) for width in self.widths if contains
        ]

    def add(self, metric: int, events: Counted, numerator: Floats, denominator: Floats) -> None:
        """Add events of one metric; only the first metric of a lane is to be added."""
        lane = self.lane_of[metric]
        for row in range(self._rows.shape[1]):
            rows = self._rows[events.combination, row]
            self._put(self.sums[lane], events, rows, numerator, denominator)
        if self._parts:
            self._put(self._parts[lane], events, events.combination, numerator, denominator)

    def add_non_finite(self, metric: int, events: Counted) -> None:
        """Count values that were no numbers."""
        for row in range(self._rows.shape[1]):
            rows = self._rows[events.combination, row]
            inside = rows >= 0
            at = (np.full(int(inside.sum()), metric), events.run[inside], events.arm[inside], rows[inside])
            np.add.at(self.non_finite, at, 1.0)

    @staticmethod
    def _put(sums: Floats, events: Counted, rows: Ints, numerator: Floats, denominator: Floats) -> None:
        _, arms, height, stages, width, buckets = sums.shape
        flat = sums.reshape(-1)
        inside = slice(None) if (rows >= 0).all() else np.flatnonzero(rows >= 0)
        place = (events.run * arms + events.arm)[inside] * height + rows[inside]
        place = ((place * stages + events.stage[inside]) * width) * buckets + events.bucket[inside]
        np.add.at(flat, place + (width - 1) * buckets, denominator[inside])
        if width == 2:
            np.add.at(flat, place, numerator[inside])

    def cells(self, runs: Ints, stages: int, contained: Mask) -> Cells:
        """Return the moments of some runs, every metric in every cohort, over the first ``stages`` stages.

        Args:
            runs: Which runs.
            stages: How many stages have begun.
            contained: (run, cohort), cohorts whose events are left out of "all".
        """
        names = (ALL, *self.history.cohorts)
        arms: list[list[dict[str, Floats]]] = [[], []]
        for lane, sums in enumerate(self.sums):
            everyone = len(runs) == len(sums)  # then there is nothing to copy
            picked = sums[:, :, :, :stages] if everyone else sums[runs, :, :, :stages]
            if self._parts and contained.any():
                picked = picked.copy()
                picked[:, :, 0] = self._without(lane, runs, stages, contained)
            moments = _moments(picked)
            for arm in range(2):
                arms[arm].append({name: values[:, arm] for name, values in moments.items()})
        metrics = range(len(self.history.metrics))
        labels = tuple(range(1, stages + 1))
        both = []
        for arm in range(2):
            lanes = [arms[arm][self.lane_of[metric]] for metric in metrics]
            arrays = {name: np.concatenate([lane[name] for lane in lanes], axis=1) for name in lanes[0]}
            bad = np.concatenate([self.non_finite[metric][runs, arm] for metric in metrics], axis=1)
            both.append(ArmMoments(labels, non_finite=bad, buckets=BUCKETS, **arrays))
        return Cells(
            tuple(self.history.metrics[metric] for metric in metrics for _ in names),
            tuple(self.history.kinds[metric] for metric in metrics for _ in names),
            names * len(self.history.metrics),
            *both,
        )

    def _without(self, lane: int, runs: Ints, stages: int, contained: Mask) -> Floats:
        stays = ~(contained @ self.history.member.T.astype(bool))
        parts = self._parts[lane][runs, :, :, :stages]
        return np.asarray(np.einsum("rg,ragswb->raswb", stays.astype(float), parts, optimize=True))


def _lanes(history: History, silent: tuple[bool, ...]) -> tuple[list[int], list[int], list[int]]:
    """Return the lane of each metric, the width of each lane (1: denominators only) and the metric that feeds it."""
    lane_of: list[int] = []
    leaders: list[int] = []
    for metric in range(len(history.metrics)):
        twin = next(
            (lane for lane, first in enumerate(leaders) if _alike(history, silent, first, metric)), None
        )
        if twin is None:
            leaders.append(metric)
        lane_of.append(len(leaders) - 1 if twin is None else twin)
    return lane_of, [1 if silent[first] else 2 for first in leaders], leaders


def _alike(history: History, silent: tuple[bool, ...], first: int, second: int) -> bool:
    same_stream = history.delayed[first] == history.delayed[second]
    per_unit = "per_unit" in (history.kinds[first], history.kinds[second])
    same_events = bool((history.denominator[first] == history.denominator[second]).all())
    return silent[first] and silent[second] and same_stream and same_events and not per_unit


def _rows_of(history: History) -> Ints:
    """Return the rows that an event of each combination counts in: "all" first, -1 where there is no more."""
    listed = [[0, *(1 + np.flatnonzero(row > 0))] for row in history.member]
    most = max((len(rows) for rows in listed), default=1)
    return np.array([rows + [-1] * (most - len(rows)) for rows in listed], dtype=np.int64).reshape(-1, most)


def _moments(sums: Floats) -> dict[str, Floats]:
    """Turn sums (..., stage, width, bucket) into the arrays of `ArmMoments`; the same numbers as its ``from_units``."""
    *lead, stages, width, buckets = sums.shape
    d = sums[..., width - 1, :]
    products = _products(sums.reshape(*lead, stages * width, buckets))
    dd = products[..., width - 1 :: width, width - 1 :: width]
    # Which buckets were seen, as bits: counting common ones is then an "and" and a count.
    seen = np.packbits(d > 0, axis=-1).view(np.uint64)
    arrays = {
        "units": _count(seen),
        "together": _count(seen[..., :, None, :] & seen[..., None, :, :]),
        "total": _count(np.bitwise_or.reduce(seen, axis=-2)),
        "sum_d": d.sum(axis=-1),
        "dd": dd,
    }
    if width == 1:
        nothing = np.zeros_like(dd)
        return arrays | {"sum_n": np.zeros_like(arrays["sum_d"]), "rr": nothing, "rd": nothing}
    nn, nd = products[..., ::2, ::2], products[..., ::2, 1::2]
    sum_n = sums[..., 0, :].sum(axis=-1)
    ratio = np.divide(sum_n, arrays["sum_d"], out=np.zeros_like(sum_n), where=arrays["sum_d"] > 0)
    left, right = ratio[..., :, None], ratio[..., None, :]
    dn = np.swapaxes(nd, -1, -2)
    rr = nn - right * nd - left * dn + left * right * dd
    size = np.abs(nn) + np.abs(left * right) * dd
    rr = np.where(np.abs(rr) <= _NOISE * size, 0.0, rr)
    return arrays | {"sum_n": sum_n, "rr": rr, "rd": nd - left * dd}


def _count(bits: NDArray[np.uint64]) -> Floats:
    return np.asarray(np.bitwise_count(bits).sum(axis=-1, dtype=float))


def _products(rows: Floats) -> Floats:
    return np.asarray(rows @ np.swapaxes(rows, -1, -2))
