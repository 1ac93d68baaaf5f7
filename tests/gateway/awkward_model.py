"""A model from code that behaves as its configuration says; loaded by MLflow, never imported by tests."""

import time

import mlflow
import numpy as np


class AwkwardModel(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        behaviour = context.model_config["behaviour"]
        rows = len(model_input)
        if behaviour == "slow":
            time.sleep(5)
        if behaviour == "raising":
            raise ValueError(f"cannot score {model_input.to_dict('records')}")
        if behaviour == "not_a_number":
            return np.full((rows, 2), np.nan)
        if behaviour == "short":
            return np.full((rows + 1, 2), 0.5)
        if behaviour == "other_shape":
            return np.full(rows, 0.5)
        if behaviour == "scaled":
            return np.asarray(model_input["distance"]) * (params or {}).get("factor", 1.0)
        return np.full((rows, 2), 0.5)


mlflow.models.set_model(AwkwardModel())
