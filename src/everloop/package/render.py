"""Writes the feature tree as ONNX nodes, from packed inputs to one tensor a feature. Knows nothing of estimators.

The same tree is rendered to polars by `everloop.data.features`; a property test holds the two equal.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from everloop.errors import PackageError
from everloop.package.nodes import BOOL, DOUBLE, INT64, MACHINE_LEARNING_OPSET, OPSET, STRING, Nodes
from everloop.package.operators import Renderer, whole_numbers
from everloop.package.tensors import NAN, Tensor, clean, convert, missing, nowhere
from everloop.records import MISSING_INTEGER, FeatureType, InputColumn, TensorColumn
from everloop.spec.tree import Call, FeatureTree, Input

KINDS = {"number": "numbers", "integer": "integers", "boolean": "integers", "instant": "integers", "text": "texts"}
"""Which packed input carries a column type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureTensors:
    """One rendered feature, tensors of shape [rows, 1].

    number   ``value`` float64, NaN where missing and never infinite; ``missing`` None
    text     ``value`` string, `MISSING_TEXT` where missing; ``missing`` None; terms and tokens alike
    image    ``value`` uint8 [rows, height, width, channels]; ``missing`` None
    integer, boolean, instant  ``value`` int64, bool, int64 µs; ``missing`` a bool tensor, or None: never missing
    """

    value: str
    missing: str | None
    type: FeatureType


class _Features(Mapping[str, FeatureTensors]):
    """Renders a feature when it is first read, so that what nobody reads costs the server nothing."""

    def __init__(self, tree: FeatureTree, renderer: Renderer) -> None:
        self._nodes = dict(tree.columns)
        self._renderer = renderer
        self._finished: dict[str, FeatureTensors] = {}

    def __getitem__(self, name: str) -> FeatureTensors:
        if name not in self._finished:
            graph = self._renderer.nodes
            self._finished[name] = _finished(graph, clean(graph, self._renderer.of(self._nodes[name])))
        return self._finished[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes)

    def __len__(self) -> int:
        return len(self._nodes)


class GraphParts:
    """The nodes of the features, to be continued by the one who has the model.

    Continue with ``parts.graph`` (a `Nodes`: ``graph.add("Cast", name, to=…)`` returns the output's name) or take
    ``nodes`` and ``initializers`` when done; names made here begin with ``feature_``. Reading ``features``,
    ``numeric_block`` and ``column`` add nodes, so take ``nodes`` after them.
    """

    def __init__(self, tree: FeatureTree, inputs: Sequence[InputColumn], tensors: Sequence[TensorColumn] = ()) -> None:
        known = _known(inputs, tensors)
        self.graph = Nodes()
        self.features: Mapping[str, FeatureTensors] = _Features(tree, Renderer(self.graph, known))
        """By feature name, in the tree's order; each is rendered when it is read."""
        self.raw = {name: known[node.name] for name, node in tree.columns if isinstance(node, Input)}
        """Features that are a raw column as it stands."""
        self.texts = {
            name: known[node.arguments[0].name]
            for name, node in tree.columns
            if isinstance(node, Call) and node.operation == "tokens" and isinstance(node.arguments[0], Input)
        }
        """Of tokens of a raw column which one it is."""
        self._columns = tuple(inputs)
        self._tensors = tuple(tensors)

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return self.graph.nodes

    @property
    def initializers(self) -> list[onnx.TensorProto]:
        read = {name for node in self.graph.nodes for name in node.input}
        return [each for each in self.graph.initializers if each.name in read]

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """``numbers``, ``integers``, ``texts``: each only if it has columns. Shapes ["rows", n]. Then the tensors."""
        kinds = {"numbers": DOUBLE, "integers": INT64, "texts": STRING}
        widths = {kind: sum(KINDS[each.type] == kind for each in self._columns) for kind in kinds}
        return [
            helper.make_tensor_value_info(name, kind, ["rows", widths[name]])
            for name, kind in kinds.items()
            if widths[name]
        ] + [
            helper.make_tensor_value_info(each.name, TensorProto.UINT8, ["rows", *each.shape]) for each in self._tensors
        ]

    @property
    def extensions(self) -> bool:
        """Whether the session must register onnxruntime-extensions (only ``.str.length()`` does, and free text)."""
        return self.graph.extensions

    @property
    def opsets(self) -> list[onnx.OperatorSetIdProto]:
        """What the model must import at least; ``ai.onnx.ml`` may be raised, the nodes used are in every version ≥ 2."""
        wanted = [
            ("", OPSET),
            ("ai.onnx.ml", MACHINE_LEARNING_OPSET),
            *([("ai.onnx.contrib", 1)] if self.extensions else []),
        ]
        return [helper.make_opsetid(domain, version) for domain, version in wanted]

    def column(self, name: str) -> str:
        """A feature of type number, integer, boolean or instant as float64 [rows, 1], NaN where missing."""
        feature = self.features[name]
        if feature.type in ("text", "terms", "tokens"):
            raise PackageError(f"the feature {name!r} is text; encode it as a category")
        if feature.type == "image":
            raise PackageError(f"the feature {name!r} is an image; it is no single number")
        whole: str = "integer" if feature.type == "instant" else feature.type
        return convert(self.graph, Tensor(whole, feature.value, feature.missing), "number").name

    def numeric_block(self, names: Iterable[str]) -> str:
        """These features side by side: float64 [rows, len(names)], NaN where missing.

        Raw number columns that follow one another are taken at once: a node, and two for the whole graph that make
        infinities missing; raw integer and boolean columns with four nodes.
        """
        wanted = list(names)
        texts = [name for name in wanted if name in self.raw and self.raw[name].type == "text"]
        if texts:
            raise PackageError(f"the features {', '.join(texts)} are text; encode them as categories")
        pieces: list[str] = []
        at = 0
        while at < len(wanted):
            run = self._run(wanted, at)
            if run:
                pieces.append(self._gathered(wanted[at : at + run]))
                at += run
            else:
                pieces.append(self.column(wanted[at]))
                at += 1
        return pieces[0] if len(pieces) == 1 else self.graph.add("Concat", *pieces, axis=1)

    def _run(self, names: list[str], at: int) -> int:
        """How many raw columns of one packed input stand together from here; 0: this one is not raw."""
        kinds = [KINDS[self.raw[each].type] if each in self.raw else None for each in names[at:]]
        if kinds[0] is None:
            return 0
        return next((length for length, kind in enumerate(kinds) if kind != kinds[0]), len(kinds))

    def _gathered(self, names: list[str]) -> str:
        columns = [self.raw[each] for each in names]
        source = KINDS[columns[0].type]
        width = sum(KINDS[each.type] == source for each in self._columns)
        places = [each.index for each in columns]
        block = whole_numbers(self.graph) if source == "numbers" else source
        if places != list(range(width)):
            block = self.graph.add("Gather", block, self.graph.constant(places, INT64, (len(places),)), axis=1)
        if source == "numbers":
            return block
        absent = self.graph.add("Equal", block, self.graph.constant(MISSING_INTEGER, INT64))
        return self.graph.where(absent, self.graph.constant(NAN, DOUBLE), self.graph.cast(block, DOUBLE))


