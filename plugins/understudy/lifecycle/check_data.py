"""Holds the challenger's data and the recent traffic against the Great Expectations suites of the spec."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy import expectations
from understudy.errors import DataMissing
from understudy.events.lookups import recent_requests
from understudy.points.doors import snapshots_of
from understudy.scoring import read_dataset
from understudy.session import Passage, session
from understudy.tracking import StepRecord
from understudy.verdicts import Verdict, worst_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["check_data", "judged", "logged_requests", "nothing_logged"]


def check_data(run_id: str) -> dict[str, Any]:
    """Check every suite of the spec on its data.

    Raises:
        StepNotPassed: A critical expectation does not hold, or one could not be evaluated.
        DataMissing: A dataset or the traffic log is empty.
        SuiteInvalid: A suite cannot be used.
    """
    passage = session().passage(run_id)
    data: dict[str, str] = {
        check.dataset: _keep(passage, check.dataset) for check in passage.experiment.checks
    }
    verdict, record = judged(passage, data)
    return passage.conclude("check_data", verdict, record)


def judged(passage: Passage, data: Mapping[str, str]) -> tuple[Verdict, StepRecord]:
    """Check every suite of the spec, as the run keeps it, on copies of data, so that the same comes out again at any time.

    Args:
        passage: The run.
        data: SHA-256 of each dataset, by its name in the spec's checks.

    Raises:
        DataMissing: A dataset is empty.
        SnapshotBroken: A copy was altered.
        SuiteInvalid: A suite cannot be used.
    """
    kept = snapshots_of(passage.session)
    frames = {on: read_dataset(kept.proven(digest), on) for on, digest in data.items()}
    with _suites(passage) as folder:
        results = [
            expectations.check(folder, check.suite, frames[check.dataset], check.dataset)
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
    return replace(verdict, evidence={**verdict.evidence, "data": dict(data)}), record


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


def _keep(passage: Passage, on: str) -> str:
    """Return the SHA-256 of a dataset that is kept, and keep what comes from the event log, which goes on."""
    if on == "requests":
        requests = logged_requests(passage, passage.experiment.shadow.requests)
        return snapshots_of(passage.session).keep(_parquet(requests))
    data = passage.experiment.data
    kept: Mapping[str, str] = passage.kept["snapshot"]["datasets"]
    return kept[data.reference if on == "reference" else data.holdout]


def _parquet(frame: pd.DataFrame) -> bytes:
    """Return a frame as Parquet; a column of objects or of several types, which that cannot hold, as text."""
    import pyarrow as pa

    for name in frame.columns:
        try:
            plain = not pa.types.is_struct(pa.array(frame[name], from_pandas=True).type)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            plain = False
        if not plain:
            frame = frame.assign(**{name: frame[name].map(str, na_action="ignore")})
    return bytes(frame.to_parquet(None, index=False))


@contextmanager
def _suites(passage: Passage) -> Iterator[Path]:
    """Lay the suites that the run keeps out in a folder, as Great Expectations' door reads them."""
    kept = snapshots_of(passage.session)
    with tempfile.TemporaryDirectory(prefix="understudy-suites-") as name:
        for suite, digest in passage.kept["suites"]["files"].items():
            (Path(name) / f"{suite}.json").write_bytes(kept.read(digest))
        yield Path(name)
