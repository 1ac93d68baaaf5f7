"""From the holdout to live traffic: the forecast for the traffic there is, and why the online result differs.

The offline difference (challenger minus champion on the same rows, positive: challenger worse) is post-stratified to the
online shares of cohorts or of joint cohort cells (Holt and Smith 1979, JRSS A 142:33): ``sum_c s_c mean_c`` with ``s_c``
the online share. Its standard error is that of the linearised terms per randomised unit, so a unit in several cells
counts once.

The gap online minus offline is then the sum of

* traffic mix: reweighted minus plain offline difference, exact;
* labels: outcomes that never came or are not there yet. Nothing is known about them, so the part counts 0 and carries
  Manski's bounds (1990, Am. Econ. Rev. 80:319) instead;
* calibration: for a squared error (Brier) ``E (p - y)^2 = Var(p - y) + bias^2``; the change of
  ``bias^2`` of the challenger minus that of the champion between offline and online is this part, exactly;
* effect: the rest. What the models do to the world, novelty, a changed relation of inputs and outcome.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

from understudy.stats.paired import paired_difference
from understudy.stats.sequences import Interval, undetermined

__all__ = ["Bias", "CellShare", "GapExplanation", "Labels", "Part", "Reweighted", "explain_gap", "reweight"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class _Result:
    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class CellShare(_Result):
    """One cell; estimate and se are None with fewer than two units."""

    cell: str
    offline_share: float
    online_share: float
    estimate: float | None
    se: float | None
    rows: int
    units: int


@dataclass(frozen=True)
class Reweighted(_Result):
    """Offline difference for the online traffic.

    Attributes:
        interval: reweighted difference. Undetermined ("support_missing") if too much of the online traffic has no
            counterpart offline; reason "partial_support" if a little has none.
        offline: the plain difference over the offline rows.
        cells: every cell of either side.
        non_finite: rows left out.
        unmatched_share: share of the online traffic in cells with fewer than two offline units.
        effective_units: equal units that would weigh as much as the reweighted ones.
        mix: reweighted minus plain, with standard error `mix_se`; None with `interval`'s estimate.
    """

    interval: Interval
    offline: Interval
    cells: tuple[CellShare, ...]
    non_finite: int
    unmatched_share: float | None = None
    effective_units: float | None = None
    mix: float | None = None
    mix_se: float | None = None


@dataclass(frozen=True)
class Labels(_Result):
    """Outcomes that are not there, per arm, and the smallest and largest value a row's loss can have (None: no limit)."""

    missing_control: float
    missing_challenger: float
    mean_control: float
    mean_challenger: float
    smallest: float | None = None
    largest: float | None = None


@dataclass(frozen=True)
class Bias(_Result):
    """Mean of (prediction - outcome) of both models on one side (offline or online), with standard errors."""

    control: float
    control_se: float
    challenger: float
    challenger_se: float


@dataclass(frozen=True)
class Part(_Result):
    """One reason for the gap.

    Attributes:
        name: "traffic_mix", "labels", "calibration" or "effect".
        value: what it adds to the gap, 0 where it is not known. `se`: its standard error.
        low: it is at least this, and at most `high`; None if there is no bound.
        determined: False means "not known"; the value then is in "effect".
        sentence: for people who do not read statistics.
    """

    name: str
    value: float
    se: float | None
    low: float | None
    high: float | None
    determined: bool
    sentence: str


@dataclass(frozen=True)
class GapExplanation(_Result):
    """Why online differs from offline.

    Attributes:
        gap: online minus offline, with standard error `se`; None with a reason.
        parts: they add up to the gap (``math.fsum``) to the last digit.
        sentence: the whole in one sentence.
    """

    gap: float | None
    se: float | None
    parts: tuple[Part, ...]
    sentence: str
    reason: str | None = None


