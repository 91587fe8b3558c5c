"""Builds an ONNX graph node by node, all numbers in float64. Knows nothing of features or estimators."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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


EXTENSIONS = "ai.onnx.contrib"
"""The domain of onnxruntime-extensions."""


@dataclass(slots=True, kw_only=True)
class Block:
    """Some columns of a matrix: a tensor ``name``, or a sparse one that can be written out and multiplied."""

    width: int
    name: str = ""
    ragged: Callable[[], str] | None = None
    """Writes it out as a tensor [rows, width]."""
    times: Callable[[npt.NDArray[np.float64]], str] | None = None
    """Its product with weights [width, columns], without writing it out."""


@dataclass(slots=True)
class Blocks:
    parts: list[Block]
    written: str | None = None


class Graph:
    """Nodes and constants under construction. Every method that adds a node returns the name of its output."""

    def __init__(self, prefix: str = "model") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.opset = OPSET
        self.old_trees = False
        """A converted part brought tree nodes of ai.onnx.ml 3; then no node of opset 5 may stand beside them."""
        self.new_trees = False
        self.extensions = False
        """Whether an operator of onnxruntime-extensions is among the nodes."""
        self.rounded: dict[str, str] = {}
        """Tensors known to hold float32 values, or their rounded form."""
        self.steps: list[dict[str, Any]] = []
        """Inputs that the server makes of texts before a run: of each the arguments of `everloop.measure.subwords.Step`."""
        self.blocks: dict[str, Blocks] = {}
        """Matrices that are written out only where somebody reads them whole."""
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
        given = [self.whole(each) for each in inputs]
        self.nodes.append(helper.make_node(operation, given, [output], name=output, domain=domain, **options))
        self.extensions = self.extensions or domain == EXTENSIONS
        return output

    def several(
        self, operation: str, inputs: Sequence[str], outputs: int, *, domain: str = "", **options: Any
    ) -> list[str]:
        """A node with so many outputs."""
        names = [self.name(operation) for _ in range(outputs)]
        self.nodes.append(helper.make_node(operation, list(inputs), names, name=names[0], domain=domain, **options))
        self.extensions = self.extensions or domain == EXTENSIONS
        return names

    def texts(self, values: Sequence[str], shape: Sequence[int] | None = None) -> str:
        """Constant texts; ``shape`` None: a list."""
        tensor = onnx.TensorProto(name=self.name("constant"), data_type=onnx.TensorProto.STRING)
        tensor.dims.extend([len(values)] if shape is None else shape)
        tensor.string_data.extend(each.encode() for each in values)
        self.initializers.append(tensor)
        name: str = tensor.name
        return name

    def whole(self, matrix: str) -> str:
        """The tensor itself: a matrix of blocks is written out when it is first read."""
        blocks = self.blocks.get(matrix)
        if blocks is None:
            return matrix
        if blocks.written is None:
            blocks.written = self.concat([each.name if each.ragged is None else each.ragged() for each in blocks.parts])
            self.rounded[blocks.written] = blocks.written
        return blocks.written

    def product(self, matrix: str, weights: npt.NDArray[np.float64]) -> str:
        """``matrix @ weights`` [rows, width] of [width, columns]; of a sparse block only what is not 0 is multiplied."""
        blocks = self.blocks.get(matrix)
        if blocks is None:
            return self.node("MatMul", [matrix, self.constant(weights)])
        total, at = "", 0
        for each in blocks.parts:
            own = weights[at : at + each.width]
            at += each.width
            part = self.node("MatMul", [each.name, self.constant(own)]) if each.times is None else each.times(own)
            total = self.node("Add", [total, part]) if total else part
        return total

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
