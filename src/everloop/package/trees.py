"""Tree ensembles as flat arrays, and their ONNX node in float64. Knows nothing of the libraries that grew them.

In float64 a comparison with a double threshold is the trainer's own comparison, so no threshold needs rounding and no
sum of leaves loses digits; onnxruntime runs it as fast as in float32 (measured: 100 trees of 31 leaves, 5.6 against
5.1 µs for one row).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnx import numpy_helper

from everloop.package.graph import TREE_DOMAIN, Graph

AT_MOST, LESS, MEMBER = 0, 1, 6
"""Modes of a node (ai.onnx.ml 5): go to the true branch when x ≤ split, x < split, x in the node's set."""

Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


@dataclass(kw_only=True)
class Tree:
    """One tree. A branch is a node's place in the tree when ≥ 0, else ``~leaf``. The root is node 0."""

    feature: Integers
    split: Numbers
    mode: npt.NDArray[np.uint8]
    true: Integers
    false: Integers
    missing_true: npt.NDArray[np.bool_]
    leaf: Numbers
    """[leaves] values; a tree without nodes has one."""
    members: dict[int, list[int]] = field(default_factory=dict)
    """For nodes with `MEMBER`: the codes that go to the true branch."""
    target: int = 0


def ensemble(graph: Graph, matrix: str, trees: list[Tree], *, targets: int, base: npt.ArrayLike) -> str:
    """[rows, targets] float64: base [targets] plus the sum of the leaves that each row reaches."""
    sums = np.array(base, dtype=np.float64).reshape(-1)
    sums = np.broadcast_to(sums, (targets,)).copy()
    grown: list[Tree] = []
    for tree in trees:
        if len(tree.feature):
            grown.append(tree)
        else:
            sums[tree.target] += tree.leaf[0]
    if not grown:
        zero = graph.node("Mul", [graph.columns(matrix, [0] * targets), graph.scalar(0.0)])
        absent = graph.node("IsNaN", [zero])
        zero = graph.node("Where", [absent, graph.scalar(0.0), zero])
        return graph.node("Add", [zero, graph.constant(sums.reshape(1, -1))])
    total = _node(graph, matrix, grown, targets)
    return graph.node("Add", [total, graph.constant(sums.reshape(1, -1))]) if np.any(sums) else total


def _node(graph: Graph, matrix: str, trees: list[Tree], targets: int) -> str:
    node_starts = np.cumsum([0] + [len(tree.feature) for tree in trees])
    leaf_starts = np.cumsum([0] + [len(tree.leaf) for tree in trees])

    def branch(tree: Tree, side: Integers, index: int) -> Integers:
        shifted: Integers = np.where(side >= 0, side + node_starts[index], ~side + leaf_starts[index])
        return shifted

    true = np.concatenate([branch(tree, tree.true, i) for i, tree in enumerate(trees)])
    false = np.concatenate([branch(tree, tree.false, i) for i, tree in enumerate(trees)])
    members: list[float] = []
    for tree in trees:
        for node in np.flatnonzero(tree.mode == MEMBER):
            members += [*tree.members[int(node)], np.nan]
    options = {}
    if members:
        options["membership_values"] = numpy_helper.from_array(np.array(members, dtype=np.float64))
    missing = np.concatenate([tree.missing_true for tree in trees])
    if missing.any():
        options["nodes_missing_value_tracks_true"] = missing.astype(np.int64).tolist()
    graph.new_trees = True
    return graph.node(
        "TreeEnsemble",
        [matrix],
        domain=TREE_DOMAIN,
        aggregate_function=1,
        n_targets=targets,
        leaf_targetids=np.concatenate([np.full(len(tree.leaf), tree.target) for tree in trees]).tolist(),
        leaf_weights=numpy_helper.from_array(np.concatenate([tree.leaf for tree in trees]).astype(np.float64)),
        nodes_featureids=np.concatenate([tree.feature for tree in trees]).tolist(),
        nodes_splits=numpy_helper.from_array(np.concatenate([tree.split for tree in trees]).astype(np.float64)),
        nodes_modes=numpy_helper.from_array(np.concatenate([tree.mode for tree in trees]).astype(np.uint8)),
        nodes_truenodeids=true.tolist(),
        nodes_falsenodeids=false.tolist(),
        nodes_trueleafs=np.concatenate([tree.true < 0 for tree in trees]).astype(np.int64).tolist(),
        nodes_falseleafs=np.concatenate([tree.false < 0 for tree in trees]).astype(np.int64).tolist(),
        tree_roots=node_starts[:-1].tolist(),
        post_transform=0,
        **options,
    )
