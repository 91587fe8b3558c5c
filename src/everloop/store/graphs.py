"""Looks into an ONNX graph without running it: what it would reach for, and how large it would grow. Runs nothing.

The library `onnx` is not on the serving path, and whatever reads a graph to judge it must read all of it: subgraphs,
functions, sparse tensors, and a field that is there twice. Field numbers are those of onnx.proto3.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from math import prod

from everloop.errors import PackageError
from everloop.store.folding import Shape, folding_is_bounded
from everloop.store.protobuf import BYTES, VARINT, WIRES, Field, Malformed, fields, varints

LARGEST_GRAPH = 2**31 - 1
"""Protobuf's own limit."""
NODES = 2**18
DEEPEST = 16
"""Graphs within graphs; and functions that call functions, times four."""
SPARSE_ELEMENTS = 2**26
"""Of a sparse tensor when it is made dense, as ONNX Runtime does at load."""
BUILT_IN = frozenset({"", "ai.onnx", "ai.onnx.ml"})
REFUSED = frozenset({"EPContext", "PyOp", "ATen"})
"""Operators that load other files or call other programs."""
BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4, 24: 8, 25: 2, 26: 2,
}  # fmt: skip
"""Bits of an element by TensorProto.DataType."""
TEXT = 8
_SHORT = "|".join(rf"\x{size:02x}[\s\S]{{{size}}}" for size in (4, 10, 11, *range(24)))
_RUNS = re.compile(rf"(?:\x3d[\s\S]{{4}})++|(?:\x40[\x80-\xff]{{0,9}}[\x00-\x7f])++|(?:\x4a(?:{_SHORT}))++".encode())
"""The floats, ints and short strings of an attribute; the kinds of a tree's nodes have 4, 10 or 11 letters."""


@dataclass(slots=True)
class Node:
    name: str = ""
    domain: str = ""
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    graphs: list["Graph"] = field(default_factory=list)
    constant: Shape | None = None
    """Of a Constant: what it holds."""


@dataclass(slots=True)
class Graph:
    nodes: list[Node] = field(default_factory=list)
    initializers: dict[str, Shape] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """``elements`` are those of all tensors that the graph carries; ``folds``: folding its constants stays small."""

    nodes: int
    elements: int
    domains: frozenset[str]
    folds: bool


