"""Builds an ONNX graph node by node, all numbers in float64. Knows nothing of features or estimators."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

TREE_DOMAIN = "ai.onnx.ml"
TREE_OPSET = 5
"""The first with TreeEnsemble in float64; the older tree nodes are gone in it."""
OPSET = 20
IR_VERSION = 10


class Graph:
    """Nodes and constants under construction. Every method that adds a node returns the name of its output."""

    def __init__(self, prefix: str = "model") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.opset = OPSET
        self.old_trees = False
        """A converted part brought tree nodes of ai.onnx.ml 3; then no node of opset 5 may stand beside them."""
        self.new_trees = False
        self.rounded: dict[str, str] = {}
        """Tensors known to hold float32 values, or their rounded form."""
        self._prefix = prefix
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{self._prefix}/{stem}/{self._count}"

    def constant(self, values: npt.ArrayLike, kind: npt.DTypeLike = np.float64) -> str:
        name = self.name("constant")
        self.initializers.append(numpy_helper.from_array(np.array(values, dtype=kind, order="C"), name))
        return name

    def scalar(self, value: float) -> str:
        return self.constant(value)

    def node(self, operation: str, inputs: Sequence[str], *, domain: str = "", output: str = "", **options: Any) -> str:
        output = output or self.name(operation)
        self.nodes.append(helper.make_node(operation, list(inputs), [output], name=output, domain=domain, **options))
        return output

    def columns(self, matrix: str, places: Sequence[int]) -> str:
        """``matrix[:, places]``."""
        return self.node("Gather", [matrix, self.constant(list(places), np.int64)], axis=1)

    def concat(self, matrices: Sequence[str]) -> str:
        return matrices[0] if len(matrices) == 1 else self.node("Concat", matrices, axis=1)

    def to_float32(self, matrix: str) -> str:
        """Rounded to the nearest float32, held in float64: what XGBoost and scikit-learn's trees do to their rows."""
        if matrix not in self.rounded:
            narrow = self.node("Cast", [matrix], to=onnx.TensorProto.FLOAT)
            wide = self.node("Cast", [narrow], to=onnx.TensorProto.DOUBLE)
            self.rounded[matrix] = self.rounded[wide] = wide
        return self.rounded[matrix]

    def binary(self, positive: str) -> str:
        """[rows, 1] probability of the second class → [rows, 2]."""
        return self.concat([self.node("Sub", [self.scalar(1.0), positive]), positive])

    def curved(self, operation: str, matrix: str, width: int) -> str:
        """Sigmoid, Exp or Tanh of [rows, width], the same for a row alone as for a row among others.

        onnxruntime computes these two numbers at a time and an odd last one by another routine, which may differ in
        the last digit (measured: .7 to 60 % of values by operation). An even number of columns leaves none over.
        """
        if width % 2 == 0:
            return self.node(operation, [matrix])
        twice = self.node(operation, [self.node("Concat", [matrix, matrix], axis=1)])
        return self.columns(twice, range(width))

    def logistic(self, scores: str) -> str:
        """[rows, 1] scores of the second class → [rows, 2] probabilities; see `curved`."""
        twice = self.node("Sigmoid", [self.node("Concat", [scores, scores], axis=1)])
        signed = self.node("Mul", [twice, self.constant([[-1.0, 1.0]])])
        return self.node("Add", [signed, self.constant([[1.0, 0.0]])])  # 1 − p and p, exactly

    def softmax(self, scores: str, classes: int) -> str:
        """[rows, classes] → probabilities; see `curved`. A class that cannot be makes an odd number even."""
        if classes % 2 == 0:
            return self.node("Softmax", [scores], axis=1)
        padded = self.node("Pad", [scores, self.constant([0, 0, 0, 1], np.int64), self.scalar(-np.inf)])
        return self.columns(self.node("Softmax", [padded], axis=1), range(classes))
