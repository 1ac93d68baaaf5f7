"""Rare events, counted: do they fall on the arms as the exposure does, at any look?

Source: Lindon and Malek, NeurIPS 2022, arXiv 2011.03567. Given that an event happens, it belongs to the
challenger with probability t, the challenger's share of the exposure, if both arms fail alike. Against that
stands a Beta(K t, K (1-t)) mixture of other shares; the Bayes factor needs no approximation, so it holds with
one event as well as with thousands, and with a control that never fails (0 against many is the clearest alarm
of all, not a division by zero).

One-sided, the mixture is cut to shares above t. Its Bayes factor is the two-sided one times the posterior
probability of a share above t over the prior one. It is a supermartingale whenever the challenger's true share
of events is at most t: the expected factor of one event, ``q s/t + (1-q) (1-s)/(1-t)`` for an alternative s > t,
grows with q and is 1 at q = t. So the alarm "the challenger has more" is wrong with probability at most alpha
over all looks, also when the challenger is better.

Count things that fail independently: units with at least one error, or errors where units do not repeat. Shares
must be known before the events that they explain: planned shares, or exposure sizes whose proportion stays
put. When the proportion changes start a new part; parts add up under one alpha.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaincc, betaln, gammaln

from understudy.stats.sequences import Sided

__all__ = ["CONCENTRATION", "EventSplit", "Part", "event_split", "split_log_bayes_factor"]

Array = NDArray[np.float64]

CONCENTRATION = 10.0
_SMALLEST = 1e-290
_TERMS = 64


@dataclass(frozen=True)
class Part:
    """Events while the exposure stood in one proportion.

    Attributes:
        control: events of the control arm.
        challenger: events of the challenger arm.
        control_exposure: its planned share, or its size (requests, units), in any scale.
        challenger_exposure: the same of the challenger.
    """

    control: float
    challenger: float
    control_exposure: float
    challenger_exposure: float


@dataclass(frozen=True)
class EventSplit:
    """Result over all parts.

    Attributes:
        log_bf: log Bayes factor; None when infinite (events without exposure) or undetermined.
        p: anytime-valid p-value, ``min(1, exp(-log_bf))``.
        alarm: whether the events do not fall as the exposure does (one-sided: too many on the challenger).
        direction: "more" or "fewer" events on the challenger than its share; None when neither.
        control: events of the control arm.
        challenger: events of the challenger arm.
        expected: events that the challenger's share would have given it; None if undetermined.
        sided: "two", or "one" for harm only.
        alpha: budget over all looks and parts.
        determined: False means "the data cannot say"; no alarm then means nothing.
        reason: stable word for an alarm or for why it is undetermined; None for an ordinary quiet result.
    """

    log_bf: float | None
    p: float
    alarm: bool
    direction: Literal["more", "fewer"] | None
    control: float
    challenger: float
    expected: float | None
    sided: Sided
    alpha: float
    determined: bool
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def split_log_bayes_factor(
    counts: ArrayLike, exposure: ArrayLike, sided: Sided = "two", concentration: float = CONCENTRATION
) -> Array:
    """Return the log Bayes factor of each part, vectorised: counts and exposure [..., 2] as (control, challenger).

    Infinity for events in an arm without exposure (one-sided: minus infinity when only the control has them);
    0 without events; NaN for values that are not finite.

    Raises:
        ValueError: the last axis is not 2, a count or exposure is negative, or the concentration is not positive.
    """
    c, size = np.asarray(counts, dtype=float), np.asarray(exposure, dtype=float)
    if c.shape[-1:] != (2,) or size.shape[-1:] != (2,):
        raise ValueError(f"shapes {c.shape} and {size.shape}: the last axis must be (control, challenger)")
    if (c < 0).any() or (size < 0).any() or not (math.isfinite(concentration) and concentration > 0):
        raise ValueError("counts and exposure must not be negative, and the concentration must be positive")
    known = np.isfinite(c).all(axis=-1), np.isfinite(size).all(axis=-1)
    c = np.where(known[0][..., None], c, 0.0)
    size = np.where(known[1][..., None], size, 1.0)
    shared = np.asarray((size > 0).all(axis=-1))
    largest = np.maximum(size.max(axis=-1, keepdims=True), 1e-300)
    weight = np.where(shared[..., None], size / largest, 1.0)
    t = weight / weight.sum(axis=-1, keepdims=True)
    prior = concentration * t  # in the shape of the exposure, which often is the same for all counts
    value = (gammaln(prior + c) - gammaln(prior) - c * np.log(t)).sum(axis=-1)
    value = value + gammaln(concentration) - gammaln(concentration + c.sum(axis=-1))
    if sided == "one":
        value = value + _log_share_above(t, prior + c) - _log_share_above(t, prior)
    value = np.where(shared, value, _without_exposure(c, size, sided))
    return np.where(known[0] & known[1], np.where(c.sum(axis=-1) == 0, 0.0, value), np.nan)


def event_split(
    parts: Iterable[Part], alpha: float, sided: Sided = "two", concentration: float = CONCENTRATION
) -> EventSplit:
    """Test all parts together: a fresh sum per part, added up, under one alpha.

    Args:
        parts: counts and exposure, one entry per proportion of the exposure.
        alpha: budget over all looks.
        sided: "two" for any difference, "one" for "the challenger has more".
        concentration: K, how close to the null the alternatives lie; 10 for errors, 100 for unit counts.

    Raises:
        ValueError: alpha outside (0, 1), a negative count or exposure.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    rows = [(p.control, p.challenger, p.control_exposure, p.challenger_exposure) for p in parts]
    table = np.array(rows, dtype=float).reshape(-1, 4)
    values = split_log_bayes_factor(table[:, :2], table[:, 2:], sided, concentration)
    control, challenger = (float(np.nansum(table[:, i])) for i in (0, 1))
    expected = _expected(table)
    bad = bool(np.isnan(values).any())
    if bad or not math.isfinite(control + challenger) or control + challenger == 0:
        reason = "not_a_number" if bad else "no_events"
        seen = [c if math.isfinite(c) else 0.0 for c in (control, challenger)]
        return EventSplit(None, 1.0, False, None, seen[0], seen[1], None, sided, alpha, False, reason)
    total = float(values.sum()) if not np.isposinf(values).any() else math.inf
    alarm = total >= -math.log(alpha)
    reason = "events_in_an_arm_without_exposure" if math.isinf(total) else "events_do_not_follow_exposure"
    return EventSplit(
        log_bf=total if math.isfinite(total) else None,
        p=math.exp(-max(total, 0.0)),
        alarm=alarm,
        direction=None if challenger == expected else "more" if challenger > expected else "fewer",
        control=control,
        challenger=challenger,
        expected=expected,
        sided=sided,
        alpha=alpha,
        determined=True,
        reason=reason if alarm else None,
    )


