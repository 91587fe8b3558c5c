"""Collects the nodes of an ONNX graph, each distinct one once. Knows nothing of features or models."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 20
"""The standard operators' version: 20 brought RegexFullMatch."""
MACHINE_LEARNING_OPSET = 3
EXTENSIONS = "ai.onnx.contrib"
"""The domain of onnxruntime-extensions."""

DOUBLE, INT64, BOOL, STRING = TensorProto.DOUBLE, TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING


class Nodes:
    """Adding the same operator on the same tensors again gives the tensor that is there already."""

    def __init__(self, prefix: str = "feature") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.extensions = False
        """Whether an operator of onnxruntime-extensions is among the nodes."""
        self._prefix = prefix
        self._known: dict[Any, str] = {}
        self._narrow: set[str] = set()

    def constant(self, values: Any, kind: int, shape: Sequence[int] = (1, 1)) -> str:
        """An initializer of this shape. The default [1, 1] stands beside [rows, 1] in every operator."""
        flat = list(values) if isinstance(values, list | tuple) else [values]
        key = ("constant", kind, tuple(shape), tuple(repr(each) for each in flat))
        if key not in self._known:
            name = f"{self._prefix}_constant_{len(self.initializers)}"
            if kind == STRING:
                tensor = TensorProto(name=name, data_type=STRING, dims=shape)  # make_tensor drops a NUL at the end
                tensor.string_data.extend(each.encode() for each in flat)
            else:
                tensor = numpy_helper.from_array(
                    np.array(flat, dtype=helper.tensor_dtype_to_np_dtype(kind)).reshape(tuple(shape)), name
                )
            self.initializers.append(tensor)
            self._known[key] = name
            self._narrow.add(name)
        return self._known[key]

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add one node with one output and return the output's name."""
        key = (operator, domain, inputs, repr(sorted(attributes.items())))
        if key not in self._known:
            name = f"{self._prefix}_{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, list(inputs), [name], domain=domain, **attributes))
            self.extensions = self.extensions or domain == EXTENSIONS
            self._known[key] = name
            if all(each in self._narrow for each in inputs):
                self._narrow.add(name)
        return self._known[key]

    def needed(self, outputs: Iterable[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
        """The nodes and initializers that these tensors depend on, in order."""
        wanted = set(outputs)
        nodes: list[onnx.NodeProto] = []
        for node in reversed(self.nodes):
            if node.output[0] in wanted:
                nodes.append(node)
                wanted.update(node.input)
        return nodes[::-1], [each for each in self.initializers if each.name in wanted]

    def is_narrow(self, tensor: str) -> bool:
        """Made of constants only: its shape is [1, 1], not [rows, 1]."""
        return tensor in self._narrow

    # Words for what every renderer says

    def cast(self, tensor: str, kind: int) -> str:
        return self.add("Cast", tensor, to=kind)

    def where(self, test: str, then: str, otherwise: str) -> str:
        same = then == otherwise and not self.is_narrow(then)  # a constant must still become [rows, 1]
        return then if same else self.add("Where", test, then, otherwise)

    def invert(self, mask: str) -> str:
        return self.add("Not", mask)

    def either(self, *masks: str | None) -> str | None:
        """Or of masks, where None means nowhere."""
        given = [each for each in dict.fromkeys(masks) if each is not None]
        if not given:
            return None
        joined = given[0]
        for each in given[1:]:
            joined = self.add("Or", joined, each)
        return joined

    def unless(self, flags: str, mask: str | None) -> str:
        """``flags``, false where ``mask``."""
        return flags if mask is None else self.add("And", flags, self.invert(mask))

    def pick(self, test: str, then: str, otherwise: str) -> str:
        """Where for booleans, which ONNX Runtime has no kernel for."""
        return self.add("Or", self.add("And", test, then), self.add("And", self.invert(test), otherwise))
