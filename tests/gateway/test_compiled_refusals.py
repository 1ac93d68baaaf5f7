"""What cannot be compiled, or would answer differently, is left to MLflow, and so are single rows outside the proof."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.models import ModelSignature, infer_signature
from mlflow.types import ColSpec, DataType, Schema, TensorSpec
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler

from tests.gateway.compiled_models import (
    NUMBERS,
    as_mlflow,
    encode,
    fitted,
    loaded,
    table,
    target,
    with_nulls,
)
from understudy.gateway.compiled import Compiled, compile_model, linear, session, trees


class Doubled(StandardScaler):
    """A user's own step, which calls itself a scaler."""

    def transform(self, X: Any, copy: bool | None = None) -> Any:  # noqa: N803
        return super().transform(X, copy) * 2


class Clipped(LogisticRegression):
    """A user's own model."""

    def predict_proba(self, X: Any) -> Any:  # noqa: N803
        return np.clip(super().predict_proba(X), 0.1, 0.9)


class OwnModel(mlflow.pyfunc.PythonModel):
    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> Any:
        return model_input["distance"] * 2


def compiled(predictor: Any, probe: pd.DataFrame | None = None) -> Compiled:
    found, reason = compile_model(predictor, probe)
    assert found is not None, reason
    return found


def _fit(model: Any, columns: list[str], kind: str = "binary") -> tuple[Any, pd.DataFrame]:
    frame = table()[columns]
    return model.fit(frame, target(kind)), frame


def _always_null() -> tuple[Any, pd.DataFrame]:
    frame = with_nulls()[NUMBERS]
    frame["humid"] = np.nan
    return make_pipeline(SimpleImputer(), LogisticRegression()).fit(frame, target("binary")), frame


_REFUSED: dict[str, tuple[Callable[[], tuple[Any, pd.DataFrame]], str]] = {
    "own step": (lambda: _fit(make_pipeline(Doubled(), LogisticRegression()), NUMBERS), "a step is a Doubled"),
    "own model": (lambda: _fit(Clipped(), NUMBERS), "a Clipped is not among"),
    "function": (
        lambda: _fit(make_pipeline(FunctionTransformer(np.log1p), LogisticRegression()), NUMBERS),
        "a function of its own",
    ),
    "other model": (lambda: _fit(KNeighborsClassifier(), NUMBERS), "a KNeighborsClassifier is not among"),
    "other step": (
        lambda: _fit(make_pipeline(OrdinalEncoder(), RandomForestClassifier(2)), ["origin"]),
        "a step is a OrdinalEncoder",
    ),
    "infrequent": (
        lambda: _fit(make_pipeline(encode(max_categories=3), LogisticRegression()), ["carrier"]),
        "infrequent categories",
    ),
    "weights": (
        lambda: _fit(
            make_pipeline(
                make_column_transformer((StandardScaler(), NUMBERS)).set_params(transformer_weights={"standardscaler": 2}),
                LogisticRegression(),
            ),
            NUMBERS,
        ),
        "has weights",
    ),
    "encoded and scaled": (
        lambda: _fit(make_pipeline(encode(sparse_output=False), StandardScaler(), LogisticRegression()), ["origin"]),
        "StandardScaler follows a OneHotEncoder",
    ),
    "indicator": (
        lambda: _fit(make_pipeline(SimpleImputer(add_indicator=True), LogisticRegression()), NUMBERS),
        "adds indicators",
    ),
    "always null": (_always_null, "always null"),
    "categorical": (
        lambda: _fit(HistGradientBoostingClassifier(max_iter=2, categorical_features=["hour"]), [*NUMBERS, "hour"]),
        "categorical features",
    ),
    "own start": (
        lambda: _fit(GradientBoostingClassifier(n_estimators=2, init=DummyClassifier()), NUMBERS),
        "starts from a model of its own",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(_REFUSED))
def test_a_model_with_something_of_its_own_is_not_compiled_and_says_what(name: str, tmp_path: Path) -> None:
    make, why = _REFUSED[name]
    found, reason = compile_model(loaded(*make(), tmp_path))
    assert found is None
    assert reason.startswith("not compiled: ")
    assert why in reason


def test_a_python_model_is_not_compiled(tmp_path: Path) -> None:
    mlflow.pyfunc.save_model(
        tmp_path / "model",
        python_model=OwnModel(),
        signature=infer_signature(table()[NUMBERS]),
        pip_requirements=["mlflow"],
    )
    found, reason = compile_model(mlflow.pyfunc.load_model(str(tmp_path / "model")))
    assert found is None
    assert "mlflow.pyfunc.model" in reason


def _columns(*kinds: DataType) -> ModelSignature:
    return ModelSignature(Schema([ColSpec(kind, name) for kind, name in zip(kinds, NUMBERS, strict=True)]))


@pytest.mark.parametrize(
    ("signature", "why"),
    [
        (False, "no signature"),
        (ModelSignature(Schema([TensorSpec(np.dtype("float64"), (-1, 3))])), "does not name columns"),
        (_columns(DataType.double, DataType.float, DataType.double), "'humid' is of type float"),
        (_columns(DataType.double, DataType.double, DataType.datetime), "'pressure' is of type datetime"),
        # The same columns in another order are an error in scikit-learn, and so for every row.
        (
            ModelSignature(Schema([ColSpec(DataType.double, name) for name in reversed(NUMBERS)])),
            "MLflow refuses",
        ),
    ],
)
def test_a_signature_without_plain_named_columns_is_not_compiled(
    signature: Any, why: str, tmp_path: Path
) -> None:
    model, frame = fitted("logistic")
    found, reason = compile_model(loaded(model, frame, tmp_path, signature=signature))
    assert found is None
    assert why in reason


def test_an_answer_that_is_neither_label_nor_probability_is_not_compiled(tmp_path: Path) -> None:
    found, reason = compile_model(loaded(*fitted("logistic"), tmp_path, "predict_log_proba"))
    assert found is None
    assert "predict_log_proba" in reason


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingClassifier(max_iter=5),
        GradientBoostingClassifier(n_estimators=5),
        RandomForestClassifier(5, max_depth=3, random_state=1),
    ],
)
def test_a_split_that_was_moved_is_found_out(
    model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = session.tree_session

    def moved(forest: Any, targets: int, features: int) -> Any:
        first = next(at for at, tree in enumerate(forest) if (tree.left >= 0).any())
        threshold = forest[first].threshold.copy()
        threshold[0] += 1e-3
        forest[first] = replace(forest[first], threshold=threshold)
        return honest(forest, targets, features)

    monkeypatch.setattr(session, "tree_session", moved)
    found, reason = compile_model(loaded(*_fit(model, NUMBERS), tmp_path, "predict_proba"))
    assert found is None
    assert "differently from MLflow" in reason


def test_single_precision_in_a_model_of_double_precision_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = session.tree_session

    def single(*arguments: Any) -> Any:
        run = honest(*arguments)
        return lambda matrix: run(matrix.astype(np.float32).astype(np.float64))

    monkeypatch.setattr(session, "tree_session", single)
    found, reason = compile_model(loaded(*fitted("hist"), tmp_path, "predict_proba"))
    assert found is None
    assert "differently from MLflow" in reason


def test_double_precision_in_a_model_of_single_precision_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "_rounded", lambda matrix: matrix.build)
    found, reason = compile_model(loaded(*fitted("forest"), tmp_path, "predict_proba"))
    assert found is None
    assert "differently from MLflow" in reason


