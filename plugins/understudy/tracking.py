"""The record of every run in MLflow: one run per passage, one nested run per step, linked with Airflow both ways."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from understudy.registry import Registry, reaching_mlflow

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEDGER_HEAD", "StepRecord", "Tracking"]

LEDGER_HEAD = "understudy.ledger_head"
"""The tag by which MLflow remembers the newest entry of the ledger, at every step of a run."""


@dataclass(frozen=True)
class StepRecord:
    """What one step leaves in MLflow.

    Attributes:
        metrics: Numbers, by name.
        params: Settings that the step worked with.
        tags: Short facts.
        artifacts: File name to text or bytes.
        datasets: Context ("holdout", "requests") to the frame that was used; only its schema and digest are kept.
    """

    metrics: Mapping[str, float] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: Mapping[str, str | bytes] = field(default_factory=dict)
    datasets: Mapping[str, pd.DataFrame] = field(default_factory=dict)


class Tracking:
    """Writes runs and steps to MLflow.

    Args:
        registry: Gives the client and the address.
        pages: Where a browser finds MLflow, for links.
    """

    def __init__(self, registry: Registry, pages: str) -> None:
        self.client = registry.client
        self.uri = registry.uri
        self.pages = pages

    def start(self, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        """Open the MLflow run of one passage.

        Args:
            experiment: Name of the MLflow experiment; made when it is not there.
            name: Display name.
            params: Frozen facts of the run.
            tags: Links and ids.

        Returns:
            The MLflow run id.
        """
        return reaching_mlflow(lambda: self._start(experiment, name, params, tags), self.uri)

    def step(self, parent: str, name: str, record: StepRecord, *, failed: bool) -> str:
        """Write one step as a nested run and close it.

        Returns:
            The address of the nested run's page.
        """
        return reaching_mlflow(lambda: self._step(parent, name, record, failed=failed), self.uri)

    def artifacts(self, run_id: str, artifacts: Mapping[str, str | bytes]) -> None:
        """Add files to a run."""
        reaching_mlflow(lambda: self._artifacts(run_id, artifacts), self.uri)

    def finish(self, run_id: str, status: str, tags: Mapping[str, str]) -> None:
        """Close a run with its MLflow status (FINISHED, FAILED or KILLED)."""

        def write() -> None:
            for key, value in tags.items():
                self.client.set_tag(run_id, key, value)
            self.client.set_terminated(run_id, status)

        reaching_mlflow(write, self.uri)

    def ledger_heads(self) -> list[tuple[str, str, float]]:
        """Return the heads of the ledger that MLflow remembers: run of the passage, the head as text, and Unix seconds."""

        def search() -> list[tuple[str, str, float]]:
            experiments = [item.experiment_id for item in self.client.search_experiments()]
            found, token = [], None
            while experiments:
                page = self.client.search_runs(
                    experiments, f"tags.`{LEDGER_HEAD}` LIKE '%:%'", max_results=1000, page_token=token
                )
                found += [
                    (
                        run.data.tags.get("mlflow.parentRunId", ""),
                        run.data.tags[LEDGER_HEAD],
                        run.info.start_time / 1000,
                    )
                    for run in page
                ]
                token = page.token
                if not token:
                    break
            return found

        return reaching_mlflow(search, self.uri)

    def url(self, run_id: str) -> str:
        """Return the address of a run's page."""
        run = reaching_mlflow(lambda: self.client.get_run(run_id), self.uri)
        return f"{self.pages}/#/experiments/{run.info.experiment_id}/runs/{run_id}"

    def _start(self, experiment: str, name: str, params: Mapping[str, Any], tags: Mapping[str, str]) -> str:
        found = self.client.get_experiment_by_name(experiment)
        experiment_id = found.experiment_id if found else self.client.create_experiment(experiment)
        run = self.client.create_run(experiment_id, tags=dict(tags), run_name=name)
        self._batch(run.info.run_id, {}, params)
        return str(run.info.run_id)

    def _step(self, parent: str, name: str, record: StepRecord, *, failed: bool) -> str:
        experiment_id = self.client.get_run(parent).info.experiment_id
        tags = {"mlflow.parentRunId": parent, "understudy.step": name} | dict(record.tags)
        run_id = self.client.create_run(experiment_id, tags=tags, run_name=name).info.run_id
        self._batch(run_id, record.metrics, record.params)
        self._datasets(run_id, record.datasets)
        self._artifacts(run_id, record.artifacts)
        self.client.set_terminated(run_id, "FAILED" if failed else "FINISHED")
        return f"{self.pages}/#/experiments/{experiment_id}/runs/{run_id}"

    def _batch(self, run_id: str, metrics: Mapping[str, float], params: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric, Param
        from mlflow.utils.time import get_current_time_millis

        now = get_current_time_millis()
        self.client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            params=[Param(key, str(value)[:5000]) for key, value in params.items()],
        )

    def _datasets(self, run_id: str, datasets: Mapping[str, pd.DataFrame]) -> None:
        if not datasets:
            return
        from mlflow.data import from_pandas
        from mlflow.entities import DatasetInput, InputTag

        inputs = [
            DatasetInput(
                from_pandas(frame, name=context)._to_mlflow_entity(),
                [InputTag("mlflow.data.context", context)],
            )
            for context, frame in datasets.items()
        ]
        self.client.log_inputs(run_id, datasets=inputs)

    def _artifacts(self, run_id: str, artifacts: Mapping[str, str | bytes]) -> None:
        if not artifacts:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in artifacts.items():
                path = Path(folder) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content.encode() if isinstance(content, str) else content)
            self.client.log_artifacts(run_id, folder)
