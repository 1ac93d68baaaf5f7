"""Many questions at once: which answers stand when the share of false ones is to stay below alpha.

Sources: e-BH, Wang and Ramdas (2022), JRSS B 84:822: reject the i largest e-values for the largest i with
``i e_(i) / m >= 1 / alpha``; valid under any dependence, so across cohorts and looks. Benjamini and Hochberg
(1995), JRSS B 57:289; Benjamini and Yekutieli (2001), Ann. Stat. 29:1165, for p-values of one look.

An undetermined entry (NaN) counts as a question asked and is never rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from understudy.stats.plain import plain_fields

__all__ = ["Discoveries", "benjamini_hochberg", "benjamini_yekutieli", "e_bh"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Discoveries:
    """Which of m questions are answered, per entry of the leading axes.

    Attributes:
        rejected: whether the null is rejected, shape [..., m].
        adjusted: smallest alpha at which it would be, shape [..., m]; NaN where undetermined.
        count: number rejected, shape [...].
        alpha: bound on the expected share of false ones among the rejected.
        method: "e-BH", "BH" or "BY".
    """

    rejected: NDArray[np.bool_]
    adjusted: Array
    count: NDArray[np.int64]
    alpha: float
    method: str

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary; undetermined entries are null."""
        return plain_fields(self)


def e_bh(log_e: ArrayLike, alpha: float) -> Discoveries:
    """Return the discoveries of e-BH from log e-values [..., m]; infinity is the strongest evidence there is.

    Raises:
        ValueError: alpha outside (0, 1).
    """
    values = _questions(log_e, alpha)
    # An e-value is a p-value's inverse as far as the procedure goes: m / (i e_(i)) <= alpha.
    with np.errstate(over="ignore"):
        return _step_up(-values, alpha, 1.0, "e-BH")


def benjamini_hochberg(p: ArrayLike, alpha: float) -> Discoveries:
    """Return the discoveries of Benjamini and Hochberg from p-values [..., m].

    Raises:
        ValueError: alpha outside (0, 1), or a p-value outside [0, 1].
    """
    return _step_up(_log_p(p, alpha), alpha, 1.0, "BH")


def benjamini_yekutieli(p: ArrayLike, alpha: float) -> Discoveries:
    """Return the same under any dependence: alpha divided by ``1 + 1/2 + ... + 1/m``.

    Raises:
        ValueError: alpha outside (0, 1), or a p-value outside [0, 1].
    """
    log_p = _log_p(p, alpha)
    return _step_up(log_p, alpha, float((1 / np.arange(1, log_p.shape[-1] + 1)).sum()), "BY")


def _step_up(log_p: Array, alpha: float, penalty: float, method: str) -> Discoveries:
    m = log_p.shape[-1]
    order = np.argsort(log_p, axis=-1, kind="stable")  # NaN goes last
    ordered = np.take_along_axis(log_p, order, axis=-1)
    raw = ordered + np.log(m * penalty / np.arange(1, m + 1))
    # Each takes the best of what comes after it; a NaN at the end must not spread to the front.
    best = np.minimum.accumulate(np.where(np.isnan(raw), np.inf, raw)[..., ::-1], axis=-1)[..., ::-1]
    sorted_level = np.where(np.isnan(raw), np.nan, np.exp(np.minimum(best, 0.0)))
    adjusted = np.empty_like(sorted_level)
    np.put_along_axis(adjusted, order, sorted_level, axis=-1)
    # Rounding of the logarithm must not lose an answer that lies exactly on the line.
    rejected = adjusted <= alpha * (1 + 1e-12)
    return Discoveries(rejected, adjusted, rejected.sum(axis=-1), alpha, method)


def _log_p(p: ArrayLike, alpha: float) -> Array:
    values = _questions(p, alpha)
    if ((values < 0) | (values > 1)).any():
        raise ValueError("a p-value lies outside [0, 1]")
    with np.errstate(divide="ignore"):
        return np.log(values)


def _questions(values: ArrayLike, alpha: float) -> Array:
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    return np.atleast_1d(np.asarray(values, dtype=float))