def reweight(
    difference: ArrayLike,
    units: ArrayLike,
    cells: ArrayLike,
    online: Mapping[str, float],
    alpha: float = 0.05,
    tolerated: float = 0.05,
) -> Reweighted:
    """Reweight the offline paired differences to the online traffic.

    Args:
        difference: loss of the challenger minus loss of the champion per offline row; not finite: left out.
        units: randomised unit of each row.
        cells: cohort, or joint cohort cell, of each row.
        online: rows (or shares) of the online traffic per cell. Taken as known: the forecast is for this traffic.
        alpha: error budget of the two-sided interval.
        tolerated: largest unmatched share that still gets an answer, flagged and for the matched rest.

    Raises:
        ValueError: lengths differ, an online number is negative or not finite, or alpha is outside (0, 1).
    """
    d, u, c = np.asarray(difference, dtype=float), np.asarray(units), np.asarray(cells).astype(str)
    if d.ndim != 1 or not d.shape == u.shape == c.shape:
        raise ValueError(f"shapes {d.shape}, {u.shape}, {c.shape}: one value per row each")
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    if not all(math.isfinite(n) and n >= 0 for n in online.values()):
        raise ValueError(f"online traffic is {dict(online)}; every number must be finite and not negative")
    good = np.isfinite(d)
    names = sorted({*online, *c[good].tolist()})
    rows = _Rows.of(d[good], u[good], c[good], names)
    counts = np.array([online.get(name, 0.0) for name in names])
    relative = counts / (counts.max(initial=0.0) or 1.0)
    share = relative / (relative.sum() or 1.0)
    supported = rows.units_in >= 2
    unmatched = float(share[~supported].sum())
    found, matched = rows.share, np.where(supported, share, 0.0)
    table = rows.table(names, share)
    plain = paired_difference(np.zeros(d.shape), d, u, alpha).interval
    left_out = int((~good).sum())
    if not share.sum():
        return Reweighted(undetermined("no_online_traffic", rows.total, alpha), plain, table, left_out)
    if unmatched > tolerated or not matched.sum():
        missing = undetermined("support_missing", rows.total, alpha)
        return Reweighted(missing, plain, table, left_out, unmatched)
    weights = matched / matched.sum()
    interval = rows.interval(weights, alpha, "partial_support" if unmatched > 0 else None)
    if not interval.determined:
        return Reweighted(interval, plain, table, left_out, unmatched)
    mix, mix_se = rows.value(weights - found), rows.se(weights - found)
    return Reweighted(interval, plain, table, left_out, unmatched, rows.effective(weights), mix, mix_se)


