"""What changed while a run was on: steps and drifts in its metrics, told apart from noise."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.events.evidence import Series
from understudy.lifecycle.evidence import BIAS, series_of
from understudy.session import Passage
from understudy.stats.change_points import Change, change_points

__all__ = ["Anomaly", "anomalies", "find"]

Array = NDArray[np.float64]

_MOST_POINTS = 200
_HOUR, _DAY = 1, 24


@dataclass(frozen=True)
class Anomaly:
    """One change of one metric.

    Attributes:
        metric: The metric.
        of: ``"difference"``: between the arms, so the versions parted; ``"champion"``: of the control, so the world moved.
        at: When it began, Unix seconds of event time.
        change: Kind, size and error control.
        sentence: The same in words.
    """

    metric: str
    of: str
    at: float
    change: Change
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-safe data."""
        return {"metric": self.metric, "of": self.of, "at": self.at, "sentence": self.sentence} | {
            "change": self.change.to_dict()
        }


def anomalies(passage: Passage) -> list[Anomaly]:
    """Return the steps and drifts in the metrics of a run, as far as its stored moments reach; none decides anything."""
    return find([item for item in series_of(passage) if item.metric != BIAS], passage.experiment.alpha)


def find(series: Sequence[Series], alpha: float) -> list[Anomaly]:
    """Find steps and drifts in the difference between the arms and in the champion itself.

    The day's pattern is in both arms and leaves the difference alone; the champion itself is watched by the day where the
    series is long enough to tell.

    Args:
        series: Every metric by arm and hour.
        alpha: Chance of any false finding in the whole run, divided over the series.
    """
    arms = {(item.metric, item.arm): item for item in series}
    names = list(dict.fromkeys(item.metric for item in series))
    each = alpha / max(2 * len(names), 1)
    found: list[Anomaly] = []
    for name in names:
        control, challenger = arms.get((name, "control")), arms.get((name, "challenger"))
        if control is None or challenger is None:
            continue
        found += _watched(name, "difference", *_difference(control, challenger), each)
        found += _watched(name, "champion", *_by(control, _step(control.hour)), each)
    return sorted(found, key=lambda item: (item.at, item.metric))


def _watched(metric: str, of: str, hours: Array, values: Array, sizes: Array, alpha: float) -> list[Anomaly]:
    changes = change_points(values, alpha, times=hours, sizes=sizes).changes
    return [
        Anomaly(metric, of, change.time * 3600.0, change, _sentence(metric, of, change)) for change in changes
    ]


def _sentence(metric: str, of: str, change: Change) -> str:
    who = "The challenger's distance from the champion" if of == "difference" else "The champion itself"
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(change.time * 3600.0))
    verb = "jumped" if change.kind == "step" else "began to drift"
    way = "worse" if change.size > 0 else "better"
    return f"{who} {verb} in {metric} at about {when}: {abs(change.size):.4g} {way}."


def _difference(control: Series, challenger: Series) -> tuple[Array, Array, Array]:
    step = _step(control.hour)
    (at, one, weight), (also, two, other) = _by(control, step), _by(challenger, step)
    both, left, right = np.intersect1d(at, also, return_indices=True)
    pairs = weight[left] + other[right]
    return (
        both.astype(float),
        two[right] - one[left],
        weight[left] * other[right] / np.where(pairs > 0, pairs, 1.0),
    )


def _step(hours: NDArray[np.int64]) -> int:
    return _HOUR if hours.size <= _MOST_POINTS else _DAY


def _by(series: Series, step: int) -> tuple[Array, Array, Array]:
    """Return times in hours, means and events of a series, by the hour or by the day."""
    if step == _HOUR:
        return series.hour.astype(float), series.mean, series.n
    label, at = np.unique(series.hour // step, return_inverse=True)
    events = np.bincount(at, series.n)
    means = np.bincount(at, series.n * series.mean) / events
    at_hours = np.asarray(label * step, dtype=np.float64)
    return at_hours, np.asarray(means, dtype=np.float64), np.asarray(events, dtype=np.float64)
