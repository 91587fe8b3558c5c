"""One ONNX graph from packed raw columns to prediction and decision. Knows nothing of how the model was fitted.

feature nodes → encoding → float32 rounding → estimator → classes and scale → threshold. All numbers are float64.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from everloop.errors import ConversionRefused, PackageError
from everloop.measure import subwords
from everloop.measure.tensors import Tensors
from everloop.package import lightgbm_trees, refused, sklearn_models, xgboost_trees
from everloop.package.graph import EXTENSIONS, IR_VERSION, TREE_DOMAIN, TREE_OPSET, Graph
from everloop.package.matrix import matrix, tensors
from everloop.package.render import GraphParts, render
from everloop.records import Encoding, Signature, Task
from everloop.spec.tree import FeatureTree

DOUBLE, INTEGER = TensorProto.DOUBLE, TensorProto.INT64


class FittedModel(Protocol):
    """What the package needs of a fitted model; `everloop.train` makes it."""

    @property
    def model(self) -> Any:
        """A scikit-learn estimator, a LightGBM or XGBoost model or booster, a pipeline of them, or a trained network."""
        ...

    @property
    def task(self) -> Task: ...

    @property
    def classes(self) -> int:
        """How many classes there are; 1 for regression."""
        ...

    @property
    def present(self) -> Sequence[int]:
        """Which class indices the training rows held: column i of the model's answer is class ``present[i]``."""
        ...

    @property
    def scale(self) -> Literal["log1p"] | None: ...

    def predict(self, matrix: npt.NDArray[np.float64] | Tensors) -> npt.NDArray[np.float64]:
        """float64 [rows, classes], or [rows] in the label's own units for regression."""
        ...


@dataclass(frozen=True, kw_only=True)
class Exported:
    graph: bytes
    opset: int
    extensions: bool
    """True: the session needs onnxruntime-extensions registered."""


def export(
    tree: FeatureTree,
    signature: Signature,
    encoding: Encoding,
    fitted: FittedModel,
    *,
    threshold: float | None = None,
) -> Exported:
    """Build the graph of ``signature``. ``threshold``: the positive class is decided at or above it; None: argmax.

    Raises `ConversionRefused` naming the estimator or step that has no faithful form, and what to use instead.
    """
    graph = Graph()
    parts = render(tree, signature.inputs, signature.tensors)
    if encoding.network:
        from everloop.package import torch_models

        answer = torch_models.prediction(graph, tensors(graph, encoding, parts), fitted)
    else:
        answer = _estimator(graph, matrix(graph, encoding, parts), fitted)
    if signature.task == "regression":
        if fitted.scale == "log1p":
            answer = graph.node("Sub", [graph.curved("Exp", answer, 1), graph.scalar(1.0)])
        outputs = [_named(graph, answer, "prediction", DOUBLE, signature)]
    else:
        answer = _all_classes(graph, answer, fitted)
        outputs = [_named(graph, answer, "prediction", DOUBLE, signature)]
        _decision(graph, answer, signature, threshold)
        outputs.append(helper.make_tensor_value_info("decision", INTEGER, ["rows"]))
    return _model(graph, parts, outputs)


def _estimator(graph: Graph, columns: str, fitted: FittedModel) -> str:
    model = fitted.model
    library, name = type(model).__module__.partition(".")[0], type(model).__name__
    if library == "lightgbm" and name == "Booster":
        return lightgbm_trees.prediction(graph, columns, model)
    if library == "xgboost" and name == "Booster":
        return xgboost_trees.prediction(graph, columns, model)
    refused.check(model)
    if fitted.task == "regression":
        return sklearn_models.value(graph, columns, model)
    return sklearn_models.probabilities(graph, columns, model)


def _all_classes(graph: Graph, answer: str, fitted: FittedModel) -> str:
    """Classes that the training rows did not hold get probability 0."""
    present = list(fitted.present)
    if present == list(range(fitted.classes)):
        return answer
    never = graph.node("Mul", [graph.columns(answer, [0]), graph.scalar(0.0)])
    places = [present.index(each) if each in present else len(present) for each in range(fitted.classes)]
    return graph.columns(graph.concat([answer, never]), places)


def _named(graph: Graph, answer: str, name: str, kind: int, signature: Signature) -> onnx.ValueInfoProto:
    graph.node("Identity", [answer], output=name)
    return helper.make_tensor_value_info(name, kind, ["rows", max(1, len(signature.classes))])


def _decision(graph: Graph, answer: str, signature: Signature, threshold: float | None) -> None:
    if threshold is None:
        graph.node("ArgMax", [answer], axis=1, keepdims=0, output="decision")
        return
    if signature.task != "binary" or signature.positive is None:
        raise PackageError(
            f"a threshold of {threshold} needs two classes and a positive one, and the task is {signature.task}; "
            "leave decision= out."
        )
    place = graph.constant(signature.positive, np.int64)
    positive = graph.node("Gather", [answer, place], axis=1)
    above = graph.node("GreaterOrEqual", [positive, graph.scalar(threshold)])
    other = graph.constant(1 - signature.positive, np.int64)
    graph.node("Where", [above, place, other], output="decision")


def _model(graph: Graph, parts: GraphParts, outputs: list[onnx.ValueInfoProto]) -> Exported:
    if graph.old_trees and graph.new_trees:
        raise ConversionRefused(
            "this combination of tree models needs two versions of the tree operator in one graph; use one estimator, "
            "or VotingClassifier or StackingClassifier over forests."
        )
    versions = {each.domain: each.version for each in parts.opsets}
    if graph.extensions:
        versions[EXTENSIONS] = 1
    opset = max(versions[""], graph.opset)
    versions[""], versions[TREE_DOMAIN] = opset, 3 if graph.old_trees else TREE_OPSET
    model = helper.make_model(
        helper.make_graph(
            [*parts.nodes, *graph.nodes],
            "everloop",
            [
                *parts.inputs,
                *(helper.make_tensor_value_info(e["input"], INTEGER, ["rows", e["length"]]) for e in graph.steps),
            ],
            outputs,
            [*parts.initializers, *graph.initializers],
        ),
        producer_name="everloop",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())],
    )
    if graph.steps:
        helper.set_model_props(model, {subwords.NOTE: subwords.note(graph.steps)})
    return Exported(graph=model.SerializeToString(deterministic=True), opset=opset, extensions=EXTENSIONS in versions)
