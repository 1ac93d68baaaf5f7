"""Has a column moved? Population stability index with its null distribution.

PSI alone means nothing without the sample sizes: without any drift it follows ``(1/n_ref + 1/n_cur)
chi2(B-1)`` (Yurdakul and Naranjo 2020). Gate on the size of the shift and on its significance together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, chdtri

__all__ = ["Drift", "psi", "psi_of_counts"]

_FLOOR = 1e-4


@dataclass(frozen=True)
class Drift:
    """Size and significance of a shift.

    Attributes:
        psi: population stability index; None if undetermined.
        critical: value that PSI exceeds with probability alpha when nothing has moved.
        p: p-value of "nothing has moved".
        significant: whether PSI is above the critical value.
        bins: number of bins.
        n_reference: rows of the reference.
        n_current: rows of the current window.
        reason: why it is undetermined; None otherwise.
    """

    psi: float | None
    critical: float | None
    p: float | None
    significant: bool
    bins: int
    n_reference: int
    n_current: int
    reason: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-safe dictionary."""
        return asdict(self)


def psi(reference: ArrayLike, current: ArrayLike, bins: int = 10, alpha: float = 0.05) -> Drift:
    """Return the PSI of a numeric column, binned at the reference's quantiles with open ends.

    Rows that are not finite numbers form a bin of their own, so that a feed that starts to send blanks shows
    up.
    """
    ref, cur = np.asarray(reference, dtype=float).ravel(), np.asarray(current, dtype=float).ravel()
    finite = ref[np.isfinite(ref)]
    inner = np.unique(np.quantile(finite, np.linspace(0, 1, bins + 1)[1:-1])) if finite.size else np.empty(0)
    return psi_of_counts(_binned(ref, inner), _binned(cur, inner), alpha)


def psi_of_counts(reference: ArrayLike, current: ArrayLike, alpha: float = 0.05) -> Drift:
    """Return the PSI of counts per category or bin; categories empty on both sides are dropped."""
    ref, cur = np.asarray(reference, dtype=float), np.asarray(current, dtype=float)
    if ref.shape != cur.shape:
        raise ValueError(f"{ref.size} reference bins and {cur.size} current bins; both need the same bins")
    seen = (ref + cur) > 0
    ref, cur = ref[seen], cur[seen]
    sizes = int(ref.sum()), int(cur.sum())
    if min(sizes) == 0:
        return Drift(None, None, None, False, len(ref), *sizes, "no_rows")
    if len(ref) < 2:
        return Drift(None, None, None, False, len(ref), *sizes, "one_bin")
    a, b = (np.maximum(side / side.sum(), _FLOOR) for side in (ref, cur))
    value = float(((b - a) * np.log(b / a)).sum())
    scale = 1 / sizes[0] + 1 / sizes[1]
    critical = scale * float(chdtri(len(ref) - 1, alpha))
    p = float(chdtrc(len(ref) - 1, value / scale))
    return Drift(value, critical, p, value > critical, len(ref), *sizes)


def _binned(values: NDArray[np.float64], inner: NDArray[np.float64]) -> NDArray[np.int64]:
    good = np.isfinite(values)
    counts = np.bincount(np.searchsorted(inner, values[good], side="left"), minlength=inner.size + 1)
    return np.append(counts, int((~good).sum()))
