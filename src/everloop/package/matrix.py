"""The learned encoding as graph nodes: feature tensors → the estimator's matrix. Knows nothing of estimators.

Must do exactly what `everloop.measure.encode.apply` does: the same codes, the same clip, the same rounding to float32.
Numbers that stand together are taken as one block: each node costs the server about a microsecond.
"""

from itertools import groupby

import numpy as np
from onnx import TensorProto

from everloop.forms import Image
from everloop.measure.encode import COLUMNS, LARGEST
from everloop.package import images, terms, tokens
from everloop.package.graph import TREE_DOMAIN, Block, Blocks, Graph
from everloop.package.render import GraphParts
from everloop.records import MISSING_TEXT, Category, Encoding, FeatureEncoding, Scaling

DOUBLE = TensorProto.DOUBLE


def matrix(graph: Graph, encoding: Encoding, parts: GraphParts) -> str:
    """float64 [rows, ``encoding.width``], every value exactly representable in float32."""
    if not encoding.sparse:
        return _dense(graph, encoding, parts)
    blocks: list[Block] = []
    for together, group in groupby(encoding.features, key=lambda each: each.terms is None):
        features = tuple(group)
        if together:
            part = Encoding(features=features)
            blocks.append(Block(width=part.width, name=_dense(graph, part, parts)))
        else:
            blocks += [terms.block(graph, e.terms, parts.features[e.name].value) for e in features if e.terms]
    name = graph.name("matrix")
    graph.blocks[name] = Blocks(blocks)
    graph.rounded[name] = name
    return name


def tensors(graph: Graph, encoding: Encoding, parts: GraphParts) -> dict[str, str]:
    """What a network sees, by name: ``columns`` float64 [rows, width], images float32, tokens int64."""
    found: dict[str, str] = {}
    if encoding.flat.features:
        found[COLUMNS] = matrix(graph, encoding.flat, parts)
    for each in encoding.features:
        if each.image is not None:
            found[each.name] = images.normalised(graph, each.image, parts.features[each.name].value)
        elif each.tokens is not None and each.tokens.tokenizer:
            found[each.name] = tokens.given(graph, each.name, each.tokens, parts.texts[each.name].index)
        elif each.tokens is not None:
            found[each.name] = tokens.ids(graph, each.tokens, parts.features[each.name].value)
    return found


def _dense(graph: Graph, encoding: Encoding, parts: GraphParts) -> str:
    pieces: list[str] = []
    for kind, group in groupby(encoding.features, key=_kind):
        if kind == "number":
            pieces.append(parts.numeric_block([each.name for each in group]))
        elif kind == "image":
            pieces += [_flat(graph, e.image, parts.features[e.name].value) for e in group if e.image]
        else:
            pieces += [_category(graph, e.category, parts.features[e.name].value) for e in group if e.category]
    fills = np.array([fill for each in encoding.features for fill in _fills(each)])
    whole = graph.concat(pieces)
    if any(_kind(each) == "number" for each in encoding.features):
        whole = graph.node("Clip", [whole, graph.scalar(-LARGEST), graph.scalar(LARGEST)])
        whole = graph.to_float32(whole)
    absent = graph.node("IsNaN", [whole]) if not np.isnan(fills).all() else ""
    if absent:
        whole = graph.node("Where", [absent, graph.constant(fills.reshape(1, -1)), whole])
    if encoding.network:
        whole = _scaled(graph, encoding, whole, absent)
    graph.rounded[whole] = whole
    return whole


def _scaled(graph: Graph, encoding: Encoding, whole: str, absent: str) -> str:
    """Every column scaled (categories by 1), and behind them those that say what is missing."""
    centres: list[float] = []
    factors: list[float] = []
    missing: list[int] = []
    for each in encoding.features:
        width = len(each.category.values) + 2 if each.category and each.category.one_hot else 1
        missing += [len(centres)] if each.indicator else []
        centres += [each.scaling.centre if each.scaling else 0.0] * width
        factors += [each.scaling.factor if each.scaling else 1.0] * width
    if any(each.scaling for each in encoding.features):
        moved = graph.node("Sub", [whole, graph.constant(np.array([centres]))])
        moved = graph.node("Mul", [moved, graph.constant(np.array([factors]))])
        moved = graph.node("Clip", [moved, graph.scalar(-Scaling.WIDEST), graph.scalar(Scaling.WIDEST)])
        whole = graph.to_float32(moved)
    if not missing:
        return whole
    return graph.concat([whole, graph.node("Cast", [graph.columns(absent, missing)], to=DOUBLE)])


def _kind(each: FeatureEncoding) -> str:
    return "image" if each.image is not None else "number" if each.category is None else "category"


def _flat(graph: Graph, form: Image, pixels: str) -> str:
    values = graph.node("Cast", [images.normalised(graph, form, pixels)], to=DOUBLE)
    return graph.node("Flatten", [values], axis=1)


def _fills(each: FeatureEncoding) -> list[float]:
    if each.image is not None:
        return [np.nan] * each.width
    if each.category is None:
        return [np.nan if each.fill is None else each.fill]
    return [np.nan] * (len(each.category.values) + 2 if each.category.one_hot else 1)


def _category(graph: Graph, category: Category, text: str) -> str:
    """Codes or one-hot columns of a text tensor [rows, 1] that holds `MISSING_TEXT` where it is missing."""
    known = len(category.values)
    code = graph.node(
        "LabelEncoder",
        [text],
        domain=TREE_DOMAIN,
        keys_strings=[*category.values, MISSING_TEXT],
        values_int64s=list(range(known + 1)),
        default_int64=known + 1,
    )
    if not category.one_hot:
        return graph.node("Cast", [code], to=DOUBLE)
    places = graph.constant(np.arange(known + 2).reshape(1, -1), np.int64)
    return graph.node("Cast", [graph.node("Equal", [code, places])], to=DOUBLE)
