"""Sums over increments, kept so that a look adds only what is new, and the cells of evidence made from them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.events.increment import BUCKETS, Increment, pack, unpack
from understudy.events.query import VALUE_KINDS, EvidenceQuery
from understudy.stats import cuped
from understudy.stats.cells import ALL, Cells
from understudy.stats.histogram import BINS, LogHistogram
from understudy.stats.ratio import ArmMoments

__all__ = ["MOST_VALUES", "OTHER", "Series", "Totals"]

Array = NDArray[np.float64]

MOST_VALUES = 500
"""Values of one cohort column that become cohorts of their own, in the order they come."""
OTHER = "(other)"

_N, _D, _XN, _XD, _EVENTS = range(5)
_SAME_SCALE = 1000.0
_ENOUGH = 30


@dataclass(frozen=True, eq=False)
class Series:
    """A metric over time, in one arm.

    Attributes:
        metric: its name.
        arm: "control" or "challenger".
        hour: hours of event time since 1970, climbing.
        n: events counted in each.
        mean: the metric on the harm scale in each (for a ratio: sum of values over sum of denominators).
    """

    metric: str
    arm: str
    hour: NDArray[np.int64]
    n: Array
    mean: Array


class Totals:
    """Sums per arm, metric, cohort, stage and bucket over the increments taken in so far, in their order.

    Every sum is made by adding increment after increment, so that starting again from the stored ones gives the same
    numbers to the last bit.

    Args:
        query: what is measured.
        without: cohorts like ``"origin=JFK"`` that are left out of "all", at every stage.
    """

    def __init__(self, query: EvidenceQuery, without: Sequence[str] = ()) -> None:
        self.query = query
        self.without = frozenset(without)
        self._cohorts: list[dict[str, int]] = [{} for _ in query.cohorts]
        self._labels = [ALL]
        self._stages: list[int] = []
        self._sums = np.zeros((5, 2, len(query.metrics), 1, 0, BUCKETS))
        self._bad = np.zeros((2, len(query.metrics), 1))
        self._latency = np.zeros((2, BINS), dtype=np.int64)
        self._no_latency = np.zeros(2, dtype=np.int64)
        self._squares = np.zeros((2, 2, len(query.metrics)))
        self._hours: dict[int, Array] = {}
        self._traffic: dict[tuple[str, ...], float] = {}

    def add(self, increment: Increment) -> None:
        """Take in one increment."""
        groups = self._places(increment)
        stage = self._stage_index(increment.stage)
        sums = np.stack([increment.n * increment.mean, self._denominators(increment), increment.n])
        for place in groups:
            self._add_rows(sums, place[increment.cohort], increment.arm, stage, increment.bucket)
            self._add_bad(increment, place[increment.cohort])
        self._add_units(increment, groups)
        np.add.at(self._latency, _occupied(increment, known=True), _counts(increment, known=True))
        np.add.at(self._no_latency, _occupied(increment, known=False)[0], _counts(increment, known=False))
        power = increment.m2 + increment.n * increment.mean**2
        for index, values in enumerate((increment.n, power)):
            np.add.at(self._squares[index], increment.arm, values.T)
        self._add_hours(increment, sums)
        self._add_traffic(increment)

    def pack(self, note: Any = None) -> bytes:
        """Return the sums as bytes, with a JSON-safe note."""
        head = {"note": note, "labels": self._labels, "cohorts": self._cohorts, "stages": self._stages}
        head["traffic"] = [[list(part), count] for part, count in self._traffic.items()]
        hours = sorted(self._hours)
        series = np.array([self._hours[hour] for hour in hours]).reshape(
            len(hours), 3, 2, len(self.query.metrics)
        )
        arrays = [
            self._sums,
            self._bad,
            self._latency,
            self._no_latency,
            self._squares,
            np.array(hours, np.int64),
            series,
        ]
        return pack(head, arrays)

    @classmethod
    def unpack(cls, query: EvidenceQuery, data: bytes) -> tuple[Totals, Any]:
        """Rebuild what `pack` returned, with its note."""
        head, arrays = unpack(data)
        found = cls(query)
        found._labels, found._cohorts, found._stages = head["labels"], head["cohorts"], head["stages"]
        own = [np.array(array) for array in arrays]
        found._sums, found._bad, found._latency, found._no_latency, found._squares = own[:5]
        found._hours = dict(zip(own[5].tolist(), own[6], strict=True))
        found._traffic = {tuple(part): count for part, count in head["traffic"]}
        return found, head["note"]

    def cells(self) -> Cells:
        """Return the moments of every metric in every cohort: "all" first, then cohorts by name."""
        order = [0, *sorted(range(1, len(self._labels)), key=lambda index: self._rank(self._labels[index]))]
        stages = sorted(range(len(self._stages)), key=self._stages.__getitem__)
        # (quantity, arm, metric, cohort, stage, bucket) -> (quantity, arm, cohort, metric, bucket, stage)
        sums = self._sums[:, :, :, order][:, :, :, :, stages].transpose(0, 1, 3, 2, 5, 4)
        numerator = self._adjusted(sums)
        labels = tuple(self._stages[index] for index in stages)
        rows = (len(order) * len(self.query.metrics), *sums.shape[-2:])
        arms = [
            ArmMoments.from_units(
                numerator[arm].reshape(rows),
                sums[_D, arm].reshape(rows),
                labels,
                self._bad[arm][:, order].T.reshape(-1),
                BUCKETS,
                sums[_EVENTS, arm].sum(axis=-2).reshape(rows[0], rows[-1]),
            )
            for arm in range(2)
        ]
        metrics = [metric for _ in order for metric in self.query.metrics]
        return Cells(
            tuple(metric.name for metric in metrics),
            tuple(metric.kind for metric in metrics),
            tuple(self._labels[index] for index in order for _ in self.query.metrics),
            *arms,
        )

    def counted(self) -> NDArray[np.int64]:
        """Return how many events each metric has counted or found unusable, in both arms."""
        return np.asarray(self._squares[0].sum(axis=0) + self._bad[:, :, 0].sum(axis=0), dtype=np.int64)

    def latency(self) -> LogHistogram:
        """Return the histogram of answer times, in milliseconds, of control and challenger."""
        return LogHistogram(self._latency.copy(), self._no_latency.copy())

    def out_of_scale(self) -> tuple[str, ...]:
        """Return the metrics whose values are a thousand times as large in one arm as in the other.

        No model does that; somebody changed a unit.
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            size = np.sqrt(self._squares[1] / self._squares[0])
            ratio = size[1] / size[0]
            apart = (ratio > _SAME_SCALE) | ((ratio < 1 / _SAME_SCALE) & (size[1] > 0))
        enough = (self._squares[0] >= _ENOUGH).all(axis=0) & (size > 0).all(axis=0)
        return tuple(
            metric.name
            for index, metric in enumerate(self.query.metrics)
            if metric.kind in VALUE_KINDS and apart[index] and enough[index]
        )

    def series(self) -> list[Series]:
        """Return every metric over the hours of event time, by arm."""
        hours = np.array(sorted(self._hours), dtype=np.int64)
        values = np.array([self._hours[hour] for hour in hours.tolist()])
        found = []
        for index, metric in enumerate(self.query.metrics):
            for arm, name in enumerate(("control", "challenger")):
                n, total, below = values[:, :, arm, index].T if hours.size else np.zeros((3, 0))
                some = n > 0
                divisor = below if metric.kind == "ratio" else n
                with np.errstate(divide="ignore", invalid="ignore"):
                    found.append(Series(metric.name, name, hours[some], n[some], (total / divisor)[some]))
        return found

    def traffic(self) -> dict[tuple[str, ...], float]:
        """Return how many events both arms had per combination of cohort values."""
        return dict(self._traffic)

    def _add_traffic(self, increment: Increment) -> None:
        # A served metric counts every event once; without one, the events of the first metric stand for all.
        index = next((index for index, metric in enumerate(self.query.metrics) if metric.served), 0)
        counts = np.bincount(increment.cohort, increment.n[index], len(increment.tuples))
        for part, count in zip(increment.tuples, counts.tolist(), strict=True):
            self._traffic[tuple(part)] = self._traffic.get(tuple(part), 0.0) + count

    def _rank(self, label: str) -> tuple[int, str]:
        column, _, value = label.partition("=")
        return self.query.cohorts.index(column), value

    def _places(self, increment: Increment) -> list[NDArray[np.int64]]:
        """Return, for everybody and for each cohort column, the row of every combination; -1 leaves it out."""
        hidden = [
            any(
                f"{column}={value}" in self.without
                for column, value in zip(self.query.cohorts, part, strict=True)
            )
            for part in increment.tuples
        ]
        places = [np.where(np.array(hidden, dtype=bool), -1, 0)]
        for column, name in enumerate(self.query.cohorts):
            known = self._cohorts[column]
            for part in increment.tuples:
                value = part[column] if part[column] in known or len(known) < MOST_VALUES else OTHER
                if value not in known:
                    known[value] = len(self._labels)
                    self._labels.append(f"{name}={value}")
            at = [known.get(part[column], known.get(OTHER, -1)) for part in increment.tuples]
            places.append(np.array(at, dtype=np.int64))
        self._grow(3, len(self._labels))
        if (more := len(self._labels) - self._bad.shape[2]) > 0:
            self._bad = np.pad(self._bad, ((0, 0), (0, 0), (0, more)))
        return places

    def _grow(self, axis: int, size: int) -> None:
        if (more := size - self._sums.shape[axis]) > 0:
            widths = [(0, 0)] * self._sums.ndim
            widths[axis] = (0, more)
            self._sums = np.pad(self._sums, widths)

    def _stage_index(self, stage: NDArray[np.int32]) -> NDArray[np.int64]:
        for label in np.unique(stage).tolist():
            if label not in self._stages:
                self._stages.append(label)
        self._grow(4, len(self._stages))
        labels = np.array(self._stages, dtype=np.int64)
        order = np.argsort(labels)
        return (
            np.asarray(order[np.searchsorted(labels, stage, sorter=order)])
            if stage.size
            else stage.astype(int)
        )

    def _denominators(self, increment: Increment) -> Array:
        kinds = [metric.kind for metric in self.query.metrics]
        chosen = [
            increment.d[index] if kind == "ratio" else increment.n[index] * (kind != "per_unit")
            for index, kind in enumerate(kinds)
        ]
        return np.array(chosen).reshape(increment.n.shape)

    def _add_rows(
        self, sums: Array, group: NDArray[Any], arm: NDArray[Any], stage: NDArray[Any], bucket: NDArray[Any]
    ) -> None:
        keep = np.flatnonzero(group >= 0)
        metrics = np.arange(len(self.query.metrics))[:, None]
        place = (arm[keep], metrics, group[keep], stage[keep], bucket[keep])
        # In one dimension NumPy adds several times as fast as in two.
        flat = np.ravel_multi_index(np.broadcast_arrays(*place), self._sums.shape[1:]).ravel()
        for quantity, values in zip((_N, _D, _EVENTS), sums, strict=True):
            np.add.at(self._sums[quantity].reshape(-1), flat, values[:, keep].ravel())

    def _add_bad(self, increment: Increment, group: NDArray[Any]) -> None:
        metric, row = np.nonzero(increment.bad)
        keep = group[row] >= 0
        metric, row = metric[keep], row[keep]
        np.add.at(self._bad, (increment.arm[row], metric, group[row]), increment.bad[metric, row])

    def _add_units(self, increment: Increment, groups: list[NDArray[np.int64]]) -> None:
        stage = self._stage_index(increment.unit_stage)
        per_unit = np.array([metric.per_unit for metric in self.query.metrics])
        for column, place in enumerate(groups, start=-1):
            group = place[increment.unit_cohort]
            keep = np.flatnonzero((increment.unit_column == column) & (group >= 0))
            metric = increment.unit_metric[keep]
            where = (increment.unit_arm[keep], metric, group[keep], stage[keep], increment.unit_bucket[keep])
            flat = np.ravel_multi_index(where, self._sums.shape[1:])
            units = increment.unit_n[keep] * per_unit[metric]
            for quantity, values in (
                (_D, units),
                (_XN, increment.unit_xn[keep]),
                (_XD, increment.unit_xd[keep]),
            ):
                np.add.at(self._sums[quantity].reshape(-1), flat, values)

    def _add_hours(self, increment: Increment, sums: Array) -> None:
        hours, at = np.unique(increment.hour, return_inverse=True)
        metrics = np.arange(len(self.query.metrics))[:, None]
        found = np.zeros((3, hours.size, 2, metrics.size))
        flat = np.ravel_multi_index(np.broadcast_arrays(at, increment.arm, metrics), found.shape[1:]).ravel()
        for cells, values in zip(found, (increment.n, sums[_N], sums[_D]), strict=True):
            np.add.at(cells.reshape(-1), flat, values.ravel())
        for hour, values in zip(hours.tolist(), found.swapaxes(0, 1), strict=True):
            self._hours[hour] = self._hours[hour] + values if hour in self._hours else values

    def _adjusted(self, sums: Array) -> list[Array]:
        """Return the numerators of both arms, (cohort, metric, bucket, stage), the noise taken away where asked."""
        numerator = [sums[_N, arm].copy() for arm in range(2)]
        for index, metric in enumerate(self.query.metrics):
            if metric.covariate is None or not sums.shape[-1]:
                continue
            control, challenger = (
                cuped.Sums.of(*(sums[quantity, arm, :, index] for quantity in range(4))) for arm in range(2)
            )
            found = cuped.adjust(control, challenger)
            numerator[0][:, index], numerator[1][:, index] = found.control, found.challenger
        return numerator


def _known(increment: Increment, known: bool) -> NDArray[np.bool_]:
    return np.asarray((increment.latency_bin >= 0) == known)


def _occupied(increment: Increment, *, known: bool) -> tuple[NDArray[Any], NDArray[Any]]:
    keep = _known(increment, known)
    return increment.latency_arm[keep], increment.latency_bin[keep]


def _counts(increment: Increment, *, known: bool) -> NDArray[np.int64]:
    return increment.latency_n[_known(increment, known)].astype(np.int64)
