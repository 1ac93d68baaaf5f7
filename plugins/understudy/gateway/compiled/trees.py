"""Tree ensembles as one ONNX ``TreeEnsemble`` in double precision (operator set ``ai.onnx.ml`` 5).

ONNX runtime adds the leaves one after the other in double precision, as scikit-learn does; with the starting value as the
first tree, the sums come out the same to the last bit. Converters write the older operators, whose sums are in single
precision. https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)

from understudy.gateway.compiled.linear import Scorer
from understudy.gateway.compiled.matrix import MOST_CELLS, Floats, Matrix, Rows
from understudy.gateway.compiled.refusal import CannotCompile, Declined

__all__ = ["Ensemble", "read_ensemble"]

_MOST_NODES = 500_000
"""Such an ensemble takes about two seconds to build."""

_HIST = (HistGradientBoostingClassifier, HistGradientBoostingRegressor)
_BOOSTED = (GradientBoostingClassifier, GradientBoostingRegressor)
_FORESTS = (RandomForestClassifier, RandomForestRegressor)


@dataclass(frozen=True)
class Tree:
    """One tree, node by node; node 0 is the root.

    Attributes:
        target: Which sum its leaves go to.
        left: Node where the feature is at most the threshold; below 0 in a leaf.
        right: The other node.
        feature: Feature that is compared.
        threshold: What it is compared with.
        missing_left: Whether NaN goes left.
        value: What a leaf adds.
    """

    target: int
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Floats
    missing_left: NDArray[np.bool_]
    value: Floats


@dataclass(frozen=True)
class Ensemble:
    """A fitted ensemble as trees.

    Attributes:
        trees: In the order in which they are added.
        targets: How many sums there are.
        answer: Turns ``rows x targets`` sums into answers.
        single: Whether scikit-learn rounds the features to single precision first.
        nulls: Whether it takes NaN.
    """

    trees: Sequence[Tree]
    targets: int
    answer: Callable[[Floats], list[Any]]
    single: bool
    nulls: bool
    how: ClassVar[Literal["onnx"]] = "onnx"

    def thresholds(self) -> dict[int, Floats]:
        """Return, for each feature, the finite values that it is compared with."""
        feature = np.concatenate([tree.feature[tree.left >= 0] for tree in self.trees])
        threshold = np.concatenate([tree.threshold[tree.left >= 0] for tree in self.trees])
        finite = np.isfinite(threshold)
        return {int(one): np.unique(threshold[finite & (feature == one)]) for one in np.unique(feature)}

    def scorer(self, matrix: Matrix, sparse: bool, order: Literal["C", "F"]) -> Scorer:
        """Return what scores rows. Neither a sparse matrix nor its order in memory makes a difference to a tree.

        Args:
            matrix: Builds what it is given.
            sparse: Whether that is a sparse matrix in scikit-learn.
            order: How it lies in memory there.

        Raises:
            CannotCompile: It is too large.
        """
        from understudy.gateway.compiled.session import tree_session

        nodes = sum(len(tree.left) for tree in self.trees)
        if nodes > _MOST_NODES:
            raise CannotCompile(f"its trees have {nodes:,} nodes, more than {_MOST_NODES:,}")
        run = tree_session(self.trees, self.targets, len(matrix.features))
        answer, build = self.answer, _rounded(matrix) if self.single else matrix.build
        return lambda rows: answer(run(build(rows)))


def read_ensemble(estimator: Any, method: str) -> Ensemble | None:
    """Return a fitted ensemble as trees, or nothing where it is none of those that are read.

    Args:
        estimator: The last step of a model.
        method: ``predict`` or ``predict_proba``.

    Raises:
        CannotCompile: It has something that is not compiled.
    """
    kind = type(estimator)
    for kinds, read in ((_HIST, _hist), (_BOOSTED, _boosted), (_FORESTS, _forest)):
        if kind in kinds:
            if method == "predict_proba" and not hasattr(estimator, "classes_"):
                raise CannotCompile(f"a {kind.__name__} has no {method}")
            return read(estimator, method)
    return None


def _rounded(matrix: Matrix) -> Callable[[Rows], Floats]:
    def build(rows: Rows) -> Floats:
        with np.errstate(over="ignore"):
            rounded = matrix.build(rows).astype(np.float32).astype(np.float64)
        if np.isinf(rounded).any():
            raise Declined
        return rounded

    return build


def _hist(estimator: Any, method: str) -> Ensemble:
    if estimator.is_categorical_ is not None:
        raise CannotCompile(f"a {type(estimator).__name__} has categorical features")
    start = estimator._baseline_prediction.ravel()
    trees = [_constant(target, value) for target, value in enumerate(start.tolist())]
    for iteration in estimator._predictors:
        trees += [_hist_tree(target, predictor.nodes) for target, predictor in enumerate(iteration)]
    # scikit-learn's sums lie column by column, and the softmax adds them up in that order.
    answer = _boosted_answer(estimator, method, np.asfortranarray, lambda score: score > 0)
    return Ensemble(trees, len(start), answer, single=False, nulls=True)


def _hist_tree(target: int, nodes: Any) -> Tree:
    leaf = nodes["is_leaf"].astype(bool)
    return Tree(
        target,
        np.where(leaf, -1, nodes["left"].astype(np.int64)),
        np.where(leaf, -1, nodes["right"].astype(np.int64)),
        nodes["feature_idx"].astype(np.int64),
        nodes["num_threshold"],
        nodes["missing_go_to_left"].astype(bool),
        nodes["value"],
    )


def _boosted(estimator: Any, method: str) -> Ensemble:
    if estimator.init not in (None, "zero"):
        raise CannotCompile(f"a {type(estimator).__name__} starts from a model of its own")
    start = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32))[0]
    trees = [_constant(target, value) for target, value in enumerate(start.tolist())]
    for stage in estimator.estimators_:
        trees += [
            _tree(target, one.tree_, estimator.learning_rate * one.tree_.value[:, 0, 0])
            for target, one in enumerate(stage)
        ]
    answer = _boosted_answer(estimator, method, np.ascontiguousarray, lambda score: score >= 0)
    return Ensemble(trees, len(start), answer, single=True, nulls=False)


def _boosted_answer(
    estimator: Any, method: str, lay: Callable[[Floats], Floats], positive: Callable[[float], bool]
) -> Callable[[Floats], list[Any]]:
    loss = estimator._loss
    if method == "predict_proba":
        return lambda sums: loss.predict_proba(lay(sums)).tolist()  # type: ignore[no-any-return]
    if not hasattr(estimator, "classes_"):
        inverse = loss.link.inverse if type(estimator) in _HIST else np.asarray
        return lambda sums: inverse(sums.ravel()).tolist()  # type: ignore[no-any-return]
    labels = estimator.classes_.tolist()
    if len(labels) == 2:
        return lambda sums: [labels[positive(score)] for score in sums.ravel().tolist()]
    return lambda sums: [labels[at] for at in sums.argmax(axis=1).tolist()]


def _forest(estimator: Any, method: str) -> Ensemble:
    if estimator.n_outputs_ != 1:
        raise CannotCompile(f"a {type(estimator).__name__} has several outputs")
    trees = [one.tree_ for one in estimator.estimators_]
    nulls = estimator.monotonic_cst is None
    if not hasattr(estimator, "classes_"):
        summed = [_tree(0, tree, tree.value[:, 0, 0]) for tree in trees]
        return Ensemble(
            summed, 1, lambda sums: (sums.ravel() / len(trees)).tolist(), single=True, nulls=nulls
        )
    # A leaf may add to one sum only and here holds a chance for each class: the trees name their leaves instead.
    named = [_tree(at, tree, np.arange(tree.node_count, dtype=float)) for at, tree in enumerate(trees)]
    return Ensemble(named, len(trees), _forest_answer(estimator, method), single=True, nulls=nulls)


def _forest_answer(estimator: Any, method: str) -> Callable[[Floats], list[Any]]:
    trees = [one.tree_ for one in estimator.estimators_]
    chances = np.concatenate([tree.value[:, 0, :] for tree in trees])
    starts = np.cumsum([0, *(tree.node_count for tree in trees[:-1])])
    labels = estimator.classes_.tolist()

    def answer(leaves: Floats) -> list[Any]:
        if leaves.size * len(labels) > MOST_CELLS:
            raise Declined
        found = chances[leaves.astype(np.int64) + starts]
        # Only this adds up strictly from the first tree to the last.
        total = np.add.accumulate(found, axis=1)[:, -1] / len(trees)
        if method == "predict_proba":
            return list(total.tolist())
        return [labels[at] for at in total.argmax(axis=1).tolist()]

    return answer


def _tree(target: int, tree: Any, value: Floats) -> Tree:
    return Tree(
        target,
        tree.children_left,
        tree.children_right,
        tree.feature,
        tree.threshold,
        tree.missing_go_to_left.astype(bool),
        value,
    )


def _constant(target: int, value: float) -> Tree:
    nowhere = np.full(1, -1)
    return Tree(target, nowhere, nowhere, nowhere, np.zeros(1), np.zeros(1, dtype=bool), np.array([value]))
