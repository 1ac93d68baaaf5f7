"""A model from code that depends on what it is asked; loaded by MLflow, never imported by tests."""

import os
import signal
import time

import mlflow
import numpy as np


class MoodyModel(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        time.sleep(context.model_config["seconds"])
        if (model_input["wind"] > 100).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return np.where(model_input["hour"] > 100, np.nan, 0.5)


mlflow.models.set_model(MoodyModel())
