"""Do predicted probabilities mean what they say? Expected calibration error, with slope and intercept.

ECE is biased upwards in small samples, so it is never reported alone. Slope and intercept come from the
logistic regression of the outcome on the predicted log-odds; perfectly calibrated is slope 1, intercept 0
(Cox 1958).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

__all__ = ["Calibration", "calibration"]

_CLIP = 1e-6


@dataclass(frozen=True)
class Calibration:
    """Calibration of one model on labelled rows.

    Attributes:
        ece: expected calibration error, 0 to 1; None without usable rows.
        slope: slope on the log-odds; None if it cannot be fitted.
        slope_se: its standard error.
        intercept: intercept on the log-odds; None if it cannot be fitted.
        intercept_se: its standard error.
        rows: usable rows.
        non_finite: rows left out.
        bins: per occupied bin (lower edge, upper edge, rows, mean prediction, mean outcome).
        reason: why slope and intercept are missing; None otherwise.
    """

    ece: float | None
    slope: float | None
    slope_se: float | None
    intercept: float | None
    intercept_se: float | None
    rows: int
    non_finite: int
    bins: tuple[tuple[float, float, int, float, float], ...]
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def calibration(prediction: ArrayLike, outcome: ArrayLike, bins: int = 10) -> Calibration:
    """Return ECE over equal-width bins (lo, hi], zero in the first, with calibration slope and intercept.

    Rows whose prediction is not within [0, 1] or whose outcome is neither 0 nor 1 are left out and counted.
    """
    p, y = np.asarray(prediction, dtype=float), np.asarray(outcome, dtype=float)
    if p.shape != y.shape:
        raise ValueError(f"shapes {p.shape} and {y.shape}: one prediction per outcome")
    with np.errstate(invalid="ignore"):
        good = np.isfinite(p) & (p >= 0) & (p <= 1) & ((y == 0) | (y == 1))
    left_out = int((~good).sum())
    p, y = p[good], y[good]
    if not p.size:
        return Calibration(None, None, None, None, None, 0, left_out, (), "no_rows")
    edges = np.linspace(0, 1, bins + 1)
    code = np.clip(np.searchsorted(edges, p, side="left") - 1, 0, bins - 1)
    count = np.bincount(code, minlength=bins)
    table = tuple(
        (
            float(edges[i]),
            float(edges[i + 1]),
            int(count[i]),
            float(p[code == i].mean()),
            float(y[code == i].mean()),
        )
        for i in np.flatnonzero(count)
    )
    ece = float(sum(rows * abs(seen - said) for _, _, rows, said, seen in table) / p.size)
    fit = _logistic(logit(np.clip(p, _CLIP, 1 - _CLIP)), y)
    if isinstance(fit, str):
        return Calibration(ece, None, None, None, None, int(p.size), left_out, table, fit)
    return Calibration(ece, fit[0], fit[1], fit[2], fit[3], int(p.size), left_out, table)


def _logistic(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, float] | str:
    """Fit by Newton's method: (slope, its se, intercept, its se), or a word for why there is no fit."""
    if y.min() == y.max():
        return "one_class"
    if np.ptp(x) < 1e-12:
        return "constant_prediction"
    design = np.column_stack([np.ones_like(x), x])
    beta = np.array([0.0, 1.0])
    for _ in range(50):
        mean = expit(design @ beta)
        information = design.T @ (design * (mean * (1 - mean))[:, None])
        if not np.isfinite(information).all() or np.linalg.cond(information) > 1e12:
            return "no_fit"
        step = np.linalg.solve(information, design.T @ (y - mean))
        # Shorter steps far from the optimum keep the iteration from running away.
        beta = beta + step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-300))
        if np.abs(beta).max() > 100:
            return "separated"
        if np.abs(step).max() < 1e-10:
            errors = np.sqrt(np.diag(np.linalg.inv(information)))
            return float(beta[1]), float(errors[1]), float(beta[0]), float(errors[0])
    return "no_fit"
