"""Features as an expression: everything that other rooms take from it. Knows nothing by itself.

expression (what a user combines) → trace (called once) → tree (what travels) → operations (its types).
"""

from everloop.spec.expression import Column, Columns, when
from everloop.spec.operations import infer
from everloop.spec.trace import past, trace
from everloop.spec.tree import Call, Constant, FeatureTree, Input, Node, describe, from_json, inputs_of, to_json

__all__ = [
    "Call",
    "Column",
    "Columns",
    "Constant",
    "FeatureTree",
    "Input",
    "Node",
    "describe",
    "from_json",
    "infer",
    "inputs_of",
    "past",
    "to_json",
    "trace",
    "when",
]
