"""Sequential sample-ratio mismatch: are the units split as the shares say, at any look?

Source: Lindon and Malek, NeurIPS 2022, arXiv 2011.03567: a Bayes factor of a Dirichlet alternative centred on
    the shares against the shares themselves, ``log BF = sum lgamma(K t_i + c_i) - lgamma(K + sum c) - sum
    lgamma(K t_i) + lgamma(K) - sum c_i ln t_i``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.special import gammaln

__all__ = ["Split", "SplitTest", "log_bayes_factor", "sequential_srm"]

CONCENTRATION = 100.0


@dataclass(frozen=True)
class Split:
    """Distinct units per arm while the shares stayed in one proportion.

    Attributes:
        stages: stages over which the units were counted, each unit once.
        counts: units per arm.
        shares: planned shares per arm, in any scale.
    """

    stages: tuple[int, ...]
    counts: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class SplitTest:
    """Result of the test over all parts.

    Attributes:
        log_bf: log Bayes factor; None when it is infinite (units in an arm that gets none).
        p: anytime-valid p-value, ``min(1, exp(-log_bf))``.
        alarm: whether the split is wrong at level alpha.
        alpha: budget over all looks and parts.
        n: units counted.
        reason: stable word, None without an alarm.
    """

    log_bf: float | None
    p: float
    alarm: bool
    alpha: float
    n: int
    reason: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def log_bayes_factor(
    counts: Iterable[float], shares: Iterable[float], concentration: float = CONCENTRATION
) -> float:
    """Return the log Bayes factor of one part; infinity for units in an arm whose share is zero.

    Raises:
        ValueError: lengths differ, or a count or share is negative or not finite.
    """
    c, t = np.asarray(tuple(counts), dtype=float), np.asarray(tuple(shares), dtype=float)
    if c.shape != t.shape:
        raise ValueError(f"{c.size} counts for {t.size} shares; both need one value per arm")
    if not (np.isfinite(c).all() and np.isfinite(t).all() and (c >= 0).all() and (t >= 0).all()):
        raise ValueError(f"counts {c.tolist()} and shares {t.tolist()} must be finite and not negative")
    if c.sum() == 0:
        return 0.0
    if (c[t == 0] > 0).any():
        return math.inf
    c, t = c[t > 0], t[t > 0] / t.sum()
    prior = concentration * t
    value = gammaln(prior + c).sum() - gammaln(concentration + c.sum()) - gammaln(prior).sum()
    return float(value + gammaln(concentration) - (c * np.log(t)).sum())


def sequential_srm(parts: Iterable[Split], alpha: float, concentration: float = CONCENTRATION) -> SplitTest:
    """Test all parts together: a fresh sum per proportion of shares, added up, under one alpha.

    Raises:
        ValueError: alpha outside (0, 1), or unusable counts or shares.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha!r}; it must lie between 0 and 1")
    parts = tuple(parts)
    total = math.fsum(log_bayes_factor(part.counts, part.shares, concentration) for part in parts)
    n = sum(sum(part.counts) for part in parts)
    if math.isinf(total):
        return SplitTest(None, 0.0, True, alpha, n, "units_in_an_arm_without_share")
    alarm = total >= -math.log(alpha)
    return SplitTest(
        total, math.exp(-max(total, 0.0)), alarm, alpha, n, "split_differs_from_shares" if alarm else None
    )