def explain_gap(
    online: Interval,
    offline: Reweighted,
    labels: Labels | None = None,
    bias_offline: Bias | None = None,
    bias_online: Bias | None = None,
    alpha: float = 0.05,
) -> GapExplanation:
    """Explain online minus offline as a sum of parts.

    Args:
        online: the online difference with its standard error (harm scale).
        offline: from `reweight`.
        labels: missing outcomes; None if not known.
        bias_offline: calibration in the large on the holdout; for a squared error only.
        bias_online: the same on live traffic.
        alpha: error budget of each part's own bounds.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    plain = offline.offline
    known = [n for n in (online.estimate, online.se, plain.estimate, plain.se) if n is not None]
    if len(known) < 4 or not (online.determined and plain.determined):
        return GapExplanation(None, None, (), "One of the two results is missing.", "no_result")
    z = -float(ndtri(alpha / 2))
    gap, se = known[0] - known[2], math.hypot(known[1], known[3])
    named = _mix(offline, z), _labels(labels), _calibration(bias_offline, bias_online, z)
    matched = offline.interval.se if named[0].determined and offline.interval.se is not None else known[3]
    # The bias is measured on the same rows as the difference: how they go together is not known, so errors add.
    rest_se = math.hypot(known[1], matched) + (named[2].se or 0.0)
    effect = _effect(math.fsum([gap, *(-part.value for part in named)]), rest_se, z, named)
    largest = max((*named, effect), key=lambda part: abs(part.value))
    reason = f"the largest part is {_TITLES[largest.name]} ({largest.value:+.3g})"
    sentence = f"Online is {_moved(gap)} compared with the holdout" + (f"; {reason}." if gap else ".")
    parts = (*named, effect)
    return GapExplanation(math.fsum(part.value for part in parts), se, parts, sentence)


@dataclass(frozen=True, eq=False)
class _Rows:
    """Offline rows summed per pair of unit and cell."""

    n: Array
    mean: Array
    units_in: Array
    unit: NDArray[np.intp]
    cell_of: NDArray[np.intp]
    rows_in: Array
    residual: Array

    @classmethod
    def of(cls, d: Array, units: NDArray[Any], cells: NDArray[Any], names: list[str]) -> _Rows:
        code = np.searchsorted(np.array(names), cells) if names else np.empty(0, dtype=np.intp)
        _, unit = np.unique(units, return_inverse=True)
        n = np.bincount(code, minlength=len(names)).astype(float)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            mean = np.bincount(code, d, len(names)) / n
        pair, inverse = np.unique(unit * max(len(names), 1) + code, return_inverse=True)
        cell_of = pair % max(len(names), 1)
        residual = np.bincount(inverse, d - mean[code], pair.size)
        units_in = np.bincount(cell_of, minlength=len(names)).astype(float)
        rows_in = np.bincount(inverse, minlength=pair.size).astype(float)
        return cls(
            n, mean, units_in, pair // max(len(names), 1), cell_of, rows_in, np.asarray(residual, float)
        )

    @property
    def total(self) -> float:
        return float(self.n.sum())

    @property
    def share(self) -> Array:
        return self.n / max(self.total, 1.0)

    def value(self, weights: Array) -> float:
        return float(np.where(weights != 0, weights * np.where(self.n > 0, self.mean, 0.0), 0.0).sum())

    def se(self, weights: Array) -> float:
        """Standard error of the weighted cell means, each cell's n / (n - 1) counted in its units."""
        lost = np.sqrt(self.units_in / np.maximum(self.units_in - 1, 1))
        per_row = np.divide(weights * lost, self.n, out=np.zeros_like(weights), where=self.n > 0)
        terms = np.bincount(self.unit, per_row[self.cell_of] * self.residual)
        largest = float(np.abs(terms).max(initial=0.0))
        return largest * float(np.linalg.norm(terms / largest)) if 0 < largest < math.inf else largest

    def effective(self, weights: Array) -> float:
        per_row = np.divide(weights, self.n, out=np.zeros_like(weights), where=self.n > 0)
        return float(1 / (np.bincount(self.unit, per_row[self.cell_of] * self.rows_in) ** 2).sum())

    def table(self, names: list[str], online: Array) -> tuple[CellShare, ...]:
        lost = np.sqrt(self.units_in / np.maximum(self.units_in - 1, 1)) / np.maximum(self.n, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            alone = lost * np.sqrt(np.bincount(self.cell_of, self.residual**2, len(names)))
        alone[self.units_in < 2] = np.nan
        mean = np.where(self.units_in < 2, np.nan, self.mean)
        columns = self.share.tolist(), online.tolist(), mean, alone, self.n, self.units_in
        return tuple(
            CellShare(name, offline, there, _finite(estimate), _finite(se), int(rows), int(units))
            for name, offline, there, estimate, se, rows, units in zip(names, *columns, strict=True)
        )

    def interval(self, weights: Array, alpha: float, reason: str | None) -> Interval:
        estimate, se = self.value(weights), self.se(weights)
        if not (math.isfinite(estimate) and math.isfinite(se)):
            return undetermined("values_too_large", self.total, alpha)
        if se == 0:
            return undetermined("zero_variance", self.total, alpha, estimate, se)
        df = self.effective(weights) - 1
        half = -float(stdtrit(df, alpha / 2)) * se
        if not math.isfinite(half):
            reason = "values_too_large" if df > 0 else "too_few_units"
            return undetermined(reason, self.total, alpha, estimate, se)
        return Interval(estimate, se, estimate - half, estimate + half, int(self.total), alpha, True, reason)


_TITLES = {"traffic_mix": "the mix of traffic", "labels": "missing outcomes"}
_TITLES |= {"calibration": "a shift of calibration", "effect": "the effect on live traffic itself"}


def _mix(offline: Reweighted, z: float) -> Part:
    if offline.mix is None or offline.mix_se is None:
        share = f"{offline.unmatched_share or 0:.1%} of live traffic has no counterpart in the holdout"
        text = f"The holdout cannot be reweighted ({share}); the part of the traffic mix is not known."
        return Part("traffic_mix", 0.0, None, None, None, False, text)
    value, half = offline.mix, z * offline.mix_se
    text = f"Live traffic is made up differently from the holdout; that alone makes online {_moved(value)}."
    if offline.unmatched_share:
        text += f" {offline.unmatched_share:.1%} of it has no counterpart there and is not in this number."
    return Part("traffic_mix", value, offline.mix_se, value - half, value + half, True, text)


def _labels(labels: Labels | None) -> Part:
    if labels is None:
        text = "How many outcomes are missing was not reported, so their part is not known."
        return Part("labels", 0.0, None, None, None, False, text)
    shares = labels.missing_control, labels.missing_challenger
    if shares == (0, 0):
        return Part(
            "labels", 0.0, 0.0, 0.0, 0.0, True, "Every outcome has arrived; none of the gap comes from here."
        )
    text = f"{shares[0]:.1%} of the control's and {shares[1]:.1%} of the challenger's outcomes are missing. "
    means = labels.mean_control, labels.mean_challenger
    low, high = labels.smallest, labels.largest
    usable = all(0 <= share <= 1 for share in shares) and all(map(math.isfinite, means))
    if low is None or high is None or not usable or not low <= min(means) <= max(means) <= high:
        text += "This metric has no known limits, so they could explain any gap; they count as nothing here."
        return Part("labels", 0.0, None, None, None, False, text)
    # True minus measured difference, each missing row anywhere between the limits; the distortion is its negative.
    most = shares[1] * (high - means[1]) + shares[0] * (means[0] - low)
    least = shares[1] * (low - means[1]) - shares[0] * (high - means[0])
    text += (
        f"With them online could be up to {abs(least):.3g} better or {most:.3g} worse for the challenger; "
    )
    text += "which of it is true is not guessed, so they count as nothing here."
    return Part("labels", 0.0, None, -most, -least, False, text)


def _calibration(before: Bias | None, after: Bias | None, z: float) -> Part:
    if before is None or after is None or not _usable(before) or not _usable(after):
        text = (
            "Calibration was not compared, or cannot be told apart for this metric; its part is in the rest."
        )
        return Part("calibration", 0.0, None, None, None, False, text)
    sides = [b.challenger * b.challenger - b.control * b.control for b in (before, after)]
    errors = [2 * b.challenger * b.challenger_se for b in (before, after)]
    errors += [2 * b.control * b.control_se for b in (before, after)]
    value, se = sides[1] - sides[0], math.hypot(*errors)
    text = (
        f"On average predictions miss the outcome by {after.challenger:+.3g} (challenger) and "
        f"{after.control:+.3g} (control) online, {before.challenger:+.3g} and {before.control:+.3g} "
        f"in the holdout; that shift makes online {_moved(value)}."
    )
    return Part("calibration", value, se, value - z * se, value + z * se, True, text)


def _effect(value: float, se: float, z: float, named: tuple[Part, Part, Part]) -> Part:
    unknown = [_TITLES[part.name] for part in named if not part.determined]
    text = "What is left, the effect on live traffic itself" + "".join(f" and {title}" for title in unknown)
    text, label = f"{text}, makes online {_moved(value)}", named[1]
    if label.low is None or label.high is None:
        return Part(
            "effect", value, se, None, None, True, f"{text}; missing outcomes leave it without limits."
        )
    low, high = value - label.high - z * se, value - label.low + z * se
    text += "." if low > 0 or high < 0 else ", which noise and missing outcomes could explain."
    return Part("effect", value, se, low, high, True, text)


def _usable(bias: Bias) -> bool:
    # Squares have to stay finite; NaN is not below anything.
    return (
        all(abs(n) < 1e150 for n in asdict(bias).values()) and min(bias.control_se, bias.challenger_se) >= 0
    )


def _moved(value: float) -> str:
    side = "worse" if value > 0 else "better"
    return f"{abs(value):.3g} {side} for the challenger" if value else "no different"


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None
