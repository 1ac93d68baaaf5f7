"""Did a metric series step or begin to drift? Change points with an error bound that holds at every look.

While nothing changes, the series is taken as ``level + noise``, the noise Gaussian with any spread and an
autocorrelation ``phi`` anywhere in ``[0, max_autocorrelation]``, fading with distance in time, so gaps need
no filling. For every possible start a step ``N(0, g sigma^2)`` and a ramp are put against that. With the level and
``log sigma`` integrated out by their right-Haar prior every term is a ratio of densities of the invariants,

    ``B = (1 + g s)^(-1/2) (1 - g s / (1 + g s) R / RSS)^(-(n - 1) / 2)``

where ``s`` is the change's sum of squares left over by the level and ``R`` what it explains of ``RSS``. The mixture
over starts, shapes and ``phi``, divided by the largest null likelihood over ``phi``, is at most a test martingale
whatever the level, the spread and ``phi`` are, so it passes ``1 / alpha`` with probability at most alpha, however
often one looks (Ville).

Sources: Perez-Ortiz, Lardy, de Heide, Grunwald 2024, Ann. Stat. 52:1410 (invariant e-statistics);
Wasserman, Ramdas, Balakrishnan 2020, PNAS 117:16880 (dividing by the largest null likelihood); Shin, Ramdas,
Rinaldo 2022, arXiv 2203.03532 (e-detectors: one e-process per start). The bound is exact for such noise. Values
far out are pulled in by limits taken from earlier points only, which keeps heavy tails near it; a daily pattern
has to be taken out first (the difference of two arms has hardly any). Where and how large a found change is, is
read from the same model with only isolated values pulled in, so that a step keeps its edge and its height.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import logsumexp, stdtrit

__all__ = ["MIN_POINTS", "Change", "ChangePoints", "change_points"]

Array = NDArray[np.float64]

# Below this many points nothing is said; with them a step of 3 standard deviations can be seen.
MIN_POINTS = 20
# Points before the earliest start, and points that a change must have lasted for.
_BASELINE, _LASTED = 8, 3
# Starts share half of the prior evenly over so many points (a week of hours), the other half falls off as 1/k^2.
_HORIZON = 168
# Prior size of a step, and of what a ramp adds in `_RAMP` points: N(0, _SPREAD sigma^2).
_SPREAD, _RAMP = 4.0, 20
# Values further from the median of the earlier points than this many robust standard deviations are pulled in.
_CLIP = 3.0
# Starts longer ago than this are thinned out, half as many with each doubling.
_DENSE = 64
_SHAPES, _SHARES = ("step", "drift"), np.array([0.75, 0.25])
# Variance below this (the largest distance from the median being 1) is rounding.
_FLOOR = 1e-18


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        kind: "step" or "drift".
        position: index in the given series of the first changed point.
        time: its time.
        first: the start lies between `first` and `last` with posterior probability 1 - alpha.
        size: step, or what the drift added until the alarm, in the series' unit; fitted, so a little too large
            on average (only changes that show are reported).
        lower: lower bound of the size at level alpha, given the position; `upper` the other.
        slope: drift per unit of time; None for a step.
        alarm: index at which the evidence passed the limit.
        log_e: log e-value at the alarm.
        p: ``exp(-log_e)``, valid at any look.
        alpha: what this change's p had to reach.
    """

    kind: str
    position: int
    time: float
    first: int
    last: int
    size: float
    lower: float
    upper: float
    slope: float | None
    alarm: int
    log_e: float
    p: float
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class ChangePoints:
    """All changes of one series.

    Attributes:
        changes: in order of time. A later look at a longer series finds the same ones and perhaps more.
        determined: False means that the series cannot say; it is then not "quiet".
        reason: why it is undetermined; None otherwise.
        points: usable points.
        missing: points left out (not finite, or without size).
        log_e: largest log e-value since the last alarm (or the start); None if there is none.
        p: p-value of "nothing has changed since"; None with log_e.
        alpha: bound on the chance that any of the changes is false.
    """

    changes: tuple[Change, ...]
    determined: bool
    reason: str | None
    points: int
    missing: int
    log_e: float | None
    p: float | None
    alpha: float

    @property
    def quiet(self) -> bool:
        """Whether the series could be judged and shows no change."""
        return self.determined and not self.changes

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self) | {"quiet": self.quiet}


