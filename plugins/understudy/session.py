"""What every step works with: settings, store, registry, and the run with its frozen experiment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from understudy import telemetry
from understudy.errors import NoSuchRun, StepNotPassed
from understudy.points import point
from understudy.points.doors import snapshots_of
from understudy.registry import Registry
from understudy.scoring import read_dataset
from understudy.settings import Settings
from understudy.spec import Experiment
from understudy.store import Store, ledger, records, runs
from understudy.tracking import LEDGER_HEAD, StepRecord, Tracking
from understudy.verdicts import Verdict

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Passage", "Session", "session", "traced"]

P = ParamSpec("P")
T = TypeVar("T")

log = logging.getLogger(__name__)


class Session:
    """One process's doors to the store, MLflow and the settings.

    Args:
        settings: The installation.
        store: Its store.
    """

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings = settings
        self.store = store

    @cached_property
    def registry(self) -> Registry:
        """MLflow's registry, connected when first needed: looks at evidence must work without it."""
        return Registry(self.settings)

    @cached_property
    def tracking(self) -> Tracking:
        """MLflow's run record."""
        return Tracking(self.registry, self.settings.mlflow_url)

    def passage(self, run_id: str) -> Passage:
        """Return a run with its frozen experiment.

        Raises:
            NoSuchRun: The store does not know it.
        """
        with self.store.read() as connection:
            run = runs.get(connection, run_id)
        return Passage(self, run, Experiment.model_validate(run.spec))

    def passage_of(self, key: str) -> Passage:
        """Return a run by its id or by the key it was started with.

        Raises:
            NoSuchRun: The store knows neither.
        """
        with self.store.read() as connection:
            run = runs.by_key(connection, key) or runs.get(connection, key)
        return Passage(self, run, Experiment.model_validate(run.spec))


@dataclass(frozen=True)
class Passage:
    """One run on its way through the lifecycle.

    Attributes:
        session: The doors.
        run: The run as the store has it.
        experiment: The spec as it was frozen at the start, whatever the file says today.
    """

    session: Session
    run: runs.Run
    experiment: Experiment

    def dataset(self, relative: str) -> pd.DataFrame:
        """Read a dataset of the spec as it was when the run began, whatever has become of the file since.

        Args:
            relative: What the spec calls it.

        Raises:
            DataMissing: It is not Parquet or has no rows.
            NoWayBack: The run has no rollback point, so nothing was kept.
            SnapshotBroken: What was kept was altered.
        """
        return read_dataset(self.snapshot(relative), relative)

    def snapshot(self, relative: str) -> Path:
        """Return where the copy of a dataset lies that was kept when the run began; see `dataset`."""
        return snapshots_of(self.session).proven(self.kept["snapshot"]["datasets"][relative])

    @property
    def kept(self) -> Mapping[str, Any]:
        """The parts of the run's rollback point, with the digests of what it keeps.

        Raises:
            NoWayBack: The run has no rollback point.
        """
        with self.session.store.read() as connection:
            return point.find(connection, self.run.run_id).parts

    def conclude(
        self, step: str, verdict: Verdict, record: StepRecord, *, stage: int = 0, decision: str | None = None
    ) -> dict[str, Any]:
        """Record a step's verdict in the store and in MLflow, and stop the run unless it passed.

        Args:
            step: Name of the step.
            verdict: How it ended.
            record: What it leaves in MLflow.
            stage: The stage that it is about, if it is about one.
            decision: The decision that ended the stage.

        Returns:
            The verdict as a dict, with ``run_id``, ``trace_id`` and ``mlflow_url``.

        Raises:
            StepNotPassed: The outcome is not PASS.
        """
        if not verdict.change:
            verdict = replace(verdict, change=_DONE if verdict.passed else _CHANGES.get(step, _ANEW))
        with self.session.store.write() as connection:
            now = self.session.store.clock()
            records.record_verdict(
                connection, self.run.run_id, step, verdict, stage=stage, decision=decision, at=now
            )
            head = ledger.head(connection)
        log.info("%s: %s: %s (trace %s)", step, verdict.outcome.value, verdict.sentence, self.run.trace_id)
        url = ""
        if self.run.mlflow_run_id:
            tags = dict(record.tags) | {
                "understudy.outcome": verdict.outcome.value,
                "understudy.sentence": verdict.sentence,
                "understudy.trace_id": self.run.trace_id or "",
                LEDGER_HEAD: head.to_text() if head else "",
            }
            written = StepRecord(record.metrics, record.params, tags, record.artifacts, record.datasets)
            url = self.session.tracking.step(self.run.mlflow_run_id, step, written, failed=not verdict.passed)
        names = {"run_id": self.run.run_id, "trace_id": self.run.trace_id, "step": step, "mlflow_url": url}
        answer = verdict.to_dict() | names
        if not verdict.passed:
            raise StepNotPassed(step, answer)
        return answer

    def previous(self, step: str) -> Verdict | None:
        """Return the newest verdict of an earlier step."""
        with self.session.store.read() as connection:
            found = records.verdicts_of(connection, self.run.run_id, step, newest=1)
        return found[0].verdict if found else None


_DONE = "Nothing: the step is done for this run."
_ANEW = "A new run, once the cause is mended."
_CHANGES = {
    "check_data": "Data that meets the suites, or suites that fit the data; then a new run.",
    "evaluate": "A version with a larger gain, or a larger holdout that can prove it; then a new run.",
    "critical_path": "A version that answers the cases as they say, or cases that say what is right; then a new run.",
    "spike": "A version that answers the burst in time, or a calmer machine to try it on; then a new run.",
    "shadow": "A version that answers as the limits ask, or more requests to judge it by; then a new run.",
}
"""What would change the verdict of a step that says nothing of it itself."""

_opened: dict[Settings, Session] = {}
_opening = threading.Lock()


def session() -> Session:
    """Return this process's session for the installation that the environment names."""
    settings = Settings.from_env()
    with _opening:
        if settings not in _opened:
            _opened[settings] = Session(settings, Store.open(settings))
        return _opened[settings]


def traced(step: Callable[Concatenate[str, P], T]) -> Callable[Concatenate[str, P], T]:
    """Make a step a span of its run's trace, where spans are collected.

    Args:
        step: Takes its run first: the id, or the key that it was started with.
    """

    @wraps(step)
    def run(key: str, /, *args: P.args, **kwargs: P.kwargs) -> T:
        if telemetry.tracer() is None:
            return step(key, *args, **kwargs)
        with telemetry.span(
            step.__name__, parent=_place_of(key), attributes={"understudy.run": key}, flush=True
        ):
            return step(key, *args, **kwargs)

    return run


def _place_of(key: str) -> telemetry.TraceContext | None:
    """Return where the trace of a run begins; a step that has no run says so itself."""
    try:
        with session().store.read() as connection:
            run = runs.by_key(connection, key) or runs.get(connection, key)
    except NoSuchRun:
        return None
    return telemetry.parse(run.traceparent)
