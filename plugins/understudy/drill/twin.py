"""The bad twin: the champion itself, with a fault that can be planted and taken away while it serves.

MLflow runs this file when it loads the version. Where the file ``fault`` of the model's configuration is empty, it answers as
the champion does.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from understudy.drill.faults import Plant, mixed_up, spoilt
from understudy.spec import Scenario

__all__ = ["Twin", "answer"]


class Twin(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model whose fault stands in a file."""

    def load_context(self, context: Any) -> None:
        """Load the champion."""
        self.champion = mlflow.pyfunc.load_model(context.artifacts["champion"])
        self.fault = Path(context.model_config["fault"])

    def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
        """Answer as the champion does, or as the planted fault wants it."""
        told = self.fault.read_text()
        if not told:
            return self.champion.predict(model_input)
        plant = Plant.from_dict(json.loads(told))
        if plant.seconds:
            time.sleep(plant.seconds)
        return answer(self.champion, plant, model_input)


def answer(champion: Any, plant: Plant, frame: pd.DataFrame) -> Any:
    """Return what a twin with a fault answers, in the shape in which the champion answers."""
    features = {str(name): frame[name].to_numpy() for name in frame.columns}
    given = pd.DataFrame(
        {
            name: pd.Series(values, dtype=frame[name].dtype)
            for name, values in mixed_up(plant, features).items()
        }
    )
    answers = np.asarray(champion.predict(given), dtype=np.float64)
    positive = answers[:, -1] if answers.ndim == 2 else answers
    changed = spoilt(plant, positive, in_cohort(plant, frame))
    if answers.ndim == 1:
        return changed
    return np.column_stack([1.0 - changed, changed]) if answers.shape[1] == 2 else changed[:, None]


def in_cohort(plant: Plant, frame: pd.DataFrame) -> Any:
    """Return which rows are of the cohort that is shuffled: those with the most frequent value of its column."""
    if plant.scenario is not Scenario.SHUFFLED_COHORT:
        return np.zeros(len(frame), dtype=bool)
    column = plant.columns[0]
    if frame[column].nunique() > len(frame) // 2:  # a number: the larger half
        return (frame[column] >= frame[column].median()).to_numpy()
    return (frame[column] == frame[column].mode()[0]).to_numpy()


mlflow.models.set_model(Twin())
