"""Linear and logistic models as plain linear algebra, in the steps of scikit-learn 1.9's own ``predict``.

The scores are the matrix times the coefficients plus the intercept; probabilities are their logistic function or softmax.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from scipy.special import expit
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from understudy.gateway.compiled.matrix import Floats, Matrix, Rows
from understudy.gateway.compiled.refusal import Declined

__all__ = ["Linear", "Scorer", "read_linear"]

Scorer = Callable[[Rows], list[Any]]

_REGRESSORS = (LinearRegression, Ridge)


@dataclass(frozen=True)
class Linear:
    """A fitted linear model.

    Attributes:
        estimator: scikit-learn's.
        answer: Turns its scores into answers.
        nulls: Whether it takes NaN.
    """

    estimator: Any
    answer: Callable[[Floats], list[Any]]
    nulls: bool = False
    how: ClassVar[Literal["linear"]] = "linear"

    def thresholds(self) -> dict[int, Floats]:
        """Return no thresholds: it turns nowhere."""
        return {}

    def scorer(self, matrix: Matrix, sparse: bool, order: Literal["C", "F"]) -> Scorer:
        """Return what scores rows.

        Args:
            matrix: Builds what it is given.
            sparse: Whether that is a sparse matrix in scikit-learn.
            order: How it lies in memory there, on which the order of the sums of a batch depends.
        """
        scores = _one_by_one(self.estimator) if sparse else _product(self.estimator)
        answer = self.answer

        def score(rows: Rows) -> list[Any]:
            found = scores(np.asarray(matrix.build(rows), order=order))
            # Whatever is not finite anywhere on the way is not finite in the end: scikit-learn may refuse such rows.
            if not math.isfinite(np.add.reduce(found, axis=None)):
                raise Declined
            return answer(found)

        return score


def read_linear(estimator: Any, method: str) -> Linear | None:
    """Return a fitted linear model, or nothing where the estimator is none of those that are read.

    Args:
        estimator: The last step of a model.
        method: ``predict`` or ``predict_proba``.
    """
    if type(estimator) in _REGRESSORS:
        return Linear(estimator, lambda scores: scores.tolist())
    if type(estimator) is LogisticRegression:
        return Linear(estimator, _classes(estimator, method))
    return None


def _product(estimator: Any) -> Callable[[Floats], Floats]:
    weights, intercept = estimator.coef_.T, estimator.intercept_

    def scores(matrix: Floats) -> Floats:
        found: Floats = matrix @ weights + intercept
        return found

    return scores


def _one_by_one(estimator: Any) -> Callable[[Floats], Floats]:
    """Add as SciPy multiplies a sparse matrix: one feature after the other; zeros in between change nothing."""
    weights, intercept = np.ascontiguousarray(estimator.coef_.T), estimator.intercept_

    def scores(matrix: Floats) -> Floats:
        terms = matrix * weights if weights.ndim == 1 else matrix[:, :, np.newaxis] * weights
        found: Floats = np.add.accumulate(terms, axis=1)[:, -1] + intercept
        return found

    return scores


def _classes(estimator: Any, method: str) -> Callable[[Floats], list[Any]]:
    labels = estimator.classes_.tolist()
    binary = len(labels) == 2
    if method == "predict":
        if binary:
            return lambda scores: [labels[score > 0] for score in scores.ravel().tolist()]
        return lambda scores: [labels[at] for at in scores.argmax(axis=1).tolist()]
    if binary:
        return lambda scores: [[1.0 - chance, chance] for chance in expit(scores).ravel().tolist()]
    return _softmax


def _softmax(scores: Floats) -> list[Any]:
    # scikit-learn's softmax gives the same bits; most of its time goes into finding out whose array this is.
    scores -= np.max(scores, axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= np.sum(scores, axis=1, keepdims=True)
    chances: list[Any] = scores.tolist()
    return chances
