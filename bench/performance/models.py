"""The two models that are served, and requests for them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from understudy.exposure import CHALLENGER, Exposure, assign

FEATURES = 30
UNIT = "customer"
CHAMPION, NEXT = "1", "2"
PERCENT = 25.0

_SPEC = """
name: {model}_bench
model: {model}
owner: bench
description: A model whose serving is measured.
hypothesis: None.
traffic: {{unit: {unit}, private: [{unit}]}}
data: {{reference: reference.parquet, holdout: holdout.parquet, label: label}}
checks:
  - {{suite: rows, dataset: reference}}
metrics:
  - {{name: brier, kind: brier, role: primary, margin: 0.01}}
  - {{name: errors, kind: error_rate, role: guardrail, margin: 0.01}}
stages:
  - {{percent: 25, soak: 1s, timeout: 60s, min_units: 10}}
planned_events: 1000
"""

_TRUSTED = ["sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor"]


@dataclass(frozen=True)
class Served:
    """A model in the registry, in two versions.

    Attributes:
        name: Its registered name.
        files: MLflow's files of version 1.
        pickle: The bare estimator of version 1.
    """

    name: str
    files: Path
    pickle: Path


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=1000)


def _boosting(rate: float) -> Any:
    from sklearn.ensemble import HistGradientBoostingClassifier

    return HistGradientBoostingClassifier(learning_rate=rate)


MODELS: dict[str, Callable[[float], Any]] = {"logistic": _logistic, "boosting": _boosting}
TITLES = {"logistic": "logistic regression", "boosting": "HistGradientBoosting, 100 trees"}


def write_specs(folder: Path) -> None:
    """Write an experiment file for each model."""
    folder.mkdir(parents=True)
    for name in MODELS:
        (folder / f"{name}_bench.yaml").write_text(_SPEC.format(model=name, unit=UNIT))


def register(mlflow_url: str, folder: Path, names: Sequence[str]) -> dict[str, Served]:
    """Train two versions of each model, register them and fetch the files of the first."""
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import joblib
    import mlflow
    import numpy as np
    import pandas as pd

    mlflow.set_tracking_uri(mlflow_url)
    mlflow.set_experiment("bench")
    rng = np.random.default_rng(1)
    columns = [f"f{number:02}" for number in range(FEATURES)]
    frame = pd.DataFrame(rng.normal(size=(20_000, FEATURES)), columns=columns)
    label = rng.random(len(frame)) < 1 / (1 + np.exp(-frame @ rng.normal(size=FEATURES) / 3))
    served = {}
    for name in names:
        for setting in (0.1, 0.05):
            model = MODELS[name](setting).fit(frame.to_numpy(), label)
            with mlflow.start_run():
                mlflow.sklearn.log_model(
                    model,
                    name="model",
                    signature=mlflow.models.infer_signature(frame, model.predict_proba(frame.to_numpy())),
                    input_example=frame.head(5),
                    pyfunc_predict_fn="predict_proba",
                    registered_model_name=name,
                    pip_requirements=["scikit-learn"],
                    skops_trusted_types=_TRUSTED,
                )
            if setting == 0.1:
                joblib.dump(model, folder / f"{name}.pickle")
        mlflow.MlflowClient().set_registered_model_alias(name, "champion", CHAMPION)
        files = mlflow.artifacts.download_artifacts(f"models:/{name}/{CHAMPION}", dst_path=str(folder / name))
        served[name] = Served(name, Path(files), folder / f"{name}.pickle")
    return served


def exposure(model: str, generation: int, *, mirror: bool = False) -> Exposure:
    """Return an exposure of a quarter of the units that outlasts any measurement."""
    ends = int(time.time()) + 80_000
    return Exposure(
        model, generation, CHAMPION, NEXT, f"{model}_bench-v2-1", 1, PERCENT, lease_expires_at=ends, mirror=mirror
    )  # fmt: skip


def bodies(rows: int, count: int, model: str, *, exposed: bool = False, seed: int = 2) -> list[bytes]:
    """Return requests, each with rows of its own units.

    Args:
        rows: Rows of each.
        count: How many.
        model: Whom they are for.
        exposed: Whether the units are those that see the challenger, or those that do not.
        seed: Seed of the values.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    published, now = exposure(model, 1), time.time()
    names = (f"C{number:08}" for number in range(100_000_000))
    units = (name for name in names if (assign(published, name, now) == CHALLENGER) is exposed)
    columns = [UNIT, *(f"f{number:02}" for number in range(FEATURES))]
    found = []
    for _ in range(count):
        values = rng.normal(size=(rows, FEATURES)).round(6).tolist()
        data = [[next(units), *row] for row in values]
        found.append(json.dumps({"dataframe_split": {"columns": columns, "data": data}}).encode())
    return found
