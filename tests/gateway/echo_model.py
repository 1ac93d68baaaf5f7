"""A model from code that answers with what it was called with; loaded by MLflow, never imported by tests."""

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException


class EchoModel(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        params = params or {}
        answer = getattr(self, f"_{params.get('answer', 'echo')}")
        return answer(model_input, params)

    def _echo(self, given, params):
        """Every cell with its type, row by row, so that two servers agree only if the model saw the same."""
        told = repr(sorted(params.items())) if params else ""
        if isinstance(given, pd.DataFrame):
            kinds = " ".join(f"{name!r}:{kind}" for name, kind in given.dtypes.items())
            rows = zip(given.index, given.to_dict("records"), strict=True)
            return [f"{index!r} {told} {kinds} {cells!r}" for index, cells in rows]
        if isinstance(given, np.ndarray) and given.ndim:
            return [f"{told} {given.dtype} {part!r}" for part in given]
        return f"{told} {type(given).__name__} {given!r}"

    def _number(self, given, params):
        return given["double"].to_numpy()

    def _series(self, given, params):
        return given["double"]

    def _frame(self, given, params):
        return given[["double", "text", "moment"]]

    def _mapping(self, given, params):
        return {"sum": given["double"].sum(), "rows": given["long"].to_numpy()}

    def _scalar(self, given, params):
        return np.float32(0.1)

    def _nothing(self, given, params):
        return None

    def _not_finite(self, given, params):
        return np.array([np.nan, np.inf, -np.inf][: len(given)])

    def _binary(self, given, params):
        return [b"\x00\xff"] * len(given)

    def _unserialisable(self, given, params):
        return {1, 2}

    def _raising(self, given, params):
        raise ValueError(f"cannot score {given.to_dict('records')}")

    def _refusing(self, given, params):
        raise MlflowException.invalid_parameter_value("this model wants other rows")

    def _overloaded(self, given, params):
        raise MlflowException("try again", error_code=9)


mlflow.models.set_model(EchoModel())
