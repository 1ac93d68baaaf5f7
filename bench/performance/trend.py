"""Whether something grew while it was watched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.performance.series import Sample

_WARM_UP = 0.2
_Z95 = 1.959964
_DAY = 1440


@dataclass(frozen=True)
class Trend:
    """A straight line through what was seen after the warm-up.

    Attributes:
        what: What was watched.
        unit: In what.
        first: Its value after the warm-up.
        last: Its value at the end.
        slope: What it grew a minute.
        low: Lower end of the slope's interval.
        high: Upper end.
    """

    what: str
    unit: str
    first: float
    last: float
    slope: float
    low: float
    high: float

    def in_words(self) -> str:
        """Return what a day would bring if it went on like this, where it can be told from nothing."""
        if max(abs(self.low), abs(self.high)) * _DAY < 0.5:
            return "none"
        if self.low <= 0 <= self.high:
            return f"no growth can be told from none; at most {self.high * _DAY:,.0f} {self.unit}"
        return f"{self.slope * _DAY:+,.0f} {self.unit} ({self.low * _DAY:+,.0f} to {self.high * _DAY:+,.0f})"


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Return the trend of everything that is watched."""
    minutes = np.array([one.minute for one in samples])
    kept = minutes >= _WARM_UP * minutes[-1]
    watched = {
        ("memory of the gateway", "MB"): "gateway_mb",
        ("memory of the challenger's process", "MB"): "challenger_mb",
        ("open files of both", "files"): "files",
        ("event log on the disk", "MB"): "log_mb",
        ("segments that are still lines", "segments"): "segments",
    }
    found = []
    for (what, unit), name in watched.items():
        values = np.array([float(getattr(one, name)) for one in samples])[kept]
        slope, error = _slope(minutes[kept], values)
        reach = _Z95 * error
        found.append(Trend(what, unit, values[0], values[-1], slope, slope - reach, slope + reach))
    return found


def _slope(times: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the least-squares slope and its standard error.

    The error is that of Newey and West (1987, Econometrica 55, 703-708) with lags up to four times the fourth root of a
    hundredth of the samples (their 1994 rule), because neighbouring samples are alike.
    """
    centred = times - times.mean()
    spread = float(centred @ centred)
    slope = float(centred @ values) / spread
    scores = centred * (values - values.mean() - slope * centred)
    lags = int(4 * (len(times) / 100) ** 0.25)
    inner = float(scores @ scores)
    for lag in range(1, lags + 1):
        inner += 2 * (1 - lag / (lags + 1)) * float(scores[lag:] @ scores[:-lag])
    return slope, max(inner, 0.0) ** 0.5 / spread
