"""An ONNX runtime session that runs trees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from understudy.gateway.compiled.matrix import Floats

if TYPE_CHECKING:
    from understudy.gateway.compiled.trees import Tree

__all__ = ["tree_session"]

_OPSET = 21
_ML_OPSET = 5
_IR_VERSION = 10
"""The lowest that knows these operator sets: an older runtime reads it too."""

_LESS_OR_EQUAL = 0
_SUM = 1


def tree_session(trees: Sequence[Tree], targets: int, features: int) -> Callable[[Floats], Floats]:
    """Return a function from a C-ordered ``rows x features`` matrix to its ``rows x targets`` sums.

    It may be called by several threads at once, and uses none but the caller's.
    """
    import onnxruntime  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        _model(trees, targets, features), options, providers=["CPUExecutionProvider"]
    )
    run, names = session.run, ["sums"]

    def sums(matrix: Floats) -> Floats:
        found: Floats = run(names, {"matrix": matrix})[0]
        return found

    return sums


def _model(trees: Sequence[Tree], targets: int, features: int) -> bytes:
    from onnx import TensorProto, helper

    node = helper.make_node(
        "TreeEnsemble",
        ["matrix"],
        ["sums"],
        domain="ai.onnx.ml",
        n_targets=targets,
        aggregate_function=_SUM,
        post_transform=0,
        **_attributes(trees),
    )
    graph = helper.make_graph(
        [node],
        "trees",
        [helper.make_tensor_value_info("matrix", TensorProto.DOUBLE, [None, features])],
        [helper.make_tensor_value_info("sums", TensorProto.DOUBLE, [None, targets])],
    )
    opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
    return bytes(model.SerializeToString())


def _attributes(trees: Sequence[Tree]) -> dict[str, Any]:
    """Return the trees as the operator's flat lists: all splits in one numbering, all leaves in another."""
    from onnx import numpy_helper

    roots: list[int] = []
    columns: dict[str, list[Any]] = {name: [] for name in (*_SPLIT_COLUMNS, "leaf_targetids", "leaf_weights")}
    splits = leaves = 0
    for tree in trees:
        flat = _flat(tree, splits, leaves)
        for name, values in flat.items():
            columns[name].append(values)
        roots.append(splits)
        splits += len(flat["nodes_splits"])
        leaves += len(flat["leaf_weights"])
    joined = {name: np.concatenate(values) for name, values in columns.items()}
    tensors: dict[str, NDArray[Any]] = {
        "nodes_splits": joined.pop("nodes_splits").astype(np.float64),
        "leaf_weights": joined.pop("leaf_weights").astype(np.float64),
        "nodes_modes": np.full(splits, _LESS_OR_EQUAL, dtype=np.uint8),
    }
    return {
        "tree_roots": roots,
        **{name: values.astype(np.int64).tolist() for name, values in joined.items()},
        **{name: numpy_helper.from_array(values, name) for name, values in tensors.items()},
    }


_SPLIT_COLUMNS = (
    "nodes_splits",
    "nodes_featureids",
    "nodes_truenodeids",
    "nodes_trueleafs",
    "nodes_falsenodeids",
    "nodes_falseleafs",
    "nodes_missing_value_tracks_true",
)


def _flat(tree: Tree, splits: int, leaves: int) -> dict[str, Any]:
    leaf = tree.left < 0
    if leaf[0]:
        # The operator wants a split at the root; both ways lead to the only leaf.
        row = dict.fromkeys(_SPLIT_COLUMNS, np.zeros(1))
        both = {"nodes_truenodeids": [leaves], "nodes_falsenodeids": [leaves]}
        ends = {"nodes_trueleafs": [1], "nodes_falseleafs": [1]}
        return {**row, **both, **ends, "leaf_targetids": [tree.target], "leaf_weights": tree.value[:1]}
    number = np.where(leaf, leaves + np.cumsum(leaf) - 1, splits + np.cumsum(~leaf) - 1)
    split = ~leaf
    left, right = tree.left[split], tree.right[split]
    return {
        "nodes_splits": tree.threshold[split],
        "nodes_featureids": tree.feature[split],
        "nodes_truenodeids": number[left],
        "nodes_trueleafs": leaf[left],
        "nodes_falsenodeids": number[right],
        "nodes_falseleafs": leaf[right],
        "nodes_missing_value_tracks_true": tree.missing_left[split],
        "leaf_targetids": np.full(leaf.sum(), tree.target),
        "leaf_weights": tree.value[leaf],
    }
