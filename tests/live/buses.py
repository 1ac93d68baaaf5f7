"""A small city: trips of buses from two depots, four versions of a model of their delay, and the traffic of a day.

Being late depends on the hour and on the rain. Version 1 knows the hour, version 2 also what the gauges say of the rain.
Version 3 reads the radar instead, which is sharper in every stored dataset and arrives with its sign flipped in live
traffic. Versions 4 and 5 were logged without a signature.
"""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

__all__ = ["MODEL", "Traffic", "log_models", "move_stage", "register", "trips", "write_datasets"]

MODEL = "bus-delay"
BUSES = 4000
VERSIONS = (
    (["hour"], True),
    (["hour", "rain"], True),
    (["hour", "radar"], True),
    (["hour", "rain"], False),
    (["hour", "rain"], False),
)
"""Columns of versions 1 to 5, and whether each is logged with a signature."""

_NUMBERS = itertools.count()


def trips(rng: np.random.Generator, rows: int, *, live: bool = False) -> pd.DataFrame:
    """Return labelled trips; live ones carry the radar's rain as it really arrives: upside down."""
    hour, water, noise = rng.normal(size=(3, rows))
    radar = water + 0.1 * rng.normal(size=rows)
    frame = pd.DataFrame(
        {
            "bus": [f"B{number:04d}" for number in rng.integers(0, BUSES, rows)],
            "driver": [f"Driver-{number}" for number in rng.integers(0, 500, rows)],
            "depot": rng.choice(["north", "south"], rows),
            "hour": hour,
            "rain": water + 0.5 * noise,
            "radar": -radar if live else radar,
        }
    )
    odds = 0.9 * hour + 2.0 * water + 0.3 * (frame["depot"] == "north")
    frame["late"] = (rng.uniform(size=rows) < 1 / (1 + np.exp(-odds))).astype(int)
    return frame


def write_datasets(folder: Path) -> None:
    """Write the labelled datasets that the spec names."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in ((1, "reference"), (2, "holdout")):
        trips(np.random.default_rng(seed), 3000).to_parquet(folder / f"{name}.parquet")


def log_models(uri: str) -> list[str]:
    """Train and log the versions and return their MLflow model ids."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        experiment = mlflow.MlflowClient(uri).create_experiment("training")
        return [_log(experiment, columns, signed) for columns, signed in VERSIONS]
    finally:
        mlflow.set_tracking_uri(before)


def _log(experiment: str, columns: list[str], signed: bool) -> str:
    import mlflow
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train = trips(np.random.default_rng(3), 3000)
    model = make_pipeline(make_column_transformer(("passthrough", columns)), LogisticRegression())
    model.fit(train[columns], train["late"])
    answers = model.predict_proba(train[columns])
    with mlflow.start_run(experiment_id=experiment):
        info = mlflow.sklearn.log_model(
            model,
            name="model",
            signature=mlflow.models.infer_signature(train[columns], answers) if signed else None,
            pyfunc_predict_fn="predict_proba",
            pip_requirements=["scikit-learn"],
            serialization_format="cloudpickle",
        )
    return str(info.model_id)


def register(client: Any, model: str, logged: list[str]) -> None:
    """Register the logged models as versions 1, 2, … of ``model`` and put version 1 into production."""
    client.create_registered_model(model)
    for model_id in logged:
        client.create_model_version(model, f"models:/{model_id}", model_id=model_id)
    client.set_registered_model_alias(model, "champion", "1")
    move_stage(client, model, "1", "Production")


def move_stage(client: Any, model: str, version: str, stage: str) -> None:
    """Move a version to a legacy stage, as people still do."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        client.transition_model_version_stage(model, version, stage)


class Traffic:
    """Buses on the road: one thread that asks the gateway in batches and tells it soon after what came of it.

    A gateway that does not answer loses the batch, as a gateway that is down loses requests.

    Args:
        url: Base address of the gateway.
        seed: Of the trips.
    """

    FULL, TRICKLE = 1500.0, 10.0
    """Rows a second: enough to decide a stage within seconds, and enough to be fresh but never to decide one."""

    def __init__(self, url: str, seed: int = 7) -> None:
        self.served = 0
        self.problem: BaseException | None = None
        self._url = url
        self._rng = np.random.default_rng(seed)
        self._rate = 0.0
        self._changed, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._drive, name="traffic", daemon=True)
        self._thread.start()

    def full(self) -> None:
        """Send all there is."""
        self._at(self.FULL)

    def trickle(self) -> None:
        """Send so little that no stage can pass, and none goes stale."""
        self._at(self.TRICKLE)

    def pause(self) -> None:
        """Send nothing."""
        self._at(0.0)

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._changed.set()
        self._thread.join(30)
        assert not self._thread.is_alive()
        assert self.problem is None, self.problem

    def _at(self, rate: float) -> None:
        assert self.problem is None, self.problem
        self._rate = rate
        self._changed.set()

    def _drive(self) -> None:
        try:
            with httpx.Client(base_url=self._url, timeout=10, trust_env=False) as client:
                while not self._stop.is_set():
                    began, rate = time.monotonic(), self._rate
                    self._changed.clear()
                    if rate:
                        self._batch(client, max(1, int(rate / 5)))
                    self._changed.wait(max(0.0, began + 0.2 - time.monotonic()) if rate else None)
        except BaseException as problem:  # kept for whoever steers: a thread has nobody to raise to
            self.problem = problem

    def _batch(self, client: httpx.Client, rows: int) -> None:
        frame = trips(self._rng, rows, live=True)
        frame["trip"] = [f"trip-{next(_NUMBERS)}" for _ in range(rows)]
        frame["left_at"] = time.time()
        asked = frame.drop(columns="late").to_json(orient="split", index=False)
        happened = [
            {"event_id": trip, "outcome": float(late), "occurred_at": time.time()}
            for trip, late in zip(frame["trip"], frame["late"], strict=True)
        ]
        json = {"Content-Type": "application/json"}
        try:
            answer = client.post("/invocations", content=f'{{"dataframe_split": {asked}}}', headers=json)
            if answer.status_code == 200:
                self.served += rows
                client.post("/outcomes", json={"outcomes": happened})
        except httpx.TransportError:
            self._changed.wait(0.2)
