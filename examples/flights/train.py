"""Train and register the three versions of ``flight-delay``.

Version 1 is the plain champion. Version 2 knows the weather and the history of carrier, route and hour. Version 3 swaps
the warehouse's recent delays and weather for the streaming feed: better offline, where the warehouse delivers the feed
right, and harmful online, where it arrives hours old (see ``feeds.py``).
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

import pandas as pd

from examples.flights.feeds import LIVE_COLUMNS
from examples.flights.flights import HISTORY, LABEL, PREPARATION, FlightDataError, Flights

if TYPE_CHECKING:
    from mlflow.models import ModelSignature
    from sklearn.pipeline import Pipeline

MODEL: Final = "flight-delay"
TRAINING_EXPERIMENT: Final = "flight-delay-training"
TRAINING_WINDOW: Final = "2013-01-01/2013-03-31"
TRUSTED_TYPES: Final = ("sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",)
"""The one type beyond skops' own list that the boosted versions need. skops asks for it because a forged file could hold
node numbers that crash the process; these files are written by this module a moment before. Never a blanket list."""


@dataclass(frozen=True)
class Recipe:
    """What one version is made of.

    Attributes:
        feature_set: name of the set of columns, as tagged in the registry.
        categories: text columns, never null.
        numbers: numeric columns; those that may be null must be floats.
        boosted: gradient boosting if true, else logistic regression.
        purpose: one sentence for people.
    """

    feature_set: str
    categories: tuple[str, ...]
    numbers: tuple[str, ...]
    boosted: bool
    purpose: str

    @property
    def columns(self) -> list[str]:
        """Return the model's input columns in signature order."""
        return [*self.categories, *self.numbers]


RECIPES: Final[dict[int, Recipe]] = {
    1: Recipe(
        "schedule-1",
        ("origin", "carrier"),
        ("hour", "distance"),
        False,
        "Plain logistic regression on the schedule.",
    ),
    2: Recipe(
        "warehouse-2",
        (),
        ("minute_of_day", "distance", "humid", "wind_speed", "precip", "pressure", "visib", *HISTORY),
        True,
        "Gradient boosting on schedule, hourly weather, and as-of history by carrier, route and hour.",
    ),
    3: Recipe(
        "live-3",
        (),
        ("minute_of_day", "distance", *LIVE_COLUMNS),
        True,
        "Gradient boosting on the streaming feed of recent delays instead of weather and as-of history.",
    ),
}


def train_version(n: int, flights: Flights) -> str:
    """Train recipe ``n`` on January to March, log it with its evidence and register it.

    Args:
        n: number of the recipe (1, 2 or 3). The registry numbers versions itself: register them in order.
        flights: the prepared data.

    Returns:
        The version's number in the registry, as a string of digits. No alias or stage is set here.

    Raises:
        FlightDataError: if there is no such recipe or no tracking server is named.
    """
    if n not in RECIPES:
        raise FlightDataError(f"no recipe {n}; recipes are {sorted(RECIPES)}")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise FlightDataError("MLFLOW_TRACKING_URI is not set; fix: export the address of the MLflow server")
    import mlflow
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    recipe = RECIPES[n]
    reference, holdout = flights.read("reference"), flights.read("holdout")
    mlflow.set_experiment(TRAINING_EXPERIMENT)
    with mlflow.start_run(run_name=f"{MODEL}-{recipe.feature_set}"):
        for name, table in (("reference", reference), ("holdout", holdout)):
            _log_dataset(flights, name, table[[*recipe.columns, LABEL]])
        started = time.perf_counter()
        # On a busy machine threads that wait for each other turn a fit of a second into many.
        with threadpool_limits(limits=1):
            model = build_model(recipe).fit(reference[recipe.columns], reference[LABEL].astype("int64"))
        mlflow.log_metric("training_seconds", time.perf_counter() - started)
        mlflow.log_metrics(
            score(model, recipe, reference, "reference") | score(model, recipe, holdout, "holdout")
        )
        mlflow.log_params(
            {"recipe": n, "learner": type(model[-1]).__name__, "columns": ",".join(recipe.columns)}
        )
        return _register(model, recipe, flights, reference)


