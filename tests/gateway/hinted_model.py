"""A model whose signature is its type hint; loaded by MLflow, never imported by tests."""

import mlflow
from pydantic import BaseModel


class Flight(BaseModel):
    origin: str
    distance: float
    hour: int | None = None


class HintedModel(mlflow.pyfunc.PythonModel):
    def predict(self, model_input: list[Flight]):
        return [f"{flight!r}" for flight in model_input]


mlflow.models.set_model(HintedModel())
