"""The models on which the gateway is held against MLflow's own scoring server, and the two servers for each."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.gateway.conftest import SPEC
from tests.servers import RunningGateway, start_gateway, start_scoring_server

MODELS = ("line", "typed", "free", "tensor", "tensors", "hinted")


@dataclass(frozen=True)
class Pair:
    """The two servers of one model."""

    ours: RunningGateway
    theirs: httpx.Client


@contextmanager
def started(uri: str, folder: Path, models: tuple[str, ...] = MODELS) -> Iterator[dict[str, Pair]]:
    """Register the models and start both servers of each.

    Args:
        uri: The MLflow server.
        folder: Where everything is kept.
        models: Which models.
    """
    experiments = folder / "experiments"
    experiments.mkdir(parents=True)
    for model in models:
        (experiments / f"{model}_test.yaml").write_text(
            SPEC.format(model=model).replace("delay_test", f"{model}_test")
        )
    files = _registered(uri, folder / "files", models)
    with ExitStack() as stack, ThreadPoolExecutor(len(models) * 2) as starters:
        ours = {
            model: starters.submit(
                stack.enter_context, start_gateway(folder / model, model, uri, experiments)
            )
            for model in models
        }
        theirs = {
            model: starters.submit(stack.enter_context, start_scoring_server(files[model], folder / model))
            for model in models
        }
        yield {model: Pair(ours[model].result(), theirs[model].result()) for model in models}


def _registered(uri: str, folder: Path, models: tuple[str, ...]) -> dict[str, Path]:
    """Put the models into the registry, each with its champion, and return their files."""
    import mlflow

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("conformance")
    client = mlflow.MlflowClient()
    files = {}
    for model in models:
        with mlflow.start_run():
            info = _log_line() if model == "line" else _log_code(model)
        if model == "line":
            mlflow.register_model(info.model_uri, "line")
        client.set_registered_model_alias(model, "champion", info.registered_model_version)
        files[model] = Path(mlflow.artifacts.download_artifacts(info.model_uri, dst_path=str(folder / model)))
    return files


def _log_line() -> Any:
    """Log a regression whose answers are nearly its first feature, so that a test chooses which number is sent."""
    import mlflow
    import pandas as pd
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    origins = ["EWR", "JFK", "LGA"]
    frame = pd.DataFrame(
        [(origin, float(a), b) for origin in origins for a in range(4) for b in range(4)],
        columns=["origin", "distance", "hour"],
    )
    encode = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore"), ["origin"]), remainder="passthrough"
    )
    model = make_pipeline(encode, LinearRegression()).fit(frame, frame["distance"] + frame["hour"] / 2)
    return mlflow.sklearn.log_model(
        model,
        name="model",
        signature=mlflow.models.infer_signature(frame, [1.0]),
        input_example=frame.head(2),
        registered_model_name="line",
        pip_requirements=["scikit-learn"],
    )


def _log_code(model: str) -> Any:
    import mlflow

    code = "hinted_model.py" if model == "hinted" else "echo_model.py"
    return mlflow.pyfunc.log_model(
        name="model",
        python_model=str(Path(__file__).with_name(code)),
        signature=_signature(model),
        registered_model_name=model,
        pip_requirements=["mlflow"],
    )


def _signature(model: str) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import Array, Object, Property

    if model == "tensor":
        return ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, 3))]))
    if model == "tensors":
        pixels = TensorSpec(np.dtype("float32"), (-1, 2), "pixels")
        return ModelSignature(Schema([pixels, TensorSpec(np.dtype("int64"), (-1,), "count")]))
    if model != "typed":
        return None
    kinds = ("double", "float", "integer", "long", "boolean")
    columns = [ColSpec(kind, kind) for kind in kinds]
    columns += [
        ColSpec("string", "text"),
        ColSpec("datetime", "moment"),
        ColSpec("binary", "blob", required=False),
    ]
    columns += [ColSpec("double", "maybe", required=False), ColSpec("string", "note", required=False)]
    columns += [ColSpec(Array(DataType.double), "series", required=False)]
    columns += [ColSpec(Object([Property("left", DataType.long)]), "box", required=False)]
    params = [
        ParamSpec("answer", "string", "echo"),
        ParamSpec("factor", "double", 1.0),
        ParamSpec("count", "long", 1),
        ParamSpec("strict", "boolean", False),
        ParamSpec("weights", "double", [1.0], (-1,)),
    ]
    return ModelSignature(Schema(columns), params=ParamSchema(params))
