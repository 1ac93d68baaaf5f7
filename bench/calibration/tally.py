"""Moments of one arm in many simulated runs, kept up to date with each look's new events only.

The product builds `ArmMoments` from bucket sums. Doing that anew for 256 buckets at each of 2016 looks would cost ten
times as much as everything else, so the sums over buckets are carried along here; `check` holds them against
`ArmMoments.from_units`, and every simulation calls it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.calibration.distributions import Array
from bench.calibration.traffic import BUCKETS
from understudy.stats.ratio import ArmMoments

__all__ = ["Tally"]


class Tally:
    """Bucket sums of one arm; a lane is one cell of one simulated run."""

    def __init__(self, lanes: int) -> None:
        self.n = np.zeros(lanes * BUCKETS)
        self.d = np.zeros(lanes * BUCKETS)
        self._seen, self._sum_n, self._sum_d, self._nn, self._nd, self._dd = np.zeros((6, lanes))
        self._last = np.zeros(lanes * BUCKETS, dtype=np.int64)

    def add(
        self, lane: NDArray[np.int64], bucket: NDArray[np.int64], n: Array, d: Array | None = None
    ) -> None:
        """Add events: their lane, the bucket of their unit, the metric's value and its denominator (1 if left out)."""
        size = self._seen.size
        weight = np.ones(n.size) if d is None else d
        key = lane * BUCKETS + bucket
        old_n, old_d = self.n[key], self.d[key]
        np.add.at(self.n, key, n)
        np.add.at(self.d, key, weight)
        # A bucket that several events fell into has changed once: only its last event stands for the change.
        order = np.arange(key.size)
        self._last[key] = order
        once = self._last[key] == order
        key, lane_once, old_n, old_d = key[once], lane[once], old_n[once], old_d[once]
        new_n, new_d = self.n[key], self.d[key]
        for sums, change, at in (
            (self._sum_n, n, lane),
            (self._sum_d, weight, lane),
            (self._seen, (old_d == 0) & (new_d > 0), lane_once),
            (self._nn, new_n**2 - old_n**2, lane_once),
            (self._nd, new_n * new_d - old_n * old_d, lane_once),
            (self._dd, new_d**2 - old_d**2, lane_once),
        ):
            sums += np.bincount(at, change, size)

    def moments(self, rows: int = 1) -> ArmMoments:
        """Return the moments with axes (replicate, row), one stage; lane = replicate * rows + row."""
        ratio = np.divide(self._sum_n, self._sum_d, out=np.zeros_like(self._sum_n), where=self._sum_d > 0)
        rr = np.maximum(self._nn - 2 * ratio * self._nd + ratio**2 * self._dd, 0.0)
        rr[rr <= 1e-12 * self._nn] = 0.0
        shape = (-1, rows)
        seen = self._seen.reshape(shape)
        wide = (-1, rows, 1, 1)
        return ArmMoments(
            stages=(1,),
            units=seen[..., None].copy(),
            together=seen[..., None, None].copy(),
            total=seen.copy(),
            sum_n=self._sum_n.reshape(*shape, 1).copy(),
            sum_d=self._sum_d.reshape(*shape, 1).copy(),
            rr=rr.reshape(wide),
            rd=(self._nd - ratio * self._dd).reshape(wide),
            dd=self._dd.reshape(wide).copy(),
            non_finite=np.zeros(seen.shape),
            buckets=BUCKETS,
        )

    def check(self, rows: int = 1) -> None:
        """Compare with what the product makes of the same bucket sums.

        Raises:
            AssertionError: they differ.
        """
        shape = (-1, rows, BUCKETS, 1)
        expected = ArmMoments.from_units(self.n.reshape(shape), self.d.reshape(shape), (1,), buckets=BUCKETS)
        found = self.moments(rows)
        for name in ("units", "together", "total", "sum_n", "sum_d", "dd", "rr", "equal_units"):
            left, right = getattr(found, name), getattr(expected, name)
            np.testing.assert_allclose(
                left, right, rtol=1e-6, atol=1e-9 * float(np.nanmax(np.abs(right), initial=0.0)), err_msg=name
            )
