"""An XGBoost booster as one graph. Knows nothing of how it was fitted; reads the library's own JSON.

XGBoost compares float32 with float32 (x < threshold); on a matrix already rounded to float32 the float64 comparison
here is the same one. Leaves are summed in float64 where XGBoost sums in float32.
"""

from typing import Any

import msgspec
import numpy as np

from everloop.errors import ConversionRefused
from everloop.package.graph import Graph
from everloop.package.trees import LESS, Tree, ensemble

LOGISTIC = {"binary:logistic", "reg:logistic"}
EXPONENTIAL = {"count:poisson", "reg:gamma", "reg:tweedie"}
AS_IT_IS = {
    "reg:squarederror", "reg:absoluteerror", "reg:pseudohubererror", "reg:squaredlogerror", "reg:quantileerror",
}  # fmt: skip


def prediction(graph: Graph, matrix: str, booster: Any, *, rounds: int | None = None) -> str:
    """[rows, classes] probabilities or [rows, 1] values of a fitted ``xgboost.Booster``, of its first ``rounds``."""
    chosen = booster if rounds is None else booster[:rounds]
    learner = msgspec.json.decode(bytes(chosen.save_raw("json")))["learner"]
    gradient_booster, objective = learner["gradient_booster"], learner["objective"]["name"]
    weights = None
    if gradient_booster["name"] == "dart":
        weights = gradient_booster["weight_drop"]
        gradient_booster = gradient_booster["gbtree"]
    if gradient_booster["name"] != "gbtree":
        raise ConversionRefused(
            f"XGBoost's booster {gradient_booster['name']!r} has no form as a graph; use booster='gbtree'."
        )
    model = gradient_booster["model"]
    matrix = graph.to_float32(matrix)
    targets = max(1, int(learner["learner_model_param"]["num_class"]))
    if int(learner["learner_model_param"].get("num_target", "1")) > 1:
        raise ConversionRefused("XGBoost with several targets has no form as a graph; declare one label.")
    trees = [
        _tree(tree, 1.0 if weights is None else weights[place], model["tree_info"][place])
        for place, tree in enumerate(model["trees"])
    ]
    base = np.array(str(learner["learner_model_param"]["base_score"]).strip("[]").split(","), dtype=np.float64)
    base = base.astype(np.float32).astype(np.float64)
    if objective in LOGISTIC:
        raw = ensemble(graph, matrix, trees, targets=1, base=np.log(base / (1.0 - base)))
        return graph.logistic(raw) if objective == "binary:logistic" else graph.curved("Sigmoid", raw, 1)
    if objective in EXPONENTIAL:
        return graph.curved("Exp", ensemble(graph, matrix, trees, targets=1, base=np.log(base)), 1)
    raw = ensemble(graph, matrix, trees, targets=targets, base=base)
    if objective in ("multi:softprob", "multi:softmax"):
        return graph.softmax(raw, targets)
    if objective in AS_IT_IS:
        return raw
    raise ConversionRefused(
        f"XGBoost's objective {objective!r} has no form as a graph; use binary:logistic, multi:softprob or "
        f"reg:squarederror."
    )


def _tree(tree: dict[str, Any], weight: float, target: int) -> Tree:
    if tree.get("categories_nodes"):
        raise ConversionRefused(
            "XGBoost's own categorical splits have no form as a graph; leave enable_categorical out."
        )
    if int(tree["tree_param"].get("size_leaf_vector", "1")) > 1:
        raise ConversionRefused("XGBoost with vector leaves has no form as a graph; leave multi_strategy out.")
    left = np.array(tree["left_children"], dtype=np.int64)
    right = np.array(tree["right_children"], dtype=np.int64)
    conditions = np.array(tree["split_conditions"], dtype=np.float64).astype(np.float32).astype(np.float64)
    inner = left >= 0
    place = np.where(inner, np.cumsum(inner) - 1, ~(np.cumsum(~inner) - 1))
    return Tree(
        feature=np.array(tree["split_indices"], dtype=np.int64)[inner],
        split=conditions[inner],
        mode=np.full(int(inner.sum()), LESS, dtype=np.uint8),
        true=place[left[inner]],
        false=place[right[inner]],
        missing_true=np.array(tree["default_left"], dtype=bool)[inner],
        leaf=conditions[~inner] * weight,
        target=target,
    )
