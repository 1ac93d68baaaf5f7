"""What tests ask of a look."""

from __future__ import annotations

from collections.abc import Mapping

from understudy.stats.cells import interval_table
from understudy.stats.evidence import Evidence
from understudy.stats.sequences import Interval


def intervals(
    evidence: Evidence, alpha: float | Mapping[tuple[str, str], float], n_star: float
) -> dict[tuple[str, str], Interval]:
    """Return the one-sided interval of every metric in every cohort; a cell without a budget is undetermined."""
    keys = list(zip(evidence.cells.metrics, evidence.cells.cohorts, strict=True))
    budgets = [alpha.get(key, 0.0) if isinstance(alpha, Mapping) else alpha for key in keys]
    table = interval_table(evidence.cells, budgets, n_star)
    return {key: table.row(index) for index, key in enumerate(keys)}
