"""Compares a compiled model with MLflow's own path, answer by answer, before it may serve."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from mlflow.models.utils import _enforce_schema
from mlflow.utils.proto_json_utils import _get_jsonable_obj, dataframe_from_parsed_json
from scipy.sparse import issparse
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from understudy.gateway.compiled.linear import Scorer
from understudy.gateway.compiled.matrix import Flag, Floats, Matrix, Number
from understudy.gateway.compiled.refusal import CannotCompile, Declined

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.pyfunc import PyFuncModel

__all__ = ["TOLERANCE", "Probe", "memory_order", "prove"]

TOLERANCE = 1e-12
"""Largest difference of a number, relative where it is beyond 1: what adding up ten thousand terms in double precision in
another order may cost (n times 1.1e-16). On the processors measured there is none; labels must always be the same."""

_FEWEST, _MOST = 64, 1024
_SINGLES = 12
_SMALL_BATCH = 5
_THRESHOLDS = 200
_CATEGORIES = 40
_NUMBERS = (0.0, 1.0, -1.0, 0.5, -0.25, 3.0, 1e-9, 47.0, -120.5)
_FAR_NUMBERS = (-1e5, 1e9, 2.0**31, -0.0)
_UNSEEN = ("", "unseen category", " ", "\u2603")


@dataclass(frozen=True)
class Probe:
    """What rows are made up from.

    Attributes:
        columns: Names of the columns.
        kinds: What each of them holds.
        nullable: Which of them may be null.
        matrix: The features that the model makes of them.
        thresholds: What its trees compare each feature with.
        example: Rows that came with the model.
    """

    columns: tuple[str, ...]
    kinds: tuple[str, ...]
    nullable: tuple[bool, ...]
    matrix: Matrix
    thresholds: Mapping[int, Floats]
    example: pd.DataFrame | None

    @cached_property
    def rows(self) -> list[list[Any]]:
        """The example's rows, then made-up ones, usual ones first, then odd ones. They are always the same."""
        usual = [_usual(self, column) for column in range(len(self.columns))]
        odd = [_odd(self, column) for column in range(len(self.columns))]
        count = min(max(_FEWEST, *map(len, usual)), _MOST)
        draw = random.Random(2013)
        both = [[*some, *others] for some, others in zip(usual, odd, strict=True)]
        made = [_cycled(values, count, draw) for values in usual]
        strange = [_cycled(values, _FEWEST, draw) for values in both]
        rows = [list(row) for cells in (made, strange) for row in zip(*cells, strict=True)]
        return [*self._given(), *rows]

    def _given(self) -> list[list[Any]]:
        if self.example is None or not set(self.columns) <= set(self.example.columns):
            return []
        table = self.example[list(self.columns)].head(_MOST).to_numpy(dtype=object).tolist()
        rows = [[_cell(*one) for one in zip(row, self.kinds, strict=True)] for row in table]
        return [
            row
            for row in rows
            if all(cell is not None or null for cell, null in zip(row, self.nullable, strict=True))
        ]


def memory_order(predictor: PyFuncModel, model: Any, probe: Probe) -> Literal["C", "F"]:
    """Return how the matrix that a model's last step is given lies in memory.

    Args:
        predictor: MLflow's loaded model.
        model: The scikit-learn model in it.
        probe: What rows are made up from.
    """
    schema = predictor.metadata.get_input_schema()
    table = _enforce_schema(_table(predictor, probe.columns, probe.rows[:_SMALL_BATCH]), schema)
    while isinstance(model, Pipeline):
        if len(model.steps) > 1:
            table = model[:-1].transform(table)
        model = model.steps[-1][1]
    return "F" if not issparse(table) and np.asarray(table).flags.f_contiguous else "C"