def build_model(recipe: Recipe) -> Pipeline:
    """Return the untrained pipeline of a recipe, made of scikit-learn's own parts only."""
    from sklearn.compose import ColumnTransformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    if recipe.boosted:
        # Trees take the numbers as they are, nulls included; few trees keep a single answer quick.
        learner = HistGradientBoostingClassifier(
            max_iter=50,
            learning_rate=0.1,
            max_leaf_nodes=15,
            min_samples_leaf=200,
            l2_regularization=5.0,
            early_stopping=False,
            random_state=2013,
        )
        return Pipeline([("columns", "passthrough"), ("model", learner)])
    prepared = ColumnTransformer(
        [
            (
                "categories",
                OneHotEncoder(handle_unknown="ignore", sparse_output=False),
                list(recipe.categories),
            ),
            ("numbers", StandardScaler(), list(recipe.numbers)),
        ]
    )
    return Pipeline([("columns", prepared), ("model", LogisticRegression(max_iter=500))])


def score(model: Pipeline, recipe: Recipe, table: pd.DataFrame, name: str) -> dict[str, float]:
    """Return Brier score, log loss and AUC of a model on a labelled table, keyed ``<name>_<metric>``."""
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    late, chance = table[LABEL], model.predict_proba(table[recipe.columns])[:, 1]
    return {
        f"{name}_brier": float(brier_score_loss(late, chance)),
        f"{name}_log_loss": float(log_loss(late, chance)),
        f"{name}_auc": float(roc_auc_score(late, chance)),
    }


def signature_of(recipe: Recipe, sample: pd.DataFrame) -> ModelSignature:
    """Return the signature: text, whole numbers that are never null as long, all else as double; two chances out."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    def kind(column: str) -> DataType:
        if column in recipe.categories:
            return DataType.string
        return DataType.long if pd.api.types.is_integer_dtype(sample[column]) else DataType.double

    inputs = Schema([ColSpec(kind(column), column) for column in recipe.columns])
    return ModelSignature(inputs=inputs, outputs=Schema([TensorSpec(np.dtype("float64"), (-1, 2))]))


def _log_dataset(flights: Flights, name: str, table: pd.DataFrame) -> None:
    """Log what the run read. Identity columns stay out, the aircraft's private mark among them."""
    import mlflow.data

    dataset = mlflow.data.from_pandas(
        table,
        source=str(flights.path(name)),
        name=f"flights/{name}",
        targets=LABEL,
        digest=flights.digests[name][:32],
    )
    mlflow.log_input(dataset, context={"reference": "training"}.get(name, name))


def _requirements() -> list[str]:
    """Name what loading needs. MLflow's own inference would load the model in a second process for seconds."""
    return [f"{name}=={version(name)}" for name in ("mlflow", "scikit-learn", "skops", "pandas", "numpy")]


def _register(model: Pipeline, recipe: Recipe, flights: Flights, reference: pd.DataFrame) -> str:
    """Log the model with signature and example, register it, tag the version, and return its number."""
    import mlflow
    import mlflow.sklearn

    sample = reference[recipe.columns].dropna().head(5)
    info = mlflow.sklearn.log_model(
        model,
        name="model",
        pyfunc_predict_fn="predict_proba",
        signature=signature_of(recipe, sample),
        input_example=sample,
        registered_model_name=MODEL,
        pip_requirements=_requirements(),
        skops_trusted_types=list(TRUSTED_TYPES) if recipe.boosted else None,
    )
    number = str(info.registered_model_version)
    tags: dict[str, Any] = {
        "training_window": TRAINING_WINDOW,
        "data_digest": flights.digests["reference"],
        "feature_set": recipe.feature_set,
        "preparation": PREPARATION,
        "owner": "flight-operations",
    }
    client = mlflow.MlflowClient()
    for key, value in tags.items():
        client.set_model_version_tag(MODEL, number, key, value)
    client.update_model_version(MODEL, number, description=recipe.purpose)
    return number
