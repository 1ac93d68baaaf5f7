"""What every step works with: settings, store, registry, and the run with its frozen experiment."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from understudy.errors import StepNotPassed
from understudy.registry import Registry
from understudy.settings import Settings
from understudy.spec import Experiment
from understudy.store import Store, records, runs
from understudy.tracking import StepRecord, Tracking
from understudy.verdicts import Verdict

__all__ = ["Passage", "Session", "session"]

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
            The verdict as a dict, with ``run_id`` and ``mlflow_url``.

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
        log.info("%s: %s: %s", step, verdict.outcome.value, verdict.sentence)
        url = ""
        if self.run.mlflow_run_id:
            tags = dict(record.tags) | {
                "understudy.outcome": verdict.outcome.value,
                "understudy.sentence": verdict.sentence,
            }
            written = StepRecord(record.metrics, record.params, tags, record.artifacts, record.datasets)
            url = self.session.tracking.step(self.run.mlflow_run_id, step, written, failed=not verdict.passed)
        answer = verdict.to_dict() | {"run_id": self.run.run_id, "step": step, "mlflow_url": url}
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
