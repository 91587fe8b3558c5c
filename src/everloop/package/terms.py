"""TF-IDF in the served graph: a text tensor → a sparse block of the matrix. Must do what `everloop.measure.terms` does.

Tokens of all rows stand in one list, never padded to the longest text, so that a long text costs what it is long and
nothing else. A linear model multiplies only the terms that are there.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from everloop.forms import Analyzer, TermTable
from everloop.measure.letters import SEPARATOR
from everloop.measure.terms import COUNTED, weights_of_counts
from everloop.package.graph import EXTENSIONS, TREE_DOMAIN, Block, Graph
from everloop.package.texts import LOCALE

FLOAT, DOUBLE, INT64 = TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT64
LETTER = "((?s:.))"


@dataclass(frozen=True, slots=True)
class Split:
    """Tokens of all texts in one list. ``rows``: int64 [tokens], the text of each. ``count``: int64 [1], how many texts."""

    tokens: str
    rows: str
    count: str


def split(graph: Graph, text: str, analyzer: Analyzer, *, lowercase: bool) -> Split:
    """The words or letters of a text tensor [rows, 1], in order; missing has none."""
    flat = graph.node("Reshape", [text, graph.constant([-1], np.int64)])
    if lowercase:
        flat = graph.node("StringNormalizer", [flat], case_change_action="LOWER", is_case_sensitive=1, locale=LOCALE)
    pattern, kept = (SEPARATOR, "") if analyzer == "word" else (LETTER, LETTER)
    given = [flat, graph.texts([pattern]), graph.texts([kept])]
    tokens, _, _, starts = graph.several("StringRegexSplitWithOffsets", given, 4, domain=EXTENSIONS)
    count = graph.node("Shape", [flat])
    # Where each text but the first begins adds one to the row of every token from there on.
    total = graph.node("Shape", [tokens])
    one = graph.constant([1], np.int64)
    nothing = graph.node("Expand", [graph.constant([0], np.int64), graph.node("Add", [total, one])])
    begins = graph.node("Slice", [starts, one, count])
    ones = graph.node("Expand", [one, graph.node("Shape", [begins])])
    marks = graph.node("ScatterElements", [nothing, begins, ones], axis=0, reduction="add")
    rows = graph.node("CumSum", [marks, graph.constant(0, np.int64)])
    rows = graph.node("Slice", [rows, graph.constant([0], np.int64), total])
    if analyzer == "char":  # what stands for a missing text is a letter, too
        there = graph.node("Not", [graph.node("Equal", [tokens, graph.texts(["\x00"])])])
        tokens, rows = (graph.node("Compress", [each, there], axis=0) for each in (tokens, rows))
    return Split(tokens, rows, count)


def places(graph: Graph, values: tuple[str, ...], tokens: str) -> str:
    """The place of each token among ``values``, int64, -1 for others."""
    if not values:
        nothing = graph.constant(-1, np.int64)
        return graph.node("Expand", [nothing, graph.node("Shape", [tokens])])
    numbers = list(range(len(values)))
    return graph.node(
        "LabelEncoder", [tokens], domain=TREE_DOMAIN, keys_strings=list(values), values_int64s=numbers, default_int64=-1
    )


def block(graph: Graph, table: TermTable, text: str) -> Block:
    found = split(graph, text, table.form.analyzer, lowercase=table.form.lowercase)
    width = len(table.values)
    row, column, values = _weighted(graph, table, found)
    written: list[str] = []

    def whole() -> str:
        if not written:
            cells = graph.node("Concat", [found.count, graph.constant([width], np.int64)], axis=0)
            place = graph.node("Concat", [_column(graph, row), _column(graph, column)], axis=1)
            empty = graph.node("Expand", [graph.scalar(0.0), cells])
            written.append(graph.node("ScatterND", [empty, place, values]))
        return written[0]

    def times(weights: npt.NDArray[np.float64]) -> str:
        shape = graph.node("Concat", [found.count, graph.constant([weights.shape[1]], np.int64)], axis=0)
        empty = graph.node("Expand", [graph.scalar(0.0), shape])
        own = graph.node("Mul", [graph.node("Gather", [graph.constant(weights), column]), _column(graph, values)])
        return graph.node("ScatterND", [empty, _column(graph, row), own], reduction="add")

    return Block(width=width, ragged=whole, times=times)


def _weighted(graph: Graph, table: TermTable, found: Split) -> tuple[str, str, str]:
    """Row, column and value of each term that is there, by row and column."""
    width = graph.constant(len(table.values), np.int64)
    codes = []
    for size in range(table.form.ngram_range[0], table.form.ngram_range[1] + 1):
        row, term = _grams(graph, found, size, " " if table.form.analyzer == "word" else "")
        place = places(graph, table.values, term)
        known = graph.node("GreaterOrEqual", [place, graph.constant(0, np.int64)])
        code = graph.node("Add", [graph.node("Mul", [row, width]), place])
        codes.append(graph.node("Compress", [code, known], axis=0))
    code = codes[0] if len(codes) == 1 else graph.node("Concat", codes, axis=0)
    distinct, _, _, counts = graph.several("Unique", [code], 4, sorted=1)
    row = graph.node("Div", [distinct, width])
    column = graph.node("Sub", [distinct, graph.node("Mul", [row, width])])
    counts = graph.node("Min", [counts, graph.constant(COUNTED, np.int64)])
    weight = graph.node("Gather", [graph.constant(weights_of_counts(table.form.sublinear_tf)), counts])
    weight = graph.node("Mul", [weight, graph.node("Gather", [graph.constant(table.idf), column])])
    empty = graph.node("Expand", [graph.scalar(0.0), found.count])
    squares = graph.node("Mul", [weight, weight])
    length = graph.node("Sqrt", [graph.node("ScatterElements", [empty, row, squares], axis=0, reduction="add")])
    value = graph.node("Div", [weight, graph.node("Gather", [length, row])])
    narrow = graph.node("Cast", [value], to=FLOAT)
    return row, column, graph.node("Cast", [narrow], to=DOUBLE)


def _grams(graph: Graph, found: Split, size: int, joint: str) -> tuple[str, str]:
    """Row and text of each run of ``size`` tokens of one text."""
    if size == 1:
        return found.rows, found.tokens
    most = graph.constant([2**62], np.int64)

    def shifted(tensor: str, step: int) -> str:
        """From the token ``step`` on, up to the last one that still has all others after it."""
        end = most if step == size - 1 else graph.constant([step - size + 1], np.int64)
        return graph.node("Slice", [tensor, graph.constant([step], np.int64), end])

    term = shifted(found.tokens, 0)
    for step in range(1, size):
        term = graph.node("StringConcat", [term, graph.texts([joint])]) if joint else term
        term = graph.node("StringConcat", [term, shifted(found.tokens, step)])
    first = shifted(found.rows, 0)
    same = graph.node("Equal", [first, shifted(found.rows, size - 1)])
    return tuple(graph.node("Compress", [each, same], axis=0) for each in (first, term))  # type: ignore[return-value]


def _column(graph: Graph, flat: str) -> str:
    return graph.node("Unsqueeze", [flat, graph.constant([-1], np.int64)])