def change_points(
    values: ArrayLike,
    alpha: float = 0.05,
    times: ArrayLike | None = None,
    sizes: ArrayLike | None = None,
    max_autocorrelation: float = 0.7,
) -> ChangePoints:
    """Find steps and drifts; the chance of any false one, over all points and looks, is at most alpha.

    The k-th change has to reach ``alpha / (k (k + 1))``; after an alarm the watch begins afresh at the next point, so a
    drift that goes on is reported again.

    Args:
        values: one per point, in order of time; a value that is not finite is a gap.
        alpha: error budget of the whole series.
        times: one per point, increasing; 0, 1, 2... when left out. Unequal distances are fine.
        sizes: observations behind each point; its variance is then taken as ``sigma^2 / size``.
        max_autocorrelation: largest correlation of neighbours that counts as quiet. A higher one makes changes
            harder to tell from noise.

    Raises:
        ValueError: shapes differ, or alpha or max_autocorrelation is out of range.
    """
    x = np.asarray(values, dtype=float)
    t = np.arange(x.size, dtype=float) if times is None else np.asarray(times, dtype=float)
    w = np.ones(x.shape) if sizes is None else np.asarray(sizes, dtype=float)
    if x.ndim != 1 or t.shape != x.shape or w.shape != x.shape:
        raise ValueError(
            f"shapes {x.shape}, {t.shape}, {w.shape}: values, times and sizes need one per point"
        )
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    if not 0 <= max_autocorrelation < 1:
        raise ValueError(f"max_autocorrelation is {max_autocorrelation!r}; it must be in [0, 1)")
    with np.errstate(invalid="ignore"):
        kept = np.flatnonzero(np.isfinite(x) & np.isfinite(t) & np.isfinite(w) & (w > 0))
    x, t, w = x[kept], t[kept], w[kept]
    reason = _unusable(x, t)
    if reason:
        return ChangePoints(
            (), False, reason, kept.size, len(np.ravel(values)) - kept.size, None, None, alpha
        )
    found, log_e = _watch(x, t, w, kept, alpha, max_autocorrelation)
    p = None if log_e is None else math.exp(-max(log_e, 0.0))
    return ChangePoints(
        tuple(found), True, None, kept.size, len(np.ravel(values)) - kept.size, log_e, p, alpha
    )


def _unusable(x: Array, t: Array) -> str | None:
    if x.size < MIN_POINTS:
        return "too_few_points"
    if (np.diff(t) <= 0).any():
        return "times_not_increasing"
    if (x == x[0]).all():
        return "zero_variance"
    return None


def _watch(
    x: Array, t: Array, w: Array, kept: NDArray[np.intp], alpha: float, most: float
) -> tuple[list[Change], float | None]:
    """Watch from the start, and again after every alarm."""
    found: list[Change] = []
    begin, log_e = 0, None
    while x.size - begin >= _BASELINE + _LASTED:
        rank = len(found) + 1
        segment = _Segment(x[begin:], t[begin:], w[begin:], most)
        budget = alpha / (rank * (rank + 1))
        log_e, alarm = segment.run(-math.log(budget))
        if alarm is None:
            break
        found.append(segment.describe(alarm, kept[begin:], log_e, budget))
        begin, log_e = begin + alarm + 1, None
    return found, log_e


def _pulled_in(x: Array) -> Array:
    """Limit each value to the median of the earlier ones plus or minus `_CLIP` robust standard deviations.

    The first values are limited by one another. Without any spread among the earlier ones there is no limit.
    """
    clipped = x.copy()
    for i in range(x.size):
        earlier = x[: max(i, _BASELINE)]
        middle = np.median(earlier)
        distance = np.abs(earlier - middle)
        spread = 1.4826 * np.median(distance) or 1.2533 * distance.mean()
        if spread > 0:
            clipped[i] = min(max(x[i], middle - _CLIP * spread), middle + _CLIP * spread)
    return clipped


def _without_outliers(x: Array) -> Array:
    """Limit values that stand alone to the median of the seven around them; steps and ramps stay as they are."""
    around = np.lib.stride_tricks.sliding_window_view(np.pad(x, 3, mode="edge"), 7)
    middle = np.median(around, axis=1)
    distance = np.abs(x - middle)
    spread = 1.4826 * np.median(distance)
    return np.clip(x, middle - _CLIP * spread, middle + _CLIP * spread) if spread > 0 else x


