"""Compiles a loaded model, or says why not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from understudy.gateway.compiled.refusal import CannotCompile, Declined

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.pyfunc import PyFuncModel

    from understudy.gateway.compiled.linear import Scorer

__all__ = ["Compilation", "Compiled", "compile_model"]

Kind = Literal["number", "integer", "text", "boolean"]

_KINDS: dict[str, Kind] = {
    "double": "number",
    "long": "integer",
    "integer": "integer",
    "string": "text",
    "boolean": "boolean",
}
_EXACT = 2.0**53
_EXACT_SHORT = 2.0**31 - 1
_FORMS = {"linear": "linear algebra", "onnx": "ONNX in double precision"}
_METHODS = ("predict", "predict_proba")


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model as a plain function. It may be called by several threads at once.

    Attributes:
        columns: Names of the columns that a row has, in the order of the model's signature.
        kinds: What each column holds: ``number`` is a Python float or int, ``integer`` an int, ``text`` a str, ``boolean`` a
            bool, and a bool is never a number.
        nullable: Which columns may be None, which MLflow reads as NaN; only numbers may. Where it is False, a row with null
            has to go MLflow's way.
        how: ``linear`` or ``onnx``.
        explain: How, and how close it is to MLflow; a sentence for people.
    """

    columns: tuple[str, ...]
    kinds: tuple[Kind, ...]
    nullable: tuple[bool, ...]
    how: Literal["linear", "onnx"]
    explain: str
    _score: Scorer = field(repr=False)

    def predict(self, rows: Sequence[Sequence[Any]]) -> list[Any] | None:
        """Return what MLflow would answer, as JSON-safe data, one item a row; nothing where MLflow has to be asked.

        That is where a number is beyond 2**53 (2**31 - 1 where the signature has 32-bit integers), where a category is
        unknown and the model does not ignore those, where a result is not finite, and where there are very many cells.

        Args:
            rows: Cells in the order of `columns`, of exactly the types of `kinds`: this is not checked again.
        """
        try:
            return self._score(rows)
        except Declined:
            return None


class Compilation(NamedTuple):
    """What became of a model.

    Attributes:
        compiled: The compiled model, if it could be had.
        reason: How it was compiled, or why it was not; a sentence for people.
    """

    compiled: Compiled | None
    reason: str


def compile_model(predictor: PyFuncModel, probe: pd.DataFrame | None = None) -> Compilation:
    """Turn a model into a plain function and prove on probe rows that it answers what MLflow answers.

    Compiled are scikit-learn's linear and logistic regression, Ridge, gradient boosting and random forests, alone or after
    scaling, imputing and one-hot encoding, with a signature of named columns. Everything else stays as it is.

    Args:
        predictor: MLflow's loaded model.
        probe: Rows that the model was made for; by default the input example that was saved with it.
    """
    try:
        compiled = _compile(predictor, predictor.input_example if probe is None else probe)
    except CannotCompile as refusal:
        return Compilation(None, f"not compiled: {refusal}")
    except Exception as error:
        # A model that was made by another version of scikit-learn may lack any attribute. The text may quote a value.
        return Compilation(None, f"not compiled: {type(error).__name__} while it was read")
    return Compilation(compiled, compiled.explain)


def _compile(predictor: PyFuncModel, example: Any) -> Compiled:
    columns, types = _signature(predictor)
    model, method = _sklearn(predictor)
    # scikit-learn is there by now, as the model is one of its own.
    import pandas as pd

    from understudy.gateway.compiled.linear import read_linear
    from understudy.gateway.compiled.matrix import Flag, Matrix
    from understudy.gateway.compiled.proof import Probe, memory_order, prove
    from understudy.gateway.compiled.reading import read_pipeline
    from understudy.gateway.compiled.trees import read_ensemble

    kinds = tuple(_KINDS[name] for name in types)
    limit = _EXACT_SHORT if "integer" in types else _EXACT
    estimator, given = read_pipeline(model, columns)
    for feature in given.features:
        if kinds[feature.column] == "text" and not isinstance(feature, Flag):
            raise CannotCompile(f"text of column {columns[feature.column]!r} is not one-hot encoded")
    last = read_linear(estimator, method) or read_ensemble(estimator, method)
    if last is None:
        raise CannotCompile(f"a {type(estimator).__name__} is not among the models that can be")
    # What takes NaN takes none in a sparse matrix.
    matrix = Matrix(given.features, limit, nulls=last.nulls and not given.sparse)
    nullable = tuple(kind == "number" and matrix.takes_null(column) for column, kind in enumerate(kinds))
    rows = example if isinstance(example, pd.DataFrame) else None
    probe = Probe(columns, kinds, nullable, matrix, last.thresholds(), rows)
    score = last.scorer(matrix, given.sparse, memory_order(predictor, model, probe))
    explain = f"compiled to {_FORMS[last.how]}, {prove(predictor, probe, score)}"
    return Compiled(columns, kinds, nullable, last.how, explain, score)


def _signature(predictor: PyFuncModel) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and MLflow's types of the columns that a model takes."""
    schema = predictor.metadata.get_input_schema()
    if schema is None:
        raise CannotCompile("it has no signature")
    if schema.is_tensor_spec() or not schema.has_input_names():
        raise CannotCompile("its signature does not name columns")
    names = tuple(schema.input_names())
    types = tuple(getattr(spec.type, "name", type(spec.type).__name__) for spec in schema.inputs)
    for name, kind in zip(names, types, strict=True):
        if kind not in _KINDS:
            raise CannotCompile(f"column {name!r} is of type {kind}")
    return names, types


def _sklearn(predictor: PyFuncModel) -> tuple[Any, str]:
    """Return the scikit-learn model behind a predictor, and the method of it that answers."""
    if predictor.loader_module != "mlflow.sklearn":
        raise CannotCompile(f"it is loaded by {predictor.loader_module}, not by mlflow.sklearn")
    method = predictor.metadata.flavors["python_function"].get("predict_fn", "predict")
    if method not in _METHODS:
        raise CannotCompile(f"it answers with {method}")
    return predictor.get_raw_model(), method
