"""A typed value inside the graph and how missing stands in it. Knows nothing of the feature tree.

number   float64, NaN where missing; ``finite`` False: infinities too, which count as missing
integer  int64 and a mask (anything where missing); an instant the same, in microseconds since 1970 UTC
boolean  bool and a mask; always False where missing, which makes three-valued logic short
text     string, `MISSING_TEXT` where missing
"""

from dataclasses import dataclass, replace

from everloop.package.nodes import BOOL, DOUBLE, INT64, STRING, Nodes
from everloop.records import MISSING_TEXT

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor [rows, 1], or [1, 1] when it is made of constants only."""

    type: str
    name: str
    mask: str | None = None
    finite: bool = True
    constant: bool = False
    value: float | None = None
    """What a constant number is."""


def constant(nodes: Nodes, value: object, type: str) -> Tensor:
    """``value`` None: missing."""
    if value is None:
        nothing = {"number": NAN, "boolean": False, "text": MISSING_TEXT}.get(type, 0)
        mask = nodes.constant(True, BOOL) if type in ("integer", "boolean", "instant") else None
        return Tensor(type, _literal(nodes, nothing, type), mask)
    number = float(value) if type in ("number", "integer", "boolean") else None  # type: ignore[arg-type]
    return Tensor(type, _literal(nodes, value, type), constant=True, value=number)


def _literal(nodes: Nodes, value: object, type: str) -> str:
    kinds = {"number": DOUBLE, "integer": INT64, "instant": INT64, "boolean": BOOL, "text": STRING}
    return nodes.constant(value, kinds[type])


def clean(nodes: Nodes, tensor: Tensor) -> Tensor:
    """A number whose infinities have become NaN: x + (x - x)."""
    if tensor.type != "number" or tensor.finite:
        return tensor
    nothing = nodes.add("Sub", tensor.name, tensor.name)
    return replace(tensor, name=nodes.add("Add", tensor.name, nothing), finite=True)


def missing(nodes: Nodes, tensor: Tensor) -> str | None:
    """The mask of a tensor; None: nowhere missing."""
    if tensor.constant:
        return None
    if tensor.type == "number":
        return nodes.add("IsNaN", clean(nodes, tensor).name)
    if tensor.type == "text":
        return nodes.add("Equal", tensor.name, nodes.constant(MISSING_TEXT, STRING))
    return tensor.mask


def nowhere(nodes: Nodes, tensor: Tensor) -> str:
    """False for every row."""
    return nodes.invert(nodes.add("Equal", tensor.name, tensor.name))


def convert(nodes: Nodes, tensor: Tensor, type: str) -> Tensor:
    """Widen: boolean → integer → number. The same type comes back as it is."""
    if tensor.type == type:
        return tensor
    if type == "integer":
        return Tensor(
            "integer", nodes.cast(tensor.name, INT64), tensor.mask, constant=tensor.constant, value=tensor.value
        )
    value = nodes.cast(tensor.name, DOUBLE)
    if tensor.mask is not None:
        value = nodes.where(tensor.mask, nodes.constant(NAN, DOUBLE), value)
    return Tensor("number", value, constant=tensor.constant, value=tensor.value)
