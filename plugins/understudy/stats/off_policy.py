"""What would another policy have earned? Off-policy value from logged actions and their propensities.

With weights ``w = pi_e / p_log``, rewards r and, if there is one, a reward model q:

* IPS ``mean(w r)`` (Horvitz and Thompson 1952)
* SNIPS ``sum(w r) / sum(w)`` (Swaminathan and Joachims 2015, NeurIPS), se ``sqrt(sum w^2 (r - SNIPS)^2) / sum(w)``
* DR ``mean(sum_a pi_e(a) q(a) + w (r - q))`` (Dudik, Erhan, Langford, Li 2014, Stat. Sci. 29:485)
* DM ``mean(sum_a pi_e(a) q(a))``, the model alone, only to be compared with DR

Standard errors of IPS and DR come from the terms per row, summed per unit when units are given. The effective sample
size is ``(sum w)^2 / sum w^2`` (Kish 1965). Without support there is no value, only the reason.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

__all__ = ["MIN_EFFECTIVE", "OffPolicy", "Value", "off_policy"]

Array = NDArray[np.float64]

MIN_EFFECTIVE = 100.0
# Standard errors by which the mean weight may miss one, and the model may miss the doubly robust value.
_TOLERATED = 3.0
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Value:
    """Estimated mean reward per row with its interval (normal, looked at once)."""

    estimate: float
    se: float
    lower: float
    upper: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True)
class OffPolicy:
    """Value of the target policy, or the reason why there is none.

    Attributes:
        refused: stable word; None when the log supports an answer. Every value is None with it.
        ips: inverse propensity score estimate.
        snips: self-normalised estimate.
        dr: doubly robust estimate; None without a model.
        dm: estimate by the model alone; None without a model. Never decide on it.
        model_disagrees: model alone and DR differ by more than 3 standard errors of their difference; None
            without a model.
        rows: logged rows.
        units: independent units behind the standard errors.
        ess: effective sample size of the weights; None if there are no weights.
        mean_weight: mean of the weights; one on average if the propensities are right and support is complete.
        mean_weight_se: its standard error.
        largest_weight: the row that counts most.
        alpha: error budget of each interval.
    """

    refused: str | None
    ips: Value | None
    snips: Value | None
    dr: Value | None
    dm: Value | None
    model_disagrees: bool | None
    rows: int
    units: int
    ess: float | None
    mean_weight: float | None
    mean_weight_se: float | None
    largest_weight: float | None
    alpha: float

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class _Log:
    reward: Array
    action: NDArray[np.int64]
    propensity: Array
    target: Array
    logging: Array | None
    model: Array | None
    units: NDArray[np.intp]


def off_policy(
    reward: ArrayLike,
    action: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    *,
    logging: ArrayLike | None = None,
    model: ArrayLike | None = None,
    units: ArrayLike | None = None,
    alpha: float = 0.05,
) -> OffPolicy:
    """Return the value of the target policy on the logged traffic.

    Args:
        reward: one per row; only rows whose reward is known.
        action: index of the logged action per row, 0 to A - 1.
        propensity: probability with which the logged action was taken, recorded at serving time.
        target: probability of every action under the target policy, shape (rows, A).
        logging: probability of every action under the logged policy, shape (rows, A), if it was recorded; makes
            the test of support exact. Otherwise an action has support if it was logged at all.
        model: predicted reward of every action, shape (rows, A), fitted on other rows.
        units: randomised unit of each row; every row for itself when left out.
        alpha: error budget of each interval.

    Raises:
        ValueError: shapes do not belong together, or alpha is outside (0, 1).
    """
    log = _read(reward, action, propensity, target, logging, model, units)
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    reason = _unusable(log) or _unsupported(log)
    if reason:
        return _refuse(log, reason, alpha)
    rows = np.arange(log.reward.size)
    chosen = log.target[rows, log.action]
    with np.errstate(over="ignore", invalid="ignore"):
        weight = chosen / log.propensity
        ess = _effective(weight)
        mean, mean_se = float(weight.mean()), _standard_error(weight, log.units)
    reason = _weights_refused(ess, mean, mean_se)
    facts = (ess, mean, mean_se, float(weight.max()))
    if reason:
        return _refuse(log, reason, alpha, facts)
    return _values(log, weight, facts, alpha)


def _values(log: _Log, weight: Array, facts: tuple[float, float, float, float], alpha: float) -> OffPolicy:
    rows = np.arange(log.reward.size)
    with np.errstate(over="ignore", invalid="ignore"):
        gained = weight * log.reward
        snips = float(gained.sum() / weight.sum())
        residual = weight * (log.reward - snips)
        estimates = {
            "ips": (float(gained.mean()), _standard_error(gained, log.units)),
            "snips": (snips, _root_sum(residual, log.units) / float(weight.sum())),
        }
        disagrees = None
        if log.model is not None:
            expected = (log.target * log.model).sum(axis=1)
            correction = weight * (log.reward - log.model[rows, log.action])
            estimates["dr"] = (
                float((expected + correction).mean()),
                _standard_error(expected + correction, log.units),
            )
            estimates["dm"] = float(expected.mean()), _standard_error(expected, log.units)
            off, noise = float(correction.mean()), _standard_error(correction, log.units)
            disagrees = abs(off) > _TOLERATED * noise + _ROUNDING * abs(estimates["dm"][0])
    if not all(math.isfinite(number) for pair in estimates.values() for number in pair):
        return _refuse(log, "values_too_large", alpha)
    half = -float(ndtri(alpha / 2))
    found = {name: Value(v, se, v - half * se, v + half * se) for name, (v, se) in estimates.items()}
    return OffPolicy(
        None, found["ips"], found["snips"], found.get("dr"), found.get("dm"), disagrees,
        log.reward.size, _count(log.units), *facts, alpha,
    )  # fmt: skip


def _read(
    reward: ArrayLike,
    action: ArrayLike,
    propensity: ArrayLike,
    target: ArrayLike,
    logging: ArrayLike | None,
    model: ArrayLike | None,
    units: ArrayLike | None,
) -> _Log:
    """Turn the arguments into arrays that belong together."""
    r, p, t = (np.asarray(part, dtype=float) for part in (reward, propensity, target))
    a = np.asarray(action)
    if t.size == 0:
        t = t.reshape(0, max(t.shape[-1], 1))
    others = [None if part is None else np.asarray(part, dtype=float) for part in (logging, model)]
    if t.size == 0:
        others = [None if part is None else part.reshape(t.shape) for part in others]
    u = np.arange(r.size) if units is None else np.asarray(units)
    if r.ndim != 1 or not r.shape == p.shape == a.shape == u.shape or t.ndim != 2 or len(t) != len(r):
        raise ValueError(
            f"shapes {r.shape}, {a.shape}, {p.shape}, {u.shape}, {t.shape}: reward, action, propensity and units "
            "need one value per row, target one row of probabilities per row"
        )
    if any(part is not None and part.shape != t.shape for part in others):
        raise ValueError(f"logging and model need the shape of target, {t.shape}")
    a = a.astype(np.int64) if a.size else np.empty(0, dtype=np.int64)
    if a.size and not (a.min() >= 0 and a.max() < t.shape[1]):
        raise ValueError(f"actions go from {a.min()} to {a.max()}; target has {t.shape[1]} columns")
    return _Log(r, a, p, t, others[0], others[1], np.unique(u, return_inverse=True)[1])


def _unusable(log: _Log) -> str | None:
    """Reason why the numbers themselves cannot be used."""
    if not log.reward.size:
        return "no_rows"
    if _count(log.units) < 2:
        return "too_few_units"
    tests = {
        "reward_missing": np.isfinite(log.reward).all(),
        "propensity_missing": np.isfinite(log.propensity).all(),
        "propensity_not_positive": (log.propensity > 0).all(),
        "propensity_above_one": (log.propensity <= 1 + _ROUNDING).all(),
        "target_not_a_distribution": _is_distribution(log.target),
        "logging_not_a_distribution": log.logging is None or _is_distribution(log.logging),
        "model_missing": log.model is None or np.isfinite(log.model).all(),
    }
    return next((reason for reason, fine in tests.items() if not fine), None)


def _unsupported(log: _Log) -> str | None:
    """Reason when the target acts where the log never did, or the two records of the log contradict each other."""
    if log.logging is None:
        logged = np.bincount(log.action, minlength=log.target.shape[1]) > 0
        return "no_support" if (log.target[:, ~logged] > 0).any() else None
    if ((log.target > 0) & (log.logging <= 0)).any():
        return "no_support"
    recorded = log.logging[np.arange(log.reward.size), log.action]
    return None if np.allclose(recorded, log.propensity, rtol=1e-6, atol=0) else "propensities_contradict"


def _weights_refused(ess: float, mean: float, mean_se: float) -> str | None:
    if not all(map(math.isfinite, (ess, mean, mean_se))):
        return "weights_not_finite"
    if ess < MIN_EFFECTIVE:
        return "effective_sample_too_small"
    if abs(mean - 1) > _TOLERATED * mean_se + _ROUNDING:
        return "weights_do_not_average_one"
    return None


def _refuse(
    log: _Log, reason: str, alpha: float, facts: tuple[float, float, float, float] | None = None
) -> OffPolicy:
    known = [value if math.isfinite(value) else None for value in facts] if facts else [None] * 4
    units = _count(log.units)
    return OffPolicy(
        reason,
        None,
        None,
        None,
        None,
        None,
        log.reward.size,
        units,
        known[0],
        known[1],
        known[2],
        known[3],
        alpha,
    )


def _effective(weight: Array) -> float:
    """Kish's effective sample size; zero if every weight is."""
    largest = float(weight.max())
    if largest == 0:
        return 0.0
    relative = weight / largest
    return float(relative.sum() ** 2 / (relative**2).sum())


def _standard_error(terms: Array, units: NDArray[np.intp]) -> float:
    """Standard error of the mean of the terms, with units as clusters; n / (n - 1) for the lost mean."""
    count = _count(units)
    return math.sqrt(count / (count - 1)) * _root_sum(terms - terms.mean(), units) / terms.size


def _root_sum(terms: Array, units: NDArray[np.intp]) -> float:
    """Square root of the summed squares of the units' totals."""
    return float(np.linalg.norm(np.bincount(units, terms)))


def _count(units: NDArray[np.intp]) -> int:
    return int(units.max()) + 1 if units.size else 0


def _is_distribution(table: Array) -> bool:
    with np.errstate(invalid="ignore"):
        return bool((table >= 0).all() and np.allclose(table.sum(axis=1), 1, rtol=0, atol=1e-6))
