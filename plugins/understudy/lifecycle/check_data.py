"""Holds the challenger's data and the recent traffic against the Great Expectations suites of the spec."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from understudy import expectations
from understudy.errors import DataMissing
from understudy.events.lookups import recent_requests
from understudy.lifecycle.scoring import read_dataset
from understudy.lifecycle.session import Passage, session
from understudy.tracking import StepRecord
from understudy.verdicts import worst_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_data", "logged_requests", "nothing_logged"]


def check_data(run_id: str) -> dict[str, Any]:
    """Check every suite of the spec on its data.

    Raises:
        StepNotPassed: A critical expectation does not hold, or one could not be evaluated.
        DataMissing: A dataset or the traffic log is empty.
        SuiteInvalid: A suite cannot be used.
    """
    passage = session().passage(run_id)
    frames = {check.dataset: _frame(passage, check.dataset) for check in passage.experiment.checks}
    results = [
        expectations.check(
            passage.session.settings.expectations, check.suite, frames[check.dataset], check.dataset
        )
        for check in passage.experiment.checks
    ]
    count = sum(result.evaluated for result in results)
    verdict = worst_of(
        (result.verdict for result in results),
        f"All {count} expectations hold, on {', '.join(f'{len(frame):,} rows of {on}' for on, frame in frames.items())}.",
    )
    hidden = [passage.experiment.traffic.unit, *passage.experiment.traffic.private]
    record = StepRecord(
        metrics={"expectations": count, "rows": sum(len(frame) for frame in frames.values())},
        params={check.suite: check.dataset for check in passage.experiment.checks},
        artifacts={
            f"data_docs/{check.suite}.{check.dataset}.html": result.page
            for check, result in zip(passage.experiment.checks, results, strict=True)
        },
        datasets={on: frame.drop(columns=hidden, errors="ignore") for on, frame in frames.items()},
    )
    return passage.conclude("check_data", verdict, record)


def logged_requests(passage: Passage, limit: int) -> pd.DataFrame:
    """Return the newest logged requests of the run's model.

    Raises:
        DataMissing: Nothing is logged.
    """
    frame = recent_requests(passage.session.settings.events_dir, passage.run.model, limit)
    if frame.empty:
        raise nothing_logged(passage)
    return frame


def nothing_logged(passage: Passage) -> DataMissing:
    """Return the error of a step that needs logged requests of the run's model where there are none."""
    return DataMissing(
        f"No requests of {passage.run.model} are logged in {passage.session.settings.events_dir}. Send traffic through "
        "the gateway first; a challenger is never judged on no data."
    )


def _frame(passage: Passage, on: str) -> pd.DataFrame:
    if on == "requests":
        return logged_requests(passage, passage.experiment.shadow.requests)
    relative = passage.experiment.data.reference if on == "reference" else passage.experiment.data.holdout
    return read_dataset(passage.session.settings.data, relative)
