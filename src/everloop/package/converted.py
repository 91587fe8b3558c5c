"""Estimators that skl2onnx converts, in float64, merged into our graph. Knows nothing of which ones are refused.

Loaded only for estimators that `package.sklearn_models` does not write out itself: skl2onnx takes over a second of
import. What it makes is believed only after parity.
"""

from typing import Any

from onnx import ModelProto

from everloop.errors import ConversionRefused
from everloop.package.graph import OPSET, TREE_DOMAIN, Graph


def probabilities(graph: Graph, matrix: str, estimator: Any) -> str:
    return _merge(graph, matrix, estimator, _convert(estimator, classifier=True), output=1)


def value(graph: Graph, matrix: str, estimator: Any) -> str:
    answer = _merge(graph, matrix, estimator, _convert(estimator, classifier=False), output=0)
    import numpy as np

    return graph.node("Reshape", [answer, graph.constant([-1, 1], np.int64)])


def transformed(graph: Graph, matrix: str, estimator: Any) -> str:
    return _merge(graph, matrix, estimator, _convert(estimator, classifier=False), output=0)


def _convert(estimator: Any, *, classifier: bool) -> ModelProto:
    try:
        import skl2onnx
        from skl2onnx.common.data_types import DoubleTensorType
    except ImportError as error:
        raise ConversionRefused(
            f"{type(estimator).__name__} needs skl2onnx to become a graph, and it is not installed: "
            "pip install skl2onnx."
        ) from error
    width = getattr(estimator, "n_features_in_", None)
    try:
        model: ModelProto = skl2onnx.convert_sklearn(
            estimator,
            initial_types=[("matrix", DoubleTensorType([None, width]))],
            options={id(estimator): {"zipmap": False}} if classifier else None,
            target_opset={"": OPSET, TREE_DOMAIN: 3},
        )
    except Exception as error:  # the converters raise many kinds of their own, plain RuntimeError among them
        raise ConversionRefused(
            f"{type(estimator).__name__} has no faithful form as a graph ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}); use a linear model, a forest, LightGBM or XGBoost."
        ) from error
    return model


def _merge(graph: Graph, matrix: str, estimator: Any, model: ModelProto, *, output: int) -> str:
    prefix = graph.name(type(estimator).__name__)
    names = {model.graph.input[0].name: matrix, "": ""}

    def renamed(name: str) -> str:
        return names.setdefault(name, f"{prefix}/{name}")

    for tensor in model.graph.initializer:
        tensor.name = renamed(tensor.name)
        graph.initializers.append(tensor)
    for node in model.graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            raise ConversionRefused(
                f"{type(estimator).__name__} converts to a graph within a graph, which cannot be merged; use a linear "
                "model, a forest, LightGBM or XGBoost."
            )
        graph.old_trees |= node.op_type in ("TreeEnsembleClassifier", "TreeEnsembleRegressor")
        node.input[:] = [renamed(name) for name in node.input]
        node.output[:] = [renamed(name) for name in node.output]
        node.name = renamed(f"node {node.name}")
        graph.nodes.append(node)
    return graph.node("Cast", [renamed(model.graph.output[output].name)], to=11)