def render(tree: FeatureTree, inputs: Sequence[InputColumn], tensors: Sequence[TensorColumn] = ()) -> GraphParts:
    """Nodes for every feature of ``tree`` over packed ``inputs`` and ``tensors`` (see `everloop.records.Signature`).

    Infinities in packed numbers are missing, as in training. Raises SpecError when a type does not fit, PackageError when a column is not among the inputs.
    """
    known = _known(inputs, tensors)
    absent = [name for name in tree.inputs if name not in known]
    if absent:
        raise PackageError(
            f"features read {', '.join(absent)}, which the signature does not list; add them to its inputs"
        )
    tree.types({name: each.type for name, each in known.items()})
    return GraphParts(tree, inputs, tensors)


def _known(inputs: Sequence[InputColumn], tensors: Sequence[TensorColumn]) -> dict[str, InputColumn]:
    """A column of images is one of bytes; its graph input has its own name."""
    found = {each.name: each for each in inputs}
    return found | {each.name: InputColumn(name=each.name, type="bytes", index=-1) for each in tensors}


def _finished(graph: Nodes, tensor: Tensor) -> FeatureTensors:
    kind: FeatureType = tensor.type  # type: ignore[assignment]
    if kind in ("number", "text", "terms", "tokens", "image"):
        return FeatureTensors(value=tensor.name, missing=None, type=kind)
    mask = missing(graph, tensor)
    if mask is not None and graph.is_narrow(mask):
        mask = graph.add("Or", mask, nowhere(graph, tensor))
    return FeatureTensors(value=tensor.name, missing=mask, type=kind)


def model_of(parts: GraphParts) -> onnx.ModelProto:
    """The features alone as a model: outputs ``value_<i>``, and ``missing_<i>`` where there is one, in the tree's order.

    For tests and for showing a person what a row becomes; a package holds the estimator too.
    """
    kinds = {"number": DOUBLE, "integer": INT64, "instant": INT64, "boolean": BOOL, "text": STRING}
    ends, outputs = [], []
    for index, feature in enumerate(parts.features.values()):
        for word, tensor, kind in (("value", feature.value, kinds[feature.type]), ("missing", feature.missing, BOOL)):
            if tensor is not None:
                ends.append(helper.make_node("Identity", [tensor], [f"{word}_{index}"]))
                outputs.append(helper.make_tensor_value_info(f"{word}_{index}", kind, ["rows", 1]))
    graph = helper.make_graph([*parts.nodes, *ends], "features", parts.inputs, outputs, parts.initializers)
    return helper.make_model(graph, opset_imports=parts.opsets, ir_version=9)
