"""Shows experiment files that break a rule as an import error in the Airflow UI. Holds no DAG.

An error raised in ``experiments.py`` would take every other experiment away with it: Airflow marks all DAGs of a file
with an import error as stale. Skipping a broken file in silence would hide it. Raised from a file of its own, the error
stands in the red banner with file, line, field and fix, and hurts nobody else. The DAG of a file that has just been
broken is stale until it is mended; a run exposed meanwhile is still guarded, and its lease lapses when the guard ends.
"""

from __future__ import annotations

from understudy.errors import SpecInvalid
from understudy.orchestration.catalog import broken_experiments

if broken := broken_experiments():
    raise SpecInvalid("\n" + "\n".join(error.message for error in broken)) from None