def prove(predictor: PyFuncModel, probe: Probe, score: Scorer) -> str:
    """Compare a scorer with MLflow's own path, and return a few words on how close it is.

    Rows that the scorer declines are left out: MLflow will answer them.

    Args:
        predictor: MLflow's loaded model.
        probe: What rows are made up from.
        score: The scorer.

    Raises:
        CannotCompile: It is not close enough, or MLflow refuses a row that it answers.
    """
    rows = probe.rows
    taken = [row for row in rows if _takes(score, row)]
    if len(taken) * 4 < len(rows):
        raise CannotCompile(f"only {len(taken)} of {len(rows)} probe rows could be compared")
    step = max(1, len(taken) // _SINGLES)
    batches = [taken, taken[:_SMALL_BATCH], *([row] for row in taken[::step])]
    # Threads of OpenMP that wait for each other on a busy machine turn each of these calls into a second.
    with threadpool_limits(limits=1, user_api="openmp"):
        wanted = [_as_mlflow(predictor, probe.columns, batch) for batch in batches]
    difference = max(_difference(score(batch), want) for batch, want in zip(batches, wanted, strict=True))
    if not difference <= TOLERANCE:
        raise CannotCompile(f"it would answer differently from MLflow: by {difference:.2g} on a probe row")
    close = f"within {difference:.1g} of" if difference else "bit for bit equal to"
    return f"{close} MLflow on {len(taken)} probe rows"


def _takes(score: Scorer, row: list[Any]) -> bool:
    try:
        score([row])
    except Declined:
        return False
    return True


def _as_mlflow(predictor: PyFuncModel, columns: Sequence[str], rows: list[list[Any]]) -> Any:
    try:
        return _get_jsonable_obj(predictor.predict(_table(predictor, columns, rows)), pandas_orient="records")
    except Exception as error:  # whatever a model raises
        raise CannotCompile(f"MLflow refuses a probe row with {type(error).__name__}") from error


def _table(predictor: PyFuncModel, columns: Sequence[str], rows: list[list[Any]]) -> pd.DataFrame:
    split = {"columns": list(columns), "data": rows}
    return dataframe_from_parsed_json(split, "split", predictor.metadata.get_input_schema())


def _difference(ours: Any, theirs: Any) -> float:
    """Return the largest difference between two answers; infinity where they are of another type, shape or label."""
    if type(ours) is not type(theirs):
        return math.inf
    if isinstance(ours, list):
        if len(ours) != len(theirs):
            return math.inf
        return max((_difference(*pair) for pair in zip(ours, theirs, strict=True)), default=0.0)
    if isinstance(ours, float):
        gap = abs(ours - theirs) / max(1.0, abs(theirs))
        return math.inf if math.isnan(gap) else gap
    return 0.0 if ours == theirs else math.inf


def _usual(probe: Probe, column: int) -> list[Any]:
    kind = probe.kinds[column]
    flags = [
        feature for feature in probe.matrix.features if isinstance(feature, Flag) and feature.column == column
    ]
    categories = [value for flag in flags[:1] for value in flag.known[:_CATEGORIES]]
    if kind == "text":
        return categories or ["a"]
    if kind == "boolean":
        return [False, True]
    numbers = {*_NUMBERS, *categories, *_near(probe, column)}
    if kind == "integer":
        whole = {int(near) for number in numbers for near in (math.floor(number), math.ceil(number))}
        return sorted(number for number in whole if abs(number) < 2**31)
    values: list[Any] = sorted(map(float, numbers))
    return [*values, *([None] * (len(values) // 8) if probe.nullable[column] else [])]


def _odd(probe: Probe, column: int) -> list[Any]:
    kind = probe.kinds[column]
    if kind == "text":
        return list(_UNSEEN)
    if kind == "boolean":
        return []
    return (
        list(_FAR_NUMBERS)
        if kind == "number"
        else [int(number) for number in _FAR_NUMBERS if abs(number) < 2**31]
    )


def _near(probe: Probe, column: int) -> list[float]:
    """Return numbers about which the model turns: a scaler's middle and a deviation from it, thresholds and their neighbours."""
    found: list[float] = []
    for place, feature in enumerate(probe.matrix.features):
        if not isinstance(feature, Number) or feature.column != column:
            continue
        found += [_before(feature, value) for value in (-1.0, 0.0, 1.0)]
        thresholds = probe.thresholds.get(place, np.zeros(0))
        chosen = np.linspace(0, len(thresholds) - 1, min(_THRESHOLDS, len(thresholds))).astype(int)
        for threshold in thresholds[chosen].tolist():
            middle = _before(feature, threshold)
            single = np.float32(middle)
            found += [middle, math.nextafter(middle, math.inf), math.nextafter(middle, -math.inf)]
            found += [float(np.nextafter(single, np.float32(way))) for way in (math.inf, -math.inf)]
    return [number for number in found if math.isfinite(number)]


def _before(feature: Number, value: float) -> float:
    """Return the number of a request of which a feature's operations make about this value."""
    for kind, operand in reversed(feature.operations):
        if kind == "divide":
            value *= operand
        elif kind == "subtract":
            value += operand
    return value


def _cycled(values: list[Any], count: int, draw: random.Random) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        found += draw.sample(values, len(values))
    return found[:count]


def _cell(value: Any, kind: str) -> Any:
    """Return a cell of the example as JSON would have it; None where it is null or of another kind."""
    if hasattr(value, "item"):
        value = value.item()
    if kind == "text":
        return value if isinstance(value, str) else None
    if kind == "boolean":
        return value if isinstance(value, bool) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value) if kind == "integer" else float(value)
