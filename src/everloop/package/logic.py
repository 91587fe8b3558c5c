"""How comparisons and three-valued logic are written in ONNX. Knows nothing of arithmetic or text.

A boolean is always False where it is missing, so known to be true is the value alone, and known to be false is neither
value nor mask.
"""

from collections.abc import Sequence

from everloop.package.nodes import Nodes
from everloop.package.tensors import Tensor, clean, convert, missing
from everloop.spec.tree import Call

Arguments = Sequence[Tensor]


class LogicOperators:
    """The comparing half of `everloop.package.operators.Renderer`."""

    nodes: Nodes

    def _compare(self, operator: str, arguments: Arguments, negated: bool = False) -> Tensor:
        left, right = self._alike(arguments)
        if left.type == "number":
            left, right = clean(self.nodes, left), clean(self.nodes, right)
        absent = self.nodes.either(missing(self.nodes, left), missing(self.nodes, right))
        flags = self.nodes.add(operator, left.name, right.name)
        if negated:
            flags = self.nodes.invert(flags)
        if negated or left.type != "number":  # comparisons with NaN are false already
            flags = self.nodes.unless(flags, absent)
        return Tensor("boolean", flags, absent)

    def _alike(self, arguments: Arguments) -> list[Tensor]:
        types = {each.type for each in arguments}
        if types == {"boolean"}:
            return [convert(self.nodes, each, "integer") for each in arguments]
        wanted = "number" if "number" in types else "integer" if "integer" in types else arguments[0].type
        return [convert(self.nodes, each, wanted) for each in arguments]

    def _equal(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._compare("Equal", arguments)

    def _not_equal(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._compare("Equal", arguments, negated=True)

    def _less(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._compare("Less", arguments)

    def _less_equal(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._compare("LessOrEqual", arguments)

    def _greater(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._compare("Greater", arguments)

    def _greater_equal(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return self._compare("GreaterOrEqual", arguments)

    def _false(self, tensor: Tensor) -> str:
        """Where a boolean is known to be false."""
        return self.nodes.invert(tensor.name if tensor.mask is None else self.nodes.add("Or", tensor.name, tensor.mask))

    def _and(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        left, right = arguments
        absent = self.nodes.either(left.mask, right.mask)
        if absent is not None:
            known = self.nodes.add("Or", self._false(left), self._false(right))
            absent = self.nodes.unless(absent, known)
        return Tensor("boolean", self.nodes.add("And", left.name, right.name), absent)

    def _or(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        left, right = arguments
        flags = self.nodes.add("Or", left.name, right.name)
        absent = self.nodes.either(left.mask, right.mask)
        return Tensor("boolean", flags, None if absent is None else self.nodes.unless(absent, flags))

    def _xor(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        left, right = arguments
        absent = self.nodes.either(left.mask, right.mask)
        return Tensor("boolean", self.nodes.unless(self.nodes.add("Xor", left.name, right.name), absent), absent)

    def _not(self, call: Call, arguments: Arguments, result: str) -> Tensor:
        return Tensor("boolean", self._false(arguments[0]), arguments[0].mask)