class _Segment:
    """Whitened prefix sums of one stretch, from which every start and shape is judged in constant time.

    Rows are values of phi; column i holds sums over points before i.
    """

    def __init__(self, x: Array, t: Array, w: Array, most: float) -> None:
        largest = float(np.abs(x).max()) or 1.0
        pulled = _pulled_in(x / largest)
        # Units, and the spacing that phi refers to, are settled by the first points: later ones must not change what
        # an earlier look found.
        centre = float(np.median(pulled[:MIN_POINTS]))
        distance = np.abs(pulled - centre)
        scale = float(distance[:MIN_POINTS].max()) or float(distance.max()) or 1.0
        self.floor = max(_FLOOR, (8 * np.finfo(float).eps * abs(centre) / scale) ** 2)
        self.unit, self.raw = largest * scale, (x / largest - centre) / scale
        self.x = np.clip((pulled - centre) / scale, -1e100, 1e100)  # so that squares stay finite
        self.step, self.times = float(np.median(np.diff(t[:MIN_POINTS]))), t
        self.t, self.weight = (t - t[0]) / self.step, w / np.median(w)
        top = math.asin(most)
        # Equal steps of the angle are equal steps of information about phi.
        self.fine = np.sin(np.linspace(0, top, 1 + math.ceil(40 * top)))
        self.coarse = np.sin(np.linspace(0, top, 1 + math.ceil(8 * top)))
        self.null = _Sums(self.x, self.t, self.weight, self.fine, self.floor)
        self.full = _Sums(self.x, self.t, self.weight, self.coarse, self.floor)
        self.log_prior = _prior(np.arange(max(x.size - _BASELINE, 0)))
        self.log_rest = np.log1p(-np.minimum(np.cumsum(np.exp(self.log_prior)), 1 - 1e-15))

    def run(self, limit: float) -> tuple[float | None, int | None]:
        """Return (largest log e so far, index of the alarm or None)."""
        best: float | None = None
        for i in range(_BASELINE + _LASTED - 1, self.x.size):
            log_e = self.log_e(i)
            if log_e is not None and (best is None or log_e > best):
                best = log_e
            if best is not None and best >= limit:
                return best, i
        return best, None

    def log_e(self, i: int) -> float | None:
        """Log e-value after point i; None while nothing has varied."""
        null = self.null.level(i)
        if null is None:
            return None
        terms = self.terms(self.full, i)[0]
        unspent = self.full.level(i)
        if unspent is None:
            return None
        waiting = float(self.log_rest[i - _BASELINE]) + _log_sum(unspent) - math.log(self.coarse.size)
        return float(np.logaddexp(_log_sum(terms), waiting) - null.max())

    def terms(self, sums: _Sums, i: int) -> tuple[Array, NDArray[np.intp]]:
        """Log of prior times density per [shape, phi, start], and the starts."""
        starts = _starts(i)
        base = sums.level(i)
        if base is None:
            return np.full((2, self.coarse.size, starts.size), -np.inf), starts
        rss = sums.rss(i)[:, None]
        s, cross = sums.change(i, starts)
        gain = _SPREAD * s
        explained = gain / (1 + gain) * np.minimum(cross**2 / (s * rss), 1.0)
        log_b = -np.log1p(gain) / 2 - i / 2 * np.log1p(-explained)
        prior = self.log_prior[starts - _BASELINE] + np.log(_SHARES / self.coarse.size)[:, None, None]
        return log_b + base[:, None] + prior, starts

    def describe(self, i: int, kept: NDArray[np.intp], log_e: float | None, alpha: float) -> Change:
        """Fit the change that was found at point i."""
        part = slice(i + 1)
        edges = _without_outliers(self.raw[part])
        top = float(np.abs(edges).max()) or 1.0
        unit = self.unit * top
        sums = _Sums(edges / top, self.t[part], self.weight[part], self.coarse, self.floor)
        terms, starts = self.terms(sums, i)
        shape = int(np.argmax(logsumexp(terms, axis=(1, 2))))
        of_start = logsumexp(terms[shape], axis=0)
        weight = np.exp(of_start - logsumexp(of_start))
        chosen = int(np.argmax(weight))
        first, last = _credible(weight, starts, alpha)
        phi = int(np.argmax(terms[shape][:, chosen]))
        s, cross = (v[shape, phi, chosen] for v in sums.change(i, starts))
        start = int(starts[chosen])
        lasted = 1.0 if shape == 0 else (self.t[i] - self.t[start - 1]) / _RAMP
        left = max(float(sums.rss(i)[phi]) - cross**2 / s, 0.0)
        half = -float(stdtrit(i - 1, alpha / 2)) * math.sqrt(left / (i - 1) / s) * lasted * unit
        size = float(cross / s * lasted * unit)
        slope = size / ((self.t[i] - self.t[start - 1]) * self.step) if shape else None
        e = float(log_e or 0.0)
        time = float(self.times[start])
        return Change(
            _SHAPES[shape], int(kept[start]), time, int(kept[first]), int(kept[last]), size, size - half, size + half,
            slope, int(kept[i]), e, math.exp(-e), alpha,
        )  # fmt: skip


