"""What one event costs under each metric, on the harm scale: more is worse, whatever the metric."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["INDICATOR_KINDS", "LABEL_KINDS", "SERVED_KINDS", "row_loss"]

LABEL_KINDS = frozenset({"brier", "log_loss", "accuracy"})
SERVED_KINDS = frozenset({"error_rate", "latency_over"})
# Each event is 0 or 1, so that "never happened" still bounds the rate.
INDICATOR_KINDS = SERVED_KINDS

_CLIP = 1e-6


def row_loss(kind: str, prediction: ArrayLike, outcome: ArrayLike) -> NDArray[np.float64]:
    """Return the loss of each row on the harm scale; NaN where prediction or outcome is not a finite number.

    Args:
        kind: "brier" ``(p - y)^2``; "log_loss" with p clipped to [1e-6, 1 - 1e-6]; "accuracy" is negated, so
            -1 for a correct answer at threshold 0.5 and 0 for a wrong one.
        prediction: probability of the positive class.
        outcome: 0 or 1.

    Raises:
        ValueError: a kind that needs more than prediction and outcome, or an unknown one.
    """
    p, y = np.asarray(prediction, dtype=float), np.asarray(outcome, dtype=float)
    known = np.isfinite(p) & np.isfinite(y)
    p, y = np.where(known, p, 0.5), np.where(known, y, 0.0)
    if kind == "brier":
        loss = (p - y) ** 2
    elif kind == "log_loss":
        clipped = np.clip(p, _CLIP, 1 - _CLIP)
        loss = -(y * np.log(clipped) + (1 - y) * np.log1p(-clipped))
    elif kind == "accuracy":
        loss = -((p >= 0.5) == (y >= 0.5)).astype(float)
    else:
        raise ValueError(f"kind is {kind!r}; a loss per labelled row exists for {sorted(LABEL_KINDS)}")
    return np.where(known, loss, np.nan)
