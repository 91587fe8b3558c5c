"""scikit-learn's trees, forests and boosted trees as graph nodes. Knows nothing of other estimators.

scikit-learn rounds its rows to float32 and compares with float64 thresholds (x ≤ threshold): so does the graph. A
missing value takes the branch that the fit chose.
"""

from typing import Any

import numpy as np

from everloop.errors import ConversionRefused
from everloop.package.graph import Graph
from everloop.package.trees import AT_MOST, Tree, ensemble


def averaged(graph: Graph, matrix: str, estimators: list[Any], *, classifier: bool) -> str:
    """A tree or a forest of them: the mean of what their leaves hold, [rows, classes] or [rows, 1]."""
    count, matrix = len(estimators), graph.to_float32(matrix)
    values = [np.asarray(each.tree_.value[:, 0, :], dtype=np.float64) for each in estimators]
    if not classifier:
        return ensemble(
            graph, matrix, [_tree(e.tree_, v[:, 0] / count) for e, v in zip(estimators, values, strict=True)],
            targets=1, base=0.0,
        )  # fmt: skip
    shares = [each / each.sum(axis=1, keepdims=True) for each in values]
    if shares[0].shape[1] == 2:
        positive = [_tree(e.tree_, s[:, 1] / count) for e, s in zip(estimators, shares, strict=True)]
        return graph.binary(ensemble(graph, matrix, positive, targets=1, base=0.0))
    return _by_leaf(graph, matrix, estimators, shares)


def _by_leaf(graph: Graph, matrix: str, estimators: list[Any], shares: list[Any]) -> str:
    """Many classes: each tree tells its leaf as a number, and the leaf's shares are looked up; no tree is repeated."""
    trees, tables, start = [], [], 0
    for place, (estimator, share) in enumerate(zip(estimators, shares, strict=True)):
        leaves = estimator.tree_.children_left < 0
        numbers = np.zeros(len(leaves))
        numbers[leaves] = start + np.arange(leaves.sum())
        tables.append(share[leaves])
        start += int(leaves.sum())
        tree = _tree(estimator.tree_, numbers)
        tree.target = place
        trees.append(tree)
    reached = ensemble(graph, matrix, trees, targets=len(trees), base=0.0)
    whole = graph.node("Cast", [reached], to=7)
    looked_up = graph.node("Gather", [graph.constant(np.concatenate(tables)), whole], axis=0)
    axis = graph.constant([1], np.int64)
    return graph.node("ReduceMean", [looked_up, axis], keepdims=0)


def gradient_boosting_raw(graph: Graph, matrix: str, estimator: Any) -> str:
    """GradientBoosting's sum before its link, [rows, 1 or classes]."""
    if not (estimator.init_ == "zero" or type(estimator.init_).__name__.startswith("Dummy")):
        raise ConversionRefused(
            f"{type(estimator).__name__} with init={type(estimator.init_).__name__} has no form as a graph; leave "
            "init out."
        )
    base = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32))[0]
    trees = []
    for stage in estimator.estimators_:
        for target, each in enumerate(stage):
            tree = _tree(each.tree_, estimator.learning_rate * each.tree_.value[:, 0, 0])
            tree.target = target
            trees.append(tree)
    return ensemble(graph, graph.to_float32(matrix), trees, targets=len(base), base=base)


def histogram_boosting_raw(graph: Graph, matrix: str, estimator: Any) -> str:
    """HistGradientBoosting's sum before its link, [rows, 1 or classes]."""
    trees = []
    for stage in estimator._predictors:
        for target, predictor in enumerate(stage):
            trees.append(_histogram_tree(predictor.nodes, target))
    base = np.asarray(estimator._baseline_prediction, dtype=np.float64).reshape(-1)
    return ensemble(graph, matrix, trees, targets=len(base), base=base)


def _histogram_tree(nodes: Any, target: int) -> Tree:
    inner = nodes["is_leaf"] == 0
    if (nodes["is_categorical"][inner] != 0).any():
        raise ConversionRefused(
            "HistGradientBoosting with categorical_features has no form as a graph; leave categories to one-hot."
        )
    places = _places(inner)
    return Tree(
        feature=nodes["feature_idx"][inner].astype(np.int64),
        split=nodes["num_threshold"][inner].astype(np.float64),
        mode=np.full(int(inner.sum()), AT_MOST, dtype=np.uint8),
        true=places[nodes["left"][inner].astype(np.int64)],
        false=places[nodes["right"][inner].astype(np.int64)],
        missing_true=nodes["missing_go_to_left"][inner] != 0,
        leaf=nodes["value"][~inner].astype(np.float64),
        target=target,
    )


def _tree(tree: Any, values: np.ndarray) -> Tree:
    inner = tree.children_left >= 0
    places = _places(inner)
    missing = getattr(tree, "missing_go_to_left", np.zeros(len(inner), dtype=np.uint8))
    return Tree(
        feature=tree.feature[inner].astype(np.int64),
        split=tree.threshold[inner],
        mode=np.full(int(inner.sum()), AT_MOST, dtype=np.uint8),
        true=places[tree.children_left[inner]],
        false=places[tree.children_right[inner]],
        missing_true=missing[inner] != 0,
        leaf=values[~inner],
    )


def _places(inner: np.ndarray) -> np.ndarray:
    """Library node number → place among the inner nodes, or ``~place`` among the leaves."""
    return np.where(inner, np.cumsum(inner) - 1, ~(np.cumsum(~inner) - 1))