class _Sums:
    """Prefix sums of the whitened level (o), time (q) and values (y), for each phi."""

    def __init__(self, x: Array, t: Array, w: Array, phi: Array, floor: float) -> None:
        root = np.sqrt(w)
        # Points that nearly coincide in time would count as one measurement without any noise.
        a = phi[:, None] ** np.maximum(np.diff(t, prepend=t[0]), 1e-3)
        a[:, 0] = 0.0
        b = np.sqrt(1 - a**2)
        self.t, self.floor = t, floor

        def white(column: Array) -> Array:
            weighted = root * column
            return np.asarray((weighted - a * np.concatenate([[0.0], weighted[:-1]])) / b)

        o, q, y, jump = white(np.ones_like(x)), white(t), white(x), root / b
        # The first changed point of a step has no changed one before it.
        self.edge = np.stack([jump**2, jump * o, jump * y])
        products = np.stack([o * o, o * y, o * q, q * y, q * q, y * y])
        self.sums = np.pad(np.cumsum(products, axis=2), ((0, 0), (0, 0), (1, 0)))
        self.log_b = np.cumsum(np.log(b), axis=1)

    def rss(self, i: int) -> Array:
        """Residual sum of squares around the level, per phi, over points 0..i."""
        oo, oy, yy = self.sums[(0, 1, 5), :, i + 1]
        return np.asarray(np.maximum(yy - oy**2 / oo, self.floor * (i + 1)))

    def level(self, i: int) -> Array | None:
        """Log density of the invariants without a change, per phi, up to one constant; None without spread."""
        rss = self.rss(i)
        if rss.max() <= self.floor * (i + 1) * 4:
            return None
        return np.asarray(-self.log_b[:, i] - np.log(self.sums[0, :, i + 1]) / 2 - i / 2 * np.log(rss))

    def change(self, i: int, starts: NDArray[np.intp]) -> tuple[Array, Array]:
        """Per [shape, phi, start]: sum of squares of the change beside the level, and its product with the values."""
        until = self.sums[:, :, i + 1, None]
        after = until[:2] - self.sums[:2, :, starts + 1]
        step = self.edge[:, :, starts] + after[(0, 0, 1), ...]
        oo, oy, oq, qy, qq = until[:5] - self.sums[:5, :, starts]
        c = self.t[starts - 1]
        ramp = (qq - c * (2 * oq - c * oo)) / _RAMP**2, (oq - c * oo) / _RAMP, (qy - c * oy) / _RAMP
        dd, do, dy = (np.stack(pair) for pair in zip(step, ramp, strict=True))
        return np.maximum(dd - do**2 / until[0], 1e-12), dy - do * until[1] / until[0]


def _log_sum(logs: Array) -> float:
    """Log of the sum of exponentials; a tenth of the time of the general one."""
    largest = float(logs.max())
    return largest + math.log(float(np.exp(logs - largest).sum())) if math.isfinite(largest) else largest


def _prior(later: NDArray[np.intp]) -> Array:
    """Log prior of a start so many points after the baseline; sums to one."""
    k = later + 1.0
    far = (_HORIZON + 1) / np.maximum(k * (k + 1), 1.0)
    return np.log(0.5 * np.where(k <= _HORIZON, 1 / _HORIZON, far))


def _starts(i: int) -> NDArray[np.intp]:
    """Starts judged after point i: all recent ones, older ones thinned out (which only loses evidence)."""
    starts = np.arange(_BASELINE, i + 2 - _LASTED)
    age = (i - starts) // _DENSE
    spacing = 2 ** np.ceil(np.log2(np.maximum(age, 0) + 1)).astype(int)
    return np.asarray(starts[starts % spacing == 0])


def _credible(weight: Array, starts: NDArray[np.intp], alpha: float) -> tuple[int, int]:
    """Hull of the likeliest starts that together hold 1 - alpha."""
    order = np.argsort(weight)[::-1]
    needed = int(np.searchsorted(np.cumsum(weight[order]), 1 - alpha)) + 1
    inside = starts[order[:needed]]
    return int(inside.min()), int(inside.max())
