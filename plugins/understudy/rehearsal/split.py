"""The sample-ratio test of many runs at once; the same test as `understudy.stats.srm`."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from understudy.stats.srm import CONCENTRATION

__all__ = ["split_is_sound"]

Array = NDArray[np.float64]


def split_is_sound(
    counts: Array, challenger: Array, control: Array, alpha: float = 0.001
) -> NDArray[np.bool_]:
    """Tell the runs whose arms are split as planned.

    Args:
        counts: (run, stage, arm) distinct units, control first; a unit counts once while the proportion lasts.
        challenger: (stage,) planned share of the challenger.
        control: (stage,) planned share of control.
        alpha: Error budget over all looks.
    """
    shares = np.stack([control, challenger], axis=-1)[: counts.shape[1]]
    shares = shares / shares.sum(axis=-1, keepdims=True)
    total = np.zeros(counts.shape[0])
    begin = 0
    for stage in range(1, counts.shape[1] + 1):
        if stage < counts.shape[1] and abs(shares[stage, 1] - shares[begin, 1]) < 1e-9:
            continue
        total += _log_bayes_factor(counts[:, begin:stage].sum(axis=1), shares[begin])
        begin = stage
    return np.asarray(total < -math.log(alpha))


def _log_bayes_factor(counts: Array, shares: Array) -> Array:
    prior = CONCENTRATION * shares
    n = counts.sum(axis=-1)
    value = gammaln(prior + counts).sum(axis=-1) - gammaln(CONCENTRATION + n) - gammaln(prior).sum()
    return np.asarray(value + gammaln(CONCENTRATION) - (counts * np.log(shares)).sum(axis=-1))
