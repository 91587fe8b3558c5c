"""How large the constants of a graph grow when they are computed before it runs. Knows sizes, not values.

ONNX Runtime computes at load whatever depends on constants alone, and neither its memory limit nor its word to stop
holds there: a few nodes that double one another fill a machine. So it may do that only where what comes of it is
bounded beforehand; elsewhere it computes the same at each run, where both hold.
"""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from math import prod
from typing import Protocol

Shape = tuple[int, tuple[int, ...] | None]
"""How many elements, and their dimensions where they are known."""
SPARE_ELEMENTS = 2**22
GROWTH = 4
"""Folding may make so many elements, and so many times what the graph carries."""

SAME = frozenset(
    {
        "Abs", "Acos", "Asin", "Atan", "BitwiseNot", "Cast", "CastLike", "Ceil", "Clip", "Cos", "DequantizeLinear", "Elu",
        "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "Identity", "IsInf", "IsNaN", "LeakyRelu", "Log", "LogSoftmax",
        "Neg", "Not", "QuantizeLinear", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus",
        "Softsign", "Sqrt", "Tan", "Tanh", "Trilu",
    }
)  # fmt: skip
"""Operators whose output has the shape of their first input."""
NO_MORE = frozenset(
    {
        "ArgMax", "ArgMin", "Compress", "Flatten", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin",
        "ReduceProd", "ReduceSum", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
    }
)  # fmt: skip
"""Operators whose outputs together have no more elements than their first input."""
BROADCAST = frozenset(
    {
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
        "Mul", "Or", "Pow", "PRelu", "Sub", "Sum", "Where", "Xor",
    }
)  # fmt: skip
MEASURED = frozenset({"Shape", "Size"})
"""They give a few numbers, and constants where the shape is known beforehand."""
MEASURE: Shape = (64, None)


class Node(Protocol):
    name: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    constant: Shape | None

    @property
    def graphs(self) -> Sequence["Graph"]: ...


class Graph(Protocol):
    initializers: dict[str, Shape]

    @property
    def nodes(self) -> Sequence[Node]: ...


def folding_is_bounded(graph: Graph, carried: int) -> bool:
    """Whether all that depends on constants alone has few elements, against the ``carried`` ones of the graph."""
    return _folded(graph, {}, SPARE_ELEMENTS + GROWTH * carried) is not None


def _folded(graph: Graph, around: Mapping[str, Shape], budget: int) -> int | None:
    """What is left of ``budget``, in elements, when all constants of ``graph`` are folded; None: it may not do."""
    known: dict[str, Shape] = {**around, **graph.initializers, "": (0, ())}
    waiting: dict[str, list[int]] = {}
    missing: list[int] = []
    ready: deque[int] = deque()
    for place, node in enumerate(graph.nodes):
        inputs = set() if node.name in MEASURED else {each for each in node.inputs if each not in known}
        missing.append(len(inputs))
        for each in inputs:
            waiting.setdefault(each, []).append(place)
        if not inputs:
            ready.append(place)
    while ready:  # in the order in which they become known: nothing says that the nodes of a graph are sorted
        node = graph.nodes[ready.popleft()]
        if node.graphs:
            return None  # an If with a constant condition is replaced by its branch
        shape = _bound(node, known)
        if shape is None:
            return None
        budget -= shape[0]
        if budget < 0:
            return None
        for output in node.outputs:
            known[output] = shape
            for place in waiting.pop(output, ()):
                missing[place] -= 1
                if not missing[place]:
                    ready.append(place)
    for node in graph.nodes:
        for inner in node.graphs:
            left = _folded(inner, known, budget)
            if left is None:
                return None
            budget = left
    return budget


def _bound(node: Node, known: Mapping[str, Shape]) -> Shape | None:
    """At least the size of what a node gives; None when nobody says."""
    name = node.name
    if node.domain not in ("", "ai.onnx"):
        return None
    if name == "Constant":
        return node.constant
    if name in MEASURED:
        return MEASURE
    shapes = [known[each] for each in node.inputs]
    if not shapes:
        return None
    if name in SAME:
        return shapes[0]
    if name in NO_MORE:
        return shapes[0][0], None
    rule = RULES.get(name) or (broadcast if name in BROADCAST else None)
    return rule(shapes) if rule is not None else None


def broadcast(shapes: Sequence[Shape]) -> Shape:
    """The shape of an operation by element; a product where a shape is not known."""
    dims = [each for _, each in shapes if each is not None]
    if len(dims) == len(shapes):
        lined_up = zip_longest(*(reversed(each) for each in dims), fillvalue=1)
        together = tuple(reversed([max(each) for each in lined_up]))
        return prod(together), together
    return prod(max(1, count) for count, _ in shapes), None


def _concatenated(shapes: Sequence[Shape]) -> Shape:
    return sum(count for count, _ in shapes), None


def _gathered(shapes: Sequence[Shape]) -> Shape:
    return prod(max(1, count) for count, _ in shapes[:2]), None


RULES: dict[str, Callable[[Sequence[Shape]], Shape]] = {"Concat": _concatenated, "Gather": _gathered}
