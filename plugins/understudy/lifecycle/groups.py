"""How far apart the groups of a cohort column are offline: right decisions and positive answers, version by version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from understudy.stats.proportions import group_gaps

__all__ = ["gaps"]

_MOST_GROUPS = 50
"""Columns with more groups than this have too many pairs for any of them to be told apart."""


def gaps(
    answers: Mapping[str, NDArray[np.float64]],
    labels: NDArray[np.float64],
    cohorts: Mapping[str, NDArray[Any]],
    alpha: float,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the gap between the groups of each column, with Newcombe's intervals for all pairs together.

    Args:
        answers: Predicted probabilities per version.
        labels: True outcomes, 0 or 1.
        cohorts: Columns that form groups.
        alpha: Error budget of a column.

    Returns:
        Per column and version ``right`` (share of right decisions) and ``positive`` (share of positive ones), each with
        ``gap``, ``lower`` and ``upper``; None where a group is too thin to tell.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column, values in cohorts.items():
        names, code = np.unique(np.asarray(values).astype(str), return_inverse=True)
        if 2 <= names.size <= _MOST_GROUPS:
            found[column] = {
                version: _of_version(scores, labels, names.tolist(), code, alpha)
                for version, scores in answers.items()
            }
    return found


def _of_version(
    scores: NDArray[np.float64],
    labels: NDArray[np.float64],
    names: list[str],
    code: NDArray[np.intp],
    alpha: float,
) -> dict[str, Any]:
    known = np.isfinite(scores) & np.isfinite(labels)
    positive = scores >= 0.5
    size = np.bincount(code[known], minlength=len(names))
    counted = {"right": positive == (labels >= 0.5), "positive": positive}
    told = {
        name: group_gaps(np.bincount(code[known], mask[known], len(names)), size, names, alpha)
        for name, mask in counted.items()
    }
    return {name: {"gap": gap.gap, "lower": gap.lower, "upper": gap.upper} for name, gap in told.items()}
