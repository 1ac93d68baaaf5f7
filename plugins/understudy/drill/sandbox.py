"""An installation of its own for a drill: MLflow, store, gateway and a copy of the champion, and a twin to plant faults in."""

from __future__ import annotations

import json
import os
import shutil
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from understudy.drill.faults import TUNED, Plant, lost, tune
from understudy.drill.miniature import of_answers
from understudy.drill.traffic import Rows
from understudy.errors import Unreachable
from understudy.exposure import Exposure
from understudy.processes.keeper import Keeper
from understudy.processes.ports import HeldPort
from understudy.scoring import one_per_row, read_dataset
from understudy.spec import Experiment, MetricKind, Scenario
from understudy.stack.credentials import Credentials
from understudy.stack.gateway_process import GatewayProcess
from understudy.stack.mlflow_server import MlflowServer

if TYPE_CHECKING:
    import pandas as pd

    from understudy.session import Session

__all__ = ["CHAMPION", "TWIN", "Sandbox"]

CHAMPION, TWIN = "1", "2"
"""Versions in the sandbox's registry."""

_TUNING_ROWS = 4000
_PATIENCE = 2.0
"""Seconds after which the gateway gives a challenger up; its own default."""


class Sandbox:
    """Everything that a drill works on, below one folder.

    Args:
        folder: Where `understudy.drill.run` has put the champion's files, the data, the suites and the spec.
        experiment: The spec of the sandbox.
    """

    def __init__(self, folder: Path, experiment: Experiment) -> None:
        self.folder = folder
        self.experiment = experiment
        self.fault = folder / "fault.json"
        self.fault.write_text("")
        self._faults: dict[Scenario, tuple[Plant | None, float | None]] = {}
        self._keeper = Keeper()
        self._ports = (HeldPort(), HeldPort())
        env = dict(os.environ)
        credentials = Credentials.keep_in(folder / "credentials.json")
        self.mlflow = MlflowServer(folder / "mlflow", self._ports[0], env, credentials, self._keeper)
        own = {
            "MLFLOW_TRACKING_URI": self.mlflow.url,
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
            "UNDERSTUDY_GATEWAY_URLS": self._ports[1].url,
            "UNDERSTUDY_PSEUDONYM_KEY": credentials.pseudonym_key,
        }
        os.environ.update(own)
        self.gateway = GatewayProcess(self.model, folder, self._ports[1], env | own, self._keeper)

    @property
    def model(self) -> str:
        """The model; it has the name that it has in production."""
        return self.experiment.model

    def experiment_of(self, scenario: Scenario) -> Experiment:
        """Return the spec that a scenario runs."""
        of_time = scenario in (Scenario.SLOW, Scenario.LATENCY)
        return self.experiment if of_time else of_answers(self.experiment)

    def __enter__(self) -> Sandbox:
        try:
            self.mlflow.start()
            _ = self.session  # imported and opened while the server starts
            self.mlflow.wait_ready()
            self._register()
            self.gateway.start()
            self.gateway.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop every process."""
        self.gateway.process.stop(2.0)
        self.mlflow.process.stop(2.0)
        self._keeper.close()
        for port in self._ports:
            port.release()

    @cached_property
    def session(self) -> Session:
        """The doors of the sandbox."""
        from understudy.session import session

        return session()

    @cached_property
    def holdout(self) -> pd.DataFrame:
        """The labelled rows."""
        return read_dataset(self.holdout_path, self.experiment.data.holdout)

    @property
    def holdout_path(self) -> Path:
        """Where they lie."""
        return self.session.settings.data / self.experiment.data.holdout

    @cached_property
    def rows(self) -> Rows:
        """The labelled rows as they are sent."""
        return Rows(self.holdout, self.experiment)

    def drifted(self) -> Rows:
        """Return the rows with every number far outside what the model was trained on."""
        numbers = self.holdout.select_dtypes("number").drop(
            columns=self.experiment.data.label, errors="ignore"
        )
        return Rows(
            self.holdout, self.experiment, {str(name): numbers[name] + 10**6 for name in numbers.columns}
        )

    def exposure(self) -> Exposure:
        """Return what the model serves now.

        Raises:
            Unreachable: The store does not know the model.
        """
        from understudy.store import exposures

        with self.session.store.read() as connection:
            found = exposures.find(connection, self.model)
        if found is None:
            raise Unreachable(f"The sandbox does not know {self.model}. Start the drill again.")
        return found

    def plant(self, plant: Plant | None) -> None:
        """Tell the twin its fault; None makes it healthy. It reads the file at every call."""
        new = self.fault.with_suffix(".new")
        new.write_text("" if plant is None else json.dumps(plant.to_dict()))
        new.replace(self.fault)

    def fault_of(self, scenario: Scenario) -> tuple[Plant | None, float | None]:
        """Return the fault of a scenario, as strong as it must be to count, and what it costs by the primary metric."""
        if scenario not in self._faults:
            self._faults[scenario] = self._made(scenario)
        return self._faults[scenario]

    def _made(self, scenario: Scenario) -> tuple[Plant | None, float | None]:
        limit = min(
            (metric.limit_ms for metric in self.experiment.deciding if metric.limit_ms), default=1000.0
        )
        plain = {
            Scenario.HEALTHY: None,
            Scenario.PARTIAL_DATA: None,
            Scenario.NULL_HANDLING: Plant(Scenario.NULL_HANDLING),
            Scenario.SLOW: Plant(Scenario.SLOW, seconds=min(1.2 * limit / 1000 + 0.05, 0.9 * _PATIENCE)),
            Scenario.LATENCY: Plant(Scenario.LATENCY, seconds=1.5 * _PATIENCE),
        }
        if scenario in plain:
            return plain[scenario], None
        return self._tuned(scenario if scenario in TUNED else Scenario.FLIPPED_SIGN)

    def _tuned(self, scenario: Scenario) -> tuple[Plant, float]:
        from understudy.drill.twin import answer, in_cohort

        primary = self.experiment.primary
        kind = primary.kind.value if primary.kind.needs_outcome else MetricKind.BRIER.value
        frame = self.holdout.head(_TUNING_ROWS)
        labels = frame[self.experiment.data.label].to_numpy(dtype=np.float64)
        inputs = frame[[name for name in self._inputs if name in frame.columns]]

        def answered(plant: Plant) -> tuple[Any, Any]:
            raw = Plant(
                plant.scenario if plant.scenario in _OF_FEATURES else Scenario.HEALTHY, columns=plant.columns
            )
            return one_per_row(answer(self._champion, raw, inputs), len(inputs)), in_cohort(plant, inputs)

        plant = Plant(scenario, columns=self._columns(scenario, inputs, labels, kind))
        return tune(plant, answered, labels, kind, primary.margin or 0.02)

    @cached_property
    def _champion(self) -> Any:
        import mlflow

        return mlflow.pyfunc.load_model(str(self.folder / "champion"))

    @cached_property
    def _inputs(self) -> list[str]:
        return [str(name) for name in self._champion.metadata.get_input_schema().input_names()]

    def _columns(self, scenario: Scenario, inputs: pd.DataFrame, labels: Any, kind: str) -> tuple[str, ...]:
        """Return the features that a fault is about: the cohort's column, or the half that matters most."""
        if scenario is Scenario.SHUFFLED_COHORT:
            known = [column for column in self.experiment.traffic.cohorts if column in inputs.columns]
            return (known[0] if known else str(inputs.columns[0]),)
        if scenario is not Scenario.STALE_FEATURE:
            return ()
        good = one_per_row(self._champion.predict(inputs), len(inputs))
        cost = {}
        for name in inputs.columns:
            stale = inputs.assign(**{name: inputs[name].iloc[0]}).astype(inputs.dtypes)
            cost[str(name)] = lost(
                kind, one_per_row(self._champion.predict(stale), len(inputs)), good, labels
            )
        ordered = sorted(cost, key=lambda name: -cost[name])
        return tuple(ordered[: max(1, len(ordered) // 2)])

    def _register(self) -> None:
        """Log the champion's files and the twin made from them, and register both."""
        import mlflow

        client, doors = self.session.registry.client, self.session
        mlflow.set_tracking_uri(doors.registry.uri)
        experiment_id = client.create_experiment("drill")
        source = self.folder / "champion"
        copied = client.create_logged_model(experiment_id, name="champion")
        client.log_model_artifacts(copied.model_id, str(source))
        client.finalize_logged_model(copied.model_id, "READY")
        mlflow.set_experiment(experiment_id=experiment_id)
        with mlflow.start_run():
            twin = mlflow.pyfunc.log_model(
                name="twin",
                python_model=str(Path(__file__).with_name("twin.py")),
                artifacts={"champion": str(source)},
                model_config={"fault": str(self.fault)},
                signature=mlflow.models.Model.load(str(source)).signature,
                pip_requirements=["mlflow"],
            )
        client.create_registered_model(self.model)
        for model_id in (copied.model_id, twin.model_id):
            client.create_model_version(self.model, f"models:/{model_id}", model_id=model_id)
        doors.registry.make_champion(self.model, CHAMPION, move_stage=self.experiment.registry.move_stage)

    def break_store(self) -> None:
        """Make the store impossible to open, as a database server that is gone."""
        self.session.store.close()
        home = self.session.settings.home
        for path in home.glob("store.db*"):
            path.rename(path.with_name(f"away-{path.name}"))
        (home / "store.db").mkdir()

    def mend_store(self) -> None:
        """Put the store back as it was."""
        self.session.store.close()
        home = self.session.settings.home
        shutil.rmtree(home / "store.db")
        for path in home.glob("away-store.db*"):
            path.rename(path.with_name(path.name.removeprefix("away-")))

    def without_a_feature(self) -> None:
        """Write the labelled rows without the first feature that the model must have."""
        needed = self._champion.metadata.get_input_schema().required_input_names() or self._inputs
        missing = next(name for name in needed if name in self.holdout.columns)
        self.holdout.drop(columns=missing).to_parquet(self.holdout_path)

    def with_every_feature(self) -> None:
        """Write them as they were."""
        self.holdout.to_parquet(self.holdout_path)


_OF_FEATURES = (Scenario.STALE_FEATURE, Scenario.TRAINING_OUT_OF_SYNC)
