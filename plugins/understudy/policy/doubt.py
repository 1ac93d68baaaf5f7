"""Numbers that no sound metric could give. Whoever sees them may stop a challenger, but never let one pass.

Vectorised: every array is (..., row).
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from understudy.spec import Metric, MetricKind
from understudy.stats.cells import Cells
from understudy.stats.ratio import ArmMoments

__all__ = ["LARGEST_SCALE_RATIO", "LARGEST_SHARE_NOT_NUMBERS", "Doubt", "doubts"]

LARGEST_SHARE_NOT_NUMBERS = 0.01
"""Values that are not finite numbers are left out. Past this share of an arm, what is left out may be the harm itself."""

LARGEST_SCALE_RATIO = 1000.0
"""A measured value whose size differs by more than this between the arms is in different units, not better."""

_RANGES = {
    MetricKind.BRIER: (0.0, 1.0),
    MetricKind.LOG_LOSS: (0.0, -math.log(1e-6)),
    MetricKind.ACCURACY: (-1.0, 0.0),
    MetricKind.ERROR_RATE: (0.0, 1.0),
    MetricKind.LATENCY_OVER: (0.0, 1.0),
}
# What rounding and an adjustment by the units' own history may do to a mean beyond its range, in parts of the range.
_SLACK = 0.05


class Doubt(IntEnum):
    """Why a row cannot pass although it has an interval."""

    NONE = 0
    NOT_NUMBERS = 1
    IMPOSSIBLE = 2
    SCALES_DIFFER = 3


def doubts(metrics: tuple[Metric, ...], cells: Cells) -> NDArray[np.int8]:
    """Return a `Doubt` code a row.

    Args:
        metrics: The metric of each row of the table.
        cells: The moments.
    """
    arms = (cells.control, cells.challenger)
    found = np.zeros(cells.control.total.shape, dtype=np.int8)
    ranges = np.array([_RANGES.get(metric.kind, (-np.inf, np.inf)) for metric in metrics]).reshape(-1, 2)
    measured = np.array([metric.kind.of_value for metric in metrics], dtype=bool)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        sizes = [_size(arm) for arm in arms]
        ratio = np.maximum(sizes[0] / sizes[1], sizes[1] / sizes[0])
        found[measured & np.isfinite(ratio) & (ratio > LARGEST_SCALE_RATIO)] = Doubt.SCALES_DIFFER
        width = np.where(np.isfinite(ranges).all(axis=-1), ranges[:, 1] - ranges[:, 0], 0.0) * _SLACK
        for arm in arms:
            level = arm.sum_n.sum(axis=-1) / arm.sum_d.sum(axis=-1)
            found[(level < ranges[:, 0] - width) | (level > ranges[:, 1] + width)] = Doubt.IMPOSSIBLE
        for arm in arms:
            values = arm.sum_d.sum(axis=-1) + arm.non_finite
            found[arm.non_finite > LARGEST_SHARE_NOT_NUMBERS * values] = Doubt.NOT_NUMBERS
    return found


def _size(arm: ArmMoments) -> NDArray[np.float64]:
    """Return how large the values of an arm are: the root of mean squared level and spread."""
    level = arm.sum_n.sum(axis=-1) / arm.sum_d.sum(axis=-1)
    spread = np.trace(arm.rr, axis1=-2, axis2=-1) / np.trace(arm.dd, axis1=-2, axis2=-1)
    return np.asarray(np.sqrt(level**2 + spread))