def test_coefficients_that_differ_a_little_are_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = linear._product
    monkeypatch.setattr(
        linear, "_product", lambda estimator: lambda matrix: honest(estimator)(matrix) * (1 + 1e-9)
    )
    found, reason = compile_model(loaded(*fitted("logistic"), tmp_path, "predict_proba"))
    assert found is None
    assert "differently from MLflow" in reason


def test_labels_of_another_type_are_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = linear._classes
    monkeypatch.setattr(
        linear, "_classes", lambda *given: lambda scores: [float(label) for label in honest(*given)(scores)]
    )
    found, reason = compile_model(loaded(*fitted("logistic"), tmp_path))
    assert found is None
    assert "differently from MLflow: by inf" in reason


def test_a_model_that_fails_while_it_is_read_is_not_compiled(tmp_path: Path) -> None:
    predictor = loaded(*fitted("scaled"), tmp_path)
    del predictor.get_raw_model()[0].scale_
    found, reason = compile_model(predictor)
    assert found is None
    assert reason == "not compiled: AttributeError while it was read"


def test_too_many_nodes_are_not_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "_MOST_NODES", 50)
    found, reason = compile_model(loaded(*fitted("forest"), tmp_path))
    assert found is None
    assert "more than 50" in reason


@pytest.mark.parametrize(
    "cell", [1e16, -1e300, 2**53 + 2, 10**400, float("inf"), float("-inf"), float("nan")]
)
@pytest.mark.parametrize("name", ["logistic", "scaled", "boosted"])
def test_numbers_that_scikit_learn_may_refuse_are_left_to_mlflow(
    name: str, cell: Any, tmp_path: Path
) -> None:
    model, frame = fitted(name)
    rows = frame.head(3).astype(object).to_numpy().tolist()
    quick = compiled(loaded(model, frame, tmp_path))
    assert quick.predict(rows) is not None
    rows[1][1] = cell
    assert quick.predict(rows) is None
    assert quick.predict(rows[1:2]) is None