def _log_share_above(t: Array, beta: Array) -> Array:
    """Return the log probability that a Beta share of the challenger lies above its exposure."""
    control, challenger = beta[..., 0], beta[..., 1]
    tail = np.asarray(betaincc(challenger, control, t[..., 1]))
    deep = ~(tail > _SMALLEST)
    found = np.asarray(np.log(np.where(deep, 1.0, tail)))
    if deep.any():
        found[deep] = _log_deep_tail(
            np.broadcast_to(t[..., 0], deep.shape)[deep], control[deep], challenger[deep]
        )
    return found


def _log_deep_tail(x: Array, a: Array, b: Array) -> Array:
    """Return a lower bound of ``log I_x(a, b)`` far out in the tail, where the number itself is 0 in doubles.

    The first terms of ``x^a (1-x)^b / (a B(a, b)) * sum_k (a+b)_k / (a+1)_k x^k``; all are positive, so leaving out
    the rest can only weaken an alarm.
    """
    term = series = np.ones_like(x)
    for k in range(_TERMS):
        term = term * np.minimum((a + b + k) * x / (a + 1 + k), 1.0)
        series = series + term
    return np.asarray(a * np.log(x) + b * np.log1p(-x) - np.log(a) - betaln(a, b) + np.log(series))


def _without_exposure(c: Array, size: Array, sided: Sided) -> Array:
    """Return infinity where an arm without exposure has events, else 0: nothing can be compared."""
    stray = (c > 0) & (size == 0)
    return np.where(stray.any(axis=-1) if sided == "two" else stray[..., 1], np.inf, 0.0)


def _expected(table: Array) -> float:
    events, size = table[:, :2].sum(axis=1), table[:, 2:].sum(axis=1)
    with np.errstate(invalid="ignore"):
        share = np.divide(table[:, 3], size, out=np.zeros_like(size), where=size > 0)
    return float((events * share).sum())
