"""Small fitted models of every kind that is compiled, saved and loaded as MLflow does it, and MLflow's own answers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import infer_signature
from mlflow.pyfunc import PyFuncModel
from mlflow.utils.proto_json_utils import _get_jsonable_obj, dataframe_from_parsed_json
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from threadpoolctl import threadpool_limits

NUMBERS = ["distance", "humid", "pressure"]
MIXED = ["origin", *NUMBERS, "hour", "late", "carrier"]


def table() -> pd.DataFrame:
    """Return 600 rows: numbers of several sizes, two text columns, whole numbers, booleans."""
    rng = np.random.default_rng(7)
    return pd.DataFrame(
        {
            "origin": rng.choice(["JFK", "LGA", "EWR"], 600),
            "distance": rng.uniform(100, 2500, 600),
            "humid": rng.normal(60, 20, 600),
            "pressure": rng.normal(1013, 7, 600),
            "hour": rng.integers(5, 24, 600),
            "late": rng.random(600) < 0.3,
            "carrier": rng.choice([f"C{number}" for number in range(12)], 600),
        }
    )


def with_nulls() -> pd.DataFrame:
    """Return the table with every seventh number or so missing."""
    frame = table()
    frame[NUMBERS] = frame[NUMBERS].mask(np.random.default_rng(8).random((600, 3)) < 0.15)
    return frame


def target(kind: str) -> Any:
    """Return labels or values to fit: ``binary``, ``text``, ``three``, ``ten``, ``number``, ``positive`` or ``pair``."""
    frame, rng = table(), np.random.default_rng(9)
    score = frame["hour"] / 6 + frame["humid"] / 40 + rng.normal(size=600)
    rank = score.rank(pct=True)
    return {
        "binary": (rank > 0.6).astype(int),
        "text": np.where(rank > 0.6, "late", "on time"),
        "three": np.clip(rank * 3, 0, 2).astype(int),
        "ten": np.clip(rank * 10, 0, 9).astype(int),
        "number": score,
        "positive": np.exp(score / 4),
        "pair": pd.DataFrame({"a": score, "b": -score}),
    }[kind]


def encode(**options: Any) -> OneHotEncoder:
    return OneHotEncoder(handle_unknown="ignore", **options)


def _dense() -> Any:
    return make_column_transformer(
        (encode(sparse_output=False), ["origin", "carrier"]), (StandardScaler(), NUMBERS)
    )


def _sparse() -> Any:
    return make_column_transformer((encode(), ["carrier", "origin", "hour"]), remainder="passthrough")


def _imputed() -> Any:
    numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
    texts = make_pipeline(SimpleImputer(strategy="most_frequent"), encode(drop="if_binary"))
    return make_column_transformer((numbers, NUMBERS), (texts, ["origin"]), ("drop", ["carrier"]))


def _scaled_first() -> Any:
    return make_pipeline(StandardScaler(), SimpleImputer(), StandardScaler(with_std=False))


# Name: model, columns, target, whether there are nulls in the data, expected form, methods.
BOTH, PREDICT = ("predict_proba", "predict"), ("predict",)
Case = tuple[Callable[[], Any], list[str], str, bool, str, tuple[str, ...]]
CASES: dict[str, Case] = {
    "logistic": (lambda: LogisticRegression(max_iter=900), NUMBERS, "binary", False, "linear", BOTH),
    "scaled": (
        lambda: make_pipeline(StandardScaler(), LogisticRegression()),
        [*NUMBERS, "hour", "late"], "text", False, "linear", BOTH,
    ),
    "dense": (lambda: make_pipeline(_dense(), LogisticRegression()), MIXED, "three", False, "linear", BOTH),
    "sparse": (lambda: make_pipeline(_sparse(), LogisticRegression(max_iter=50)), MIXED, "binary", False, "linear", BOTH),
    "sparse-ten": (lambda: make_pipeline(_sparse(), LogisticRegression(max_iter=50)), MIXED, "ten", False, "linear", BOTH),
    "imputed": (lambda: make_pipeline(_imputed(), Ridge()), MIXED, "number", True, "linear", PREDICT),
    "scaled-first": (lambda: make_pipeline(_scaled_first(), Ridge()), NUMBERS, "number", True, "linear", PREDICT),
    "only-text": (lambda: make_pipeline(encode(), LogisticRegression()), ["origin", "carrier"], "binary", False, "linear", BOTH),
    "linear": (LinearRegression, [*NUMBERS, "hour"], "number", False, "linear", PREDICT),
    "two-outputs": (lambda: Ridge(fit_intercept=False), ["hour", "late"], "pair", False, "linear", PREDICT),
    "hist": (
        lambda: make_pipeline("passthrough", HistGradientBoostingClassifier(max_iter=12)),
        NUMBERS, "binary", True, "onnx", BOTH,
    ),
    "hist-ten": (lambda: HistGradientBoostingClassifier(max_iter=4), NUMBERS, "ten", True, "onnx", BOTH),
    "hist-mixed": (lambda: make_pipeline(_sparse().set_params(sparse_threshold=0), HistGradientBoostingClassifier(max_iter=8)),
        MIXED, "text", True, "onnx", BOTH,
    ),
    "hist-positive": (
        lambda: HistGradientBoostingRegressor(max_iter=8, loss="gamma"), NUMBERS, "positive", True, "onnx", PREDICT,
    ),
    "boosted": (lambda: GradientBoostingClassifier(n_estimators=8), NUMBERS, "binary", False, "onnx", BOTH),
    "boosted-exponential": (
        lambda: GradientBoostingClassifier(n_estimators=8, loss="exponential", init="zero"),
        NUMBERS, "text", False, "onnx", BOTH,
    ),
    "boosted-three": (
        lambda: make_pipeline(_dense(), GradientBoostingClassifier(n_estimators=5)), MIXED, "three", False, "onnx", BOTH,
    ),
    "boosted-number": (
        lambda: make_pipeline(StandardScaler(), GradientBoostingRegressor(n_estimators=8)),
        [*NUMBERS, "hour"], "number", False, "onnx", PREDICT,
    ),
    "forest": (lambda: RandomForestClassifier(20, random_state=1), [*NUMBERS, "hour"], "binary", True, "onnx", BOTH),
    "forest-three": (
        lambda: make_pipeline(_sparse(), RandomForestClassifier(12, random_state=1)), MIXED, "three", False, "onnx", BOTH,
    ),
    "forest-number": (lambda: RandomForestRegressor(12, random_state=1), NUMBERS, "number", False, "onnx", PREDICT),
    "stump": (lambda: RandomForestRegressor(3, max_depth=1, min_samples_leaf=400), NUMBERS, "number", False, "onnx", PREDICT),
}  # fmt: skip
VARIANTS = [(name, method) for name, case in CASES.items() for method in case[5]]


@cache
def fitted(name: str) -> tuple[Any, pd.DataFrame]:
    """Return the fitted model of a case and its input."""
    make, columns, kind, nulls, _, _ = CASES[name]
    frame = (with_nulls() if nulls else table())[columns]
    # On a busy machine threads that wait for each other turn a fit of a moment into seconds.
    with threadpool_limits(limits=1):
        return make().fit(frame, target(kind)), frame


def loaded(
    model: Any, frame: pd.DataFrame, folder: Path, method: str = "predict", **options: Any
) -> PyFuncModel:
    """Save a model as MLflow saves it and load it again."""
    options = {"signature": infer_signature(frame), "input_example": None, **options}
    mlflow.sklearn.save_model(
        model,
        folder / "model",
        pyfunc_predict_fn=method,
        serialization_format="cloudpickle",
        pip_requirements=["scikit-learn"],
        **options,
    )
    return mlflow.pyfunc.load_model(str(folder / "model"))


def as_mlflow(predictor: PyFuncModel, rows: Any) -> Any:
    """Return MLflow's own answers to decoded JSON rows in the order of the signature."""
    schema = predictor.metadata.get_input_schema()
    split = {"columns": schema.input_names(), "data": [list(row) for row in rows]}
    return _get_jsonable_obj(predictor.predict(dataframe_from_parsed_json(split, "split", schema)), "records")
