"""Token ids in the served graph: a text tensor → int64 [rows, length]. Must do what `everloop.measure.tokens` does."""

import numpy as np

from everloop.forms import FIRST, PADDING, TokenTable
from everloop.package.graph import Graph
from everloop.package.terms import places, split


def given(graph: Graph, name: str, table: TokenTable, index: int) -> str:
    """An input of its own, which is made of the text column at ``index`` before the graph: what a tokenizer does."""
    made = f"tokens/{name}"
    graph.steps.append({"input": made, "index": index, "length": table.form.length, "content": table.tokenizer})
    return made


def ids(graph: Graph, table: TokenTable, text: str) -> str:
    """``text``: [rows, 1]."""
    form = table.form
    found = split(graph, text, form.analyzer, lowercase=form.lowercase)
    token = graph.node("Add", [places(graph, table.values, found.tokens), graph.constant(FIRST, np.int64)])
    # How many tokens stand before each text: what a token's place in its own text is counted from.
    one = graph.constant([1], np.int64)
    empty = graph.node("Expand", [graph.constant(0, np.int64), found.count])
    ones = graph.node("Expand", [one, graph.node("Shape", [found.rows])])
    lengths = graph.node("ScatterElements", [empty, found.rows, ones], axis=0, reduction="add")
    before = graph.node("CumSum", [lengths, graph.constant(0, np.int64)], exclusive=1)
    index = graph.node("Sub", [graph.node("CumSum", [ones, graph.constant(0, np.int64)]), one])
    position = graph.node("Sub", [index, graph.node("Gather", [before, found.rows])])
    near = graph.node("Less", [position, graph.constant(form.length, np.int64)])
    row, column, token = (graph.node("Compress", [each, near], axis=0) for each in (found.rows, position, token))
    last = graph.constant([-1], np.int64)
    place = graph.node("Concat", [graph.node("Unsqueeze", [each, last]) for each in (row, column)], axis=1)
    shape = graph.node("Concat", [found.count, graph.constant([form.length], np.int64)], axis=0)
    padded = graph.node("Expand", [graph.constant(PADDING, np.int64), shape])
    return graph.node("ScatterND", [padded, place, token])