def inspect(graph: bytes, *, declared: Collection[str] = ()) -> Inspection:
    """What is in a serialised ONNX model. Raises PackageError for anything that a package must not bring.

    Refused: data outside the file; operators of a domain that is neither ONNX's own nor ``declared``; tensors larger
    than what they hold; sparse tensors, functions or subgraphs that grow beyond bounds; what is not ONNX at all.
    """
    if len(graph) > LARGEST_GRAPH:
        raise PackageError(f"The graph has {len(graph)} bytes; ONNX holds at most {LARGEST_GRAPH}.")
    walk = _Walk(graph)
    try:
        walk.model()
    except Malformed as error:
        raise PackageError(f"The graph is not ONNX: {error}.") from None
    expanded = walk.expanded()
    unknown = sorted({node.domain for node in walk.nodes} - BUILT_IN - {*declared} - {d for d, _ in walk.functions})
    if unknown:
        raise PackageError(
            f"The graph has operators of the domain {unknown[0]!r}, which its manifest does not declare; "
            f"declared are {', '.join(sorted(declared)) or 'none'}."
        )
    return Inspection(
        nodes=expanded,
        elements=walk.elements,
        domains=frozenset(node.domain for node in walk.nodes),
        folds=not walk.functions and folding_is_bounded(walk.graph, walk.elements),
    )


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.graph = Graph()
        self.nodes: list[Node] = []
        """All of them, wherever they are."""
        self.functions: dict[tuple[str, str], list[Node]] = {}
        self.elements = 0

    def model(self) -> None:
        found = False
        for each in fields(self.data, 0, len(self.data)):
            number = each[0]
            if number == 7:
                if found:
                    raise Malformed("it holds two graphs")
                found = True
                self._graph(self._content(each), self.graph, 0)
            elif number == 25:
                self._function(self._content(each))
            elif number == 20:
                raise PackageError("The graph brings training information, which nothing here needs; export without.")
        if not found:
            raise Malformed("it holds no graph")

    def expanded(self) -> int:
        """How many nodes there are when each call of a function is replaced by its body. Raises PackageError."""
        sizes: dict[tuple[str, str], int] = {}
        functions = self.functions  # not self: these two hold each other, and would hold the whole graph with them

        def size(key: tuple[str, str], above: int) -> int:
            if above > 4 * DEEPEST:
                raise PackageError(
                    f"The graph's functions call one another more than {4 * DEEPEST} deep, or in a ring."
                )
            if key not in sizes:
                sizes[key] = counted(functions[key], above + 1)
            return sizes[key]

        def counted(nodes: list[Node], above: int) -> int:
            total = 0
            for node in nodes:
                call = (node.domain, node.name)
                total += size(call, above) if call in functions else 1
                total += sum(counted(graph.nodes, above) for graph in node.graphs)
            if total > NODES:
                raise PackageError(f"The graph has more than {NODES} nodes once its functions are written out.")
            return total

        for key in self.functions:
            size(key, 0)
        return counted(self.graph.nodes, 0)

    def _content(self, found: Field) -> tuple[int, int]:
        number, wire, begin, end = found
        if wire != BYTES:
            raise Malformed(f"field {number} at byte {begin} is {WIRES[wire]}, not a message")
        return begin, end

    def _text(self, found: Field) -> str:
        begin, end = self._content(found)
        return self.data[begin:end].decode("latin-1")  # two names that differ must not become one

    def _graph(self, content: tuple[int, int], graph: Graph, depth: int) -> None:
        if depth > DEEPEST:
            raise PackageError(f"The graph has graphs within graphs, more than {DEEPEST} deep.")
        for each in fields(self.data, *content):
            number = each[0]
            if number == 1:
                graph.nodes.append(self._node(self._content(each), depth))
            elif number == 5:
                name, shape = self._tensor(self._content(each))
                graph.initializers[name] = shape
            elif number == 15:
                name, shape = self._sparse(self._content(each))
                graph.initializers[name] = shape

    def _function(self, content: tuple[int, int]) -> None:
        name = domain = ""
        nodes: list[Node] = []
        for each in fields(self.data, *content):
            number = each[0]
            if number == 1:
                name = self._text(each)
            elif number == 10:
                domain = self._text(each)
            elif number == 7:
                nodes.append(self._node(self._content(each), 0))
            elif number == 11:
                self._attribute(self._content(each), Node(), 0)
        if domain in BUILT_IN:
            raise PackageError(f"The graph redefines {name!r} of ONNX's own operators.")
        self.functions.setdefault((domain, name), []).extend(nodes)

    def _node(self, content: tuple[int, int], depth: int) -> Node:
        node = Node()
        for each in fields(self.data, *content):
            number = each[0]
            if number == 1:
                node.inputs.append(self._text(each))
            elif number == 2:
                node.outputs.append(self._text(each))
            elif number == 4:
                node.name = self._text(each)
            elif number == 5:
                self._attribute(self._content(each), node, depth)
            elif number == 7:
                node.domain = self._text(each)
        if node.name in REFUSED:
            raise PackageError(f"The graph has the operator {node.name}, which reaches outside; export without it.")
        self.nodes.append(node)
        if len(self.nodes) > NODES:
            raise PackageError(f"The graph has more than {NODES} nodes.")
        return node

    def _attribute(self, content: tuple[int, int], node: Node, depth: int) -> None:
        shape: Shape = (content[1] - content[0], None)  # of a list: each element takes at least a byte
        seen: set[int] = set()
        for each in fields(self.data, *content, runs=_RUNS):
            number = each[0]
            if number in (5, 6, 22):
                if number in seen:  # a parser would make one of the two
                    raise Malformed(f"an attribute has field {number} twice")
                seen.add(number)
            if number in (5, 10):
                _, shape = self._tensor(self._content(each))
            elif number in (6, 11):
                graph = Graph()
                self._graph(self._content(each), graph, depth + 1)
                node.graphs.append(graph)
            elif number in (22, 23):
                _, shape = self._sparse(self._content(each))
        if node.constant is None or node.constant[0] < shape[0]:
            node.constant = shape

    def _sparse(self, content: tuple[int, int]) -> tuple[str, Shape]:
        name = ""
        dims: list[int] = []
        for each in fields(self.data, *content):
            number = each[0]
            if number == 1:
                name, _ = self._tensor(self._content(each))
            elif number == 2:
                self._tensor(self._content(each))
            elif number == 3:
                dims += varints(self.data, each)
        count = _count(name, dims)
        if count > SPARSE_ELEMENTS:
            raise PackageError(
                f"The sparse tensor {name[:80]!r} has {count} elements when it is made dense; "
                f"at most {SPARSE_ELEMENTS} are."
            )
        self.elements += count
        return name, (count, tuple(dims))

    def _tensor(self, content: tuple[int, int]) -> tuple[str, Shape]:
        name, kind, raw, held, texts = "", 0, None, 0, 0
        dims: list[int] = []
        for each in fields(self.data, *content):
            number, wire, begin, end = each
            if number == 1:
                dims += varints(self.data, each)
            elif number == 2:
                kind = self._number(each)
            elif number in (4, 5, 7, 10, 11):
                held += end - begin if wire == BYTES else 1
            elif number == 6:
                texts += 1
            elif number == 8:
                name = self._text(each)
            elif number == 9:
                begin, end = self._content(each)
                raw = end - begin
            elif number == 13 or (number == 14 and self._number(each)):
                raise PackageError(
                    f"The tensor {name[:80]!r} keeps its data outside the graph. A package is whole: "
                    "save the model with its data inside."
                )
        count = _count(name, dims)
        self._weigh(name, kind, count, raw, held, texts)
        self.elements += count
        return name, (count, tuple(dims))

    def _weigh(self, name: str, kind: int, count: int, raw: int | None, held: int, texts: int) -> None:
        """Refuse a tensor that says it is larger than what it brings: memory is taken by what it says."""
        if kind == TEXT:
            sound = count == texts
        elif kind not in BITS:
            raise PackageError(f"The tensor {name[:80]!r} has elements of the unknown type {kind}.")
        elif raw is not None:
            sound = raw == (count * BITS[kind] + 7) // 8
        else:
            sound = count <= held * max(1, 8 // BITS[kind])
        if not sound:
            raise PackageError(f"The tensor {name[:80]!r} is said to have {count} elements and does not bring them.")

    def _number(self, found: Field) -> int:
        number, wire, value, place = found
        if wire != VARINT:
            raise Malformed(f"field {number} before byte {place} is {WIRES[wire]}, not a number")
        return value


def _count(name: str, dims: list[int]) -> int:
    if len(dims) > 64 or any(each < 0 for each in dims):
        raise PackageError(f"The tensor {name[:80]!r} has {len(dims)} dimensions, the smallest {min(dims)}.")
    return prod(dims)
