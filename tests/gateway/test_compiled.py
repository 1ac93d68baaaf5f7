"""A compiled model answers what MLflow answers, for every kind of model that is compiled."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from examples.flights.train import RECIPES, build_model, signature_of
from tests.gateway.compiled_models import CASES, VARIANTS, as_mlflow, fitted, loaded
from understudy.gateway.compiled import Compiled, compile_model
from understudy.gateway.compiled.proof import TOLERANCE

_MODELS: dict[tuple[str, str], tuple[Any, Compiled]] = {}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads of OpenMP that wait for each other on a busy machine turn each of MLflow's answers into a second."""
    with threadpool_limits(limits=1, user_api="openmp"):
        yield


@pytest.fixture
def both(name: str, method: str, tmp_path: Path) -> tuple[Any, Compiled]:
    """Return a model as MLflow loads it and as it is compiled; each is made once."""
    if (name, method) not in _MODELS:
        model, frame = fitted(name)
        predictor = loaded(model, frame, tmp_path, method)
        compiled, reason = compile_model(predictor)
        assert compiled is not None, reason
        _MODELS[name, method] = predictor, compiled
    return _MODELS[name, method]


def same(ours: Any, theirs: Any, exact: bool) -> bool:
    """Return whether two answers are of the same types and shape, with the same labels and (nearly) the same numbers."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(same(*pair, exact) for pair in zip(ours, theirs, strict=True))
    if isinstance(ours, float) and not exact:
        return math.isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    return bool(ours == theirs)


def thresholds(name: str) -> list[float]:
    """Return numbers about which the trees of a case turn, and their neighbours in both precisions."""
    model, _ = fitted(name)
    last = model[-1] if hasattr(model, "steps") else model
    if hasattr(last, "_predictors"):
        found = [
            nodes["num_threshold"] for stage in last._predictors for nodes in [tree.nodes for tree in stage]
        ]
    elif hasattr(last, "estimators_"):
        found = [tree.tree_.threshold for tree in np.ravel(np.asarray(last.estimators_, dtype=object))]
    else:
        return [0.0]
    at = np.unique(np.concatenate(found))
    at = at[np.isfinite(at)][:: max(1, len(at) // 40)]
    single = at.astype(np.float32)
    near = [at, np.nextafter(at, np.inf), np.nextafter(at, -np.inf)]
    near += [np.nextafter(single, np.float32(way)).astype(float) for way in (np.inf, -np.inf)]
    return [float(number) for number in np.concatenate(near)]


def cells(compiled: Compiled, near: list[float]) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """Return rows of everything that JSON can hold in each column."""
    numbers = (
        st.sampled_from(near)
        | st.floats(-3000, 3000)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.integers(-30, 3000)
        | st.integers()
    )
    kinds: dict[str, st.SearchStrategy[Any]] = {
        "number": numbers,
        "integer": st.integers(-5, 30) | st.integers(-(2**63), 2**63 - 1),
        "text": st.sampled_from(["JFK", "LGA", "EWR", "C1", "C11", "jfk", "JFK ", "", "nan", "1"])
        | st.text(),
        "boolean": st.booleans(),
    }
    columns = [
        kinds[kind] | st.none() if null else kinds[kind]
        for kind, null in zip(compiled.kinds, compiled.nullable, strict=True)
    ]
    return st.lists(st.tuples(*columns), min_size=1, max_size=12)


@pytest.mark.parametrize(("name", "method"), VARIANTS)
def test_rows_of_all_sorts_are_answered_as_mlflow_answers_them(
    both: tuple[Any, Compiled], name: str, method: str
) -> None:
    predictor, compiled = both
    assert compiled.how == CASES[name][4]

    @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(rows=cells(compiled, thresholds(name)))
    def check(rows: list[tuple[Any, ...]]) -> None:
        answers = compiled.predict(rows)
        if answers is not None:
            assert same(answers, as_mlflow(predictor, rows), exact=compiled.how == "onnx")

    check()


@pytest.mark.parametrize(("name", "method"), VARIANTS)
def test_the_rows_that_a_model_was_made_for_are_all_answered_one_by_one_and_together(
    both: tuple[Any, Compiled], name: str, method: str
) -> None:
    predictor, compiled = both
    _, frame = fitted(name)
    table = frame.head(60).astype(object)
    rows = [tuple(row) for row in table.where(table.notna(), None).to_numpy().tolist()]
    rows = [
        row
        for row in rows
        if all(cell is not None or null for cell, null in zip(row, compiled.nullable, strict=True))
    ]
    exact = compiled.how == "onnx"
    assert same(compiled.predict(rows), as_mlflow(predictor, rows), exact)
    for row in rows[:12]:
        assert same(compiled.predict([row]), as_mlflow(predictor, [row]), exact)


@pytest.mark.parametrize(
    ("name", "nullable"),
    [
        ("hist", (True, True, True)),
        ("logistic", (False, False, False)),
        ("imputed", (False, True, True, True, False, False, False)),
        ("forest", (True, True, True, False)),
        ("forest-three", (False, False, False, False, False, False, False)),
        ("boosted", (False, False, False)),
    ],
)  # fmt: skip
def test_null_is_taken_where_the_model_makes_sense_of_it(
    name: str, nullable: tuple[bool, ...], tmp_path: Path
) -> None:
    compiled, reason = compile_model(loaded(*fitted(name), tmp_path))
    assert compiled is not None, reason
    assert compiled.nullable == nullable


@pytest.mark.parametrize("number", sorted(RECIPES))
def test_the_models_of_the_flight_example_are_compiled(number: int, tmp_path: Path) -> None:
    import mlflow

    recipe, rng = RECIPES[number], np.random.default_rng(number)
    frame = pd.DataFrame(
        {name: rng.choice(["EWR", "JFK", "UA", "B6"], 900) for name in recipe.categories}
        | {name: rng.normal(100, 40, 900) for name in recipe.numbers}
    )
    whole = [name for name in recipe.numbers if name in ("hour", "distance", "minute_of_day")]
    frame[whole] = frame[whole].astype("int64")
    rest = [name for name in recipe.numbers if name not in whole]
    frame[rest] = frame[rest].mask(rng.random((900, len(rest))) < 0.1)
    model = build_model(recipe).fit(frame, (frame["distance"] > 110).astype("int64"))
    sample = frame.dropna().head(5)
    folder = tmp_path / "model"
    mlflow.sklearn.save_model(
        model, folder, pyfunc_predict_fn="predict_proba", signature=signature_of(recipe, sample),
        input_example=sample, serialization_format="cloudpickle", pip_requirements=["scikit-learn"],
    )  # fmt: skip
    predictor = mlflow.pyfunc.load_model(str(folder))
    compiled, reason = compile_model(predictor)
    assert compiled is not None, reason
    assert compiled.how == ("onnx" if recipe.boosted else "linear")
    assert [name for name, null in zip(compiled.columns, compiled.nullable, strict=True) if null] == (
        rest if recipe.boosted else []
    )
    table = frame.astype(object)
    rows = table.where(table.notna(), None).to_numpy().tolist()
    rows = [row for row in rows if recipe.boosted or None not in row][:200]
    assert same(compiled.predict(rows), as_mlflow(predictor, rows), exact=recipe.boosted)


@pytest.mark.parametrize(("name", "method"), [("dense", "predict_proba"), ("forest", "predict_proba")])
def test_several_threads_may_ask_at_once(both: tuple[Any, Compiled], name: str, method: str) -> None:
    _, compiled = both
    _, frame = fitted(name)
    rows = [tuple(row) for row in frame.dropna().head(40).astype(object).to_numpy().tolist()]
    wanted = [compiled.predict([row]) for row in rows]
    wrong: list[Any] = []

    def ask() -> None:
        for _ in range(20):
            for row, want in zip(rows, wanted, strict=True):
                if compiled.predict([row]) != want:
                    wrong.append(row)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
