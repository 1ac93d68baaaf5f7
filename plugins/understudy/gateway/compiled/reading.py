"""Reads the fitted steps of a scikit-learn pipeline as features: what each column of the last step's matrix is.

Only steps whose arithmetic is repeated exactly are read. A class is asked for by identity: a subclass may do anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from understudy.gateway.compiled.matrix import Feature, Flag, Number, Operation
from understudy.gateway.compiled.refusal import CannotCompile

__all__ = ["Prepared", "read_pipeline"]


@dataclass(frozen=True)
class Prepared:
    """What comes out of a step.

    Attributes:
        features: Its columns.
        sparse: Whether it is a sparse matrix, over which scikit-learn adds in another order.
        names: Names of the columns, as long as it is the table that came in.
    """

    features: tuple[Feature, ...]
    sparse: bool = False
    names: tuple[str, ...] | None = None


def read_pipeline(model: Any, columns: Sequence[str]) -> tuple[Any, Prepared]:
    """Return a model's last step and what it is given.

    Args:
        model: A fitted estimator, or a pipeline that ends in one.
        columns: Names of the columns of the table that the model is given.

    Raises:
        CannotCompile: A step is none of those that are read.
    """
    given = Prepared(tuple(Number(place) for place in range(len(columns))), names=tuple(columns))
    while type(model) is Pipeline:
        for _, step in model.steps[:-1]:
            given = _through(step, given)
        model = model.steps[-1][1]
    return model, given


def _through(step: Any, given: Prepared) -> Prepared:
    if step is None or isinstance(step, str):
        if step in (None, "passthrough"):
            return given
        raise CannotCompile(f"a step says {step!r}")
    read = _READERS.get(type(step))
    if read is None:
        raise CannotCompile(f"a step is a {type(step).__name__}")
    return read(step, given)


def _pipeline(step: Any, given: Prepared) -> Prepared:
    for _, inner in step.steps:
        given = _through(inner, given)
    return given


def _function(step: Any, given: Prepared) -> Prepared:
    # This is what a column transformer makes of "passthrough".
    if step.func is not None:
        raise CannotCompile("a step is a FunctionTransformer with a function of its own")
    return given


def _scaler(step: Any, given: Prepared) -> Prepared:
    numbers = _numbers(step, given)
    if step.with_mean:
        numbers = _then(numbers, "subtract", step.mean_)
    if step.with_std:
        numbers = _then(numbers, "divide", step.scale_)
    return Prepared(tuple(numbers))


def _imputer(step: Any, given: Prepared) -> Prepared:
    numbers = _numbers(step, given)
    if step.add_indicator or not (isinstance(step.missing_values, float) and math.isnan(step.missing_values)):
        raise CannotCompile("a SimpleImputer adds indicators, or looks for another value than null")
    statistics = step.statistics_.tolist()
    # A text fill stands for text that is null, which is never answered here.
    fills = [number if isinstance(number, int | float) else 0.0 for number in statistics]
    if any(math.isnan(fill) for fill in fills):
        raise CannotCompile("a SimpleImputer drops a column that was always null")
    return Prepared(tuple(_then(numbers, "fill", fills)))


def _one_hot(step: Any, given: Prepared) -> Prepared:
    numbers = _numbers(step, given)
    if step._infrequent_enabled:
        raise CannotCompile("a OneHotEncoder gathers infrequent categories")
    dropped = [None] * len(numbers) if step.drop_idx_ is None else step.drop_idx_
    flags: list[Feature] = []
    for number, categories, drop in zip(numbers, step.categories_, dropped, strict=True):
        if any(kind != "fill" for kind, _ in number.operations):
            raise CannotCompile("a OneHotEncoder follows a scaler")
        known = tuple(categories.tolist())
        if any(value is None or value != value for value in known):
            raise CannotCompile("a OneHotEncoder has null as a category")
        strict = step.handle_unknown == "error"
        flags += [Flag(number.column, value, known, strict) for at, value in enumerate(known) if at != drop]
    return Prepared(tuple(flags), sparse=step.sparse_output)


def _columns(step: Any, given: Prepared) -> Prepared:
    if step.transformer_weights:
        raise CannotCompile("a ColumnTransformer has weights")
    if given.sparse:
        raise CannotCompile("a ColumnTransformer is given a sparse matrix")
    features: list[Feature] = []
    for name, inner, _ in step.transformers_:
        chosen = [_chosen(step, place, given) for place in step._transformer_to_input_indices[name]]
        if not chosen or (isinstance(inner, str) and inner == "drop"):
            continue
        features += _through(inner, Prepared(tuple(chosen))).features
    return Prepared(tuple(features), sparse=step.sparse_output_)


def _chosen(step: Any, place: int, given: Prepared) -> Feature:
    """Return the feature at a place of the table that a column transformer was fitted on; it picks columns by name."""
    if given.names is None or not hasattr(step, "feature_names_in_"):
        return given.features[place]
    name = step.feature_names_in_[place]
    if name not in given.names:
        raise CannotCompile(f"the signature has no column {name!r}")
    return given.features[given.names.index(name)]


def _numbers(step: Any, given: Prepared) -> list[Number]:
    if given.sparse:
        raise CannotCompile(f"a {type(step).__name__} is given a sparse matrix")
    if any(isinstance(feature, Flag) for feature in given.features):
        raise CannotCompile(f"a {type(step).__name__} follows a OneHotEncoder")
    return cast(list[Number], list(given.features))


def _then(numbers: Sequence[Number], kind: Any, values: Sequence[float]) -> list[Number]:
    return [
        replace(number, operations=(*number.operations, cast(Operation, (kind, float(value)))))
        for number, value in zip(numbers, values, strict=True)
    ]


_READERS: dict[type, Callable[[Any, Prepared], Prepared]] = {
    ColumnTransformer: _columns,
    FunctionTransformer: _function,
    OneHotEncoder: _one_hot,
    Pipeline: _pipeline,
    SimpleImputer: _imputer,
    StandardScaler: _scaler,
}