def test_infinity_is_left_to_mlflow_even_where_its_coefficient_is_zero(tmp_path: Path) -> None:
    model, frame = _fit(Ridge(), NUMBERS, "number")
    model.coef_[1] = 0.0
    quick = compiled(loaded(model, frame, tmp_path))
    for cell in (float("inf"), float("nan")):
        assert quick.predict([(1.0, cell, 2.0)]) is None
        assert quick.predict([(1.0, 0.0, 2.0), (1.0, cell, 2.0)]) is None


def test_a_result_that_is_not_finite_is_left_to_mlflow(tmp_path: Path) -> None:
    model, frame = _fit(Ridge(), NUMBERS, "number")
    model.coef_[:] = 1e300
    model.intercept_ = 0.0
    quick = compiled(loaded(model, frame, tmp_path))
    assert quick.predict([(1.0, 2.0, 3.0)]) == [6e300]
    assert quick.predict([(1e15, 2.0, 3.0)]) is None


def test_whole_numbers_past_32_bits_are_left_to_mlflow_where_the_signature_has_32(tmp_path: Path) -> None:
    frame = table()[["hour"]].astype("int32")
    model = make_pipeline(encode(), LogisticRegression()).fit(frame, target("binary"))
    predictor = loaded(model, frame, tmp_path)
    quick = compiled(predictor)
    assert quick.kinds == ("integer",)
    assert quick.predict([(7,)]) == as_mlflow(predictor, [(7,)])
    assert quick.predict([(2**31 - 1,)]) == as_mlflow(predictor, [(2**31 - 1,)])
    # MLflow wraps this around to 7.
    assert quick.predict([(2**32 + 7,)]) is None


def test_an_unknown_category_is_left_to_mlflow_where_it_is_an_error(tmp_path: Path) -> None:
    model, frame = _fit(make_pipeline(OneHotEncoder(), LogisticRegression()), ["origin"])
    predictor = loaded(model, frame, tmp_path)
    quick = compiled(predictor)
    assert quick.predict([("JFK",)]) == as_mlflow(predictor, [("JFK",)])
    assert quick.predict([("JFK",), ("SFO",)]) is None


def test_text_that_ends_in_a_zero_byte_is_left_to_mlflow_which_cuts_it_off_in_some_formats(
    tmp_path: Path,
) -> None:
    quick = compiled(loaded(*fitted("only-text"), tmp_path))
    assert quick.predict([("JFK", "C1")]) is not None
    assert quick.predict([("JFK\0", "C1")]) is None


def test_no_rows_and_very_many_cells_are_left_to_mlflow(tmp_path: Path) -> None:
    quick = compiled(loaded(*fitted("logistic"), tmp_path))
    assert quick.predict([]) is None
    assert quick.predict([(1.0, 2.0, 3.0)] * 700_000) is None


def test_rows_of_an_example_take_part_in_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that is wrong for one value only is found out by an example that has the value."""
    honest = linear._product

    def wrong(estimator: Any) -> Any:
        return lambda matrix: honest(estimator)(matrix) + np.where(matrix[:, :1] == 4321.5, 1e-6, 0.0)

    predictor = loaded(*fitted("logistic"), tmp_path, "predict_proba")
    monkeypatch.setattr(linear, "_product", wrong)
    assert compile_model(predictor).compiled is not None
    example = table()[NUMBERS].head(2)
    example.loc[0, "distance"] = 4321.5
    assert compile_model(predictor, example).compiled is None
    predictor.input_example = example
    assert compile_model(predictor).compiled is None


def test_onnx_and_scikit_learn_are_imported_when_a_model_needs_them(tmp_path: Path) -> None:
    loaded(*fitted("logistic"), tmp_path / "linear")
    loaded(*fitted("hist"), tmp_path / "trees")
    script = """
import sys
import understudy.gateway.compiled as compiled
assert "sklearn" not in sys.modules
import mlflow
for name, expected in (("linear", False), ("trees", True)):
    found, reason = compiled.compile_model(mlflow.pyfunc.load_model(f"{sys.argv[1]}/{name}/model"))
    assert found is not None, reason
    assert ("onnxruntime" in sys.modules) == ("onnx" in sys.modules) == expected, name
"""
    plugins = Path(compile_model.__code__.co_filename).parents[3]
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env={"PYTHONPATH": str(plugins), "MLFLOW_DISABLE_TELEMETRY": "true"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
