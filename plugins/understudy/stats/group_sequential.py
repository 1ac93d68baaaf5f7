"""How often a plan with several looks crosses its bounds: recursive numerical integration.

Source: Armitage, McPherson, Rowe (1969), JRSS A 132:235. The score ``S_k = Z_k sqrt(t_k)`` is a Brownian motion
with drift, observed at the information levels ``t_k``. Its density while no bound was crossed is carried from
look to look by one convolution with a normal kernel; what leaves the region is the crossing probability.

It is exact where a simulation has noise, and cheap for a few hundred looks. Decisions under continuous
peeking do not come from here; they use confidence sequences. Planning does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.polynomial.legendre import leggauss
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

__all__ = ["Crossing", "crossing"]

Array = NDArray[np.float64]

# The grid must be finer than one step of the motion; sizes are powers of two so that few rules are made.
_NODES, _MOST_NODES = 64, 1024
# Where a side has no bound, paths further than this many standard deviations out are too rare to count.
_FAR = 9.0


@dataclass(frozen=True, eq=False)
class Crossing:
    """Probabilities of first crossing a bound, per look.

    Attributes:
        information: information level of each look, in the unit in which z has drift ``effect * sqrt(t)``.
        upper: probability that the first crossing happens at this look, through the upper bound.
        lower: the same through the lower bound.
    """

    information: Array
    upper: Array
    lower: Array

    @property
    def total(self) -> float:
        """Probability of any crossing."""
        return float(self.upper.sum() + self.lower.sum())


def crossing(
    information: ArrayLike, upper: ArrayLike, lower: ArrayLike | None = None, effect: float = 0.0
) -> Crossing:
    """Return when z first lies above ``upper`` or below ``lower``.

    Args:
        information: increasing positive levels, one per look (for two equal arms ``n / (2 sd^2)`` with n per arm).
        upper: bound on z at each look; one number for all, or inf for none.
        lower: bound below; None mirrors the upper one, ``-inf`` is no bound.
        effect: true difference; z at level t has mean ``effect * sqrt(t)``.

    Raises:
        ValueError: levels that are not increasing and positive, a lower bound above the upper, or anything NaN.
    """
    t = np.atleast_1d(np.asarray(information, dtype=float))
    top = np.broadcast_to(np.asarray(upper, dtype=float), t.shape)
    bottom = -top if lower is None else np.broadcast_to(np.asarray(lower, dtype=float), t.shape)
    increasing = t.ndim == 1 and t.size > 0 and np.isfinite(t).all() and t[0] > 0 and (np.diff(t) > 0).all()
    if not increasing:
        raise ValueError("information levels must be finite, positive and increasing")
    if not (math.isfinite(effect) and (bottom < top).all()):
        raise ValueError("bounds must not be NaN, each lower one below its upper one, and the effect finite")
    root, steps = np.sqrt(t), np.sqrt(np.diff(t, prepend=0.0))
    up, down = np.zeros(t.size), np.zeros(t.size)
    nodes, density = np.zeros(1), np.ones(1)  # all mass at the start
    for k in range(t.size):
        step = steps[k]
        mean = nodes + effect * step**2
        up[k] = density @ ndtr((mean - top[k] * root[k]) / step)
        down[k] = density @ ndtr((bottom[k] * root[k] - mean) / step)
        low = max(bottom[k] * root[k], effect * t[k] - _FAR * root[k])
        high = max(min(top[k] * root[k], effect * t[k] + _FAR * root[k]), low)
        x, w = _rule((high - low) / min(steps[k : k + 2]))
        nodes = (high + low) / 2 + (high - low) / 2 * x
        distance = (nodes[:, None] - mean[None, :]) / step
        kernel = np.exp(-0.5 * distance**2) / (step * math.sqrt(2 * math.pi))
        density = (kernel @ density) * w * (high - low) / 2
    return Crossing(t, up, down)


def _rule(width: float) -> tuple[Array, Array]:
    """Return nodes and weights on [-1, 1] for a region this many steps wide."""
    wanted = min(max(1.5 * width, _NODES), _MOST_NODES)
    return _gauss(2 ** math.ceil(math.log2(wanted)))


@lru_cache(maxsize=8)
def _gauss(size: int) -> tuple[Array, Array]:
    x, w = leggauss(size)
    return x, w
