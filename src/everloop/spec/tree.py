"""The feature tree: frozen nodes, their JSON and their digest. Knows nothing of how they are typed, written or rendered."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Literal

from everloop.errors import SpecError
from everloop.records import ColumnType, FeatureType, digest_of, encode

ConstantType = Literal["number", "integer", "boolean", "text", "instant", "missing"]
"""``missing`` is the type of None: it may only stand as a branch of ``when``."""

DEEPEST = 200
"""Nodes on the longest path of one feature. Deeper trees come from a Python loop that builds a sum by hand."""
LARGEST = 5_000
"""Nodes of one feature, written out as a tree."""


@dataclass(frozen=True, slots=True)
class Input:
    """A raw column."""

    name: str


@dataclass(frozen=True, slots=True)
class Constant:
    """A value; an instant is int microseconds since 1970 in UTC."""

    value: Any
    type: ConstantType


@dataclass(frozen=True, slots=True)
class Call:
    """An operation of `everloop.spec.operations.OPERATIONS` on other nodes; ``options`` are sorted by name."""

    operation: str
    arguments: "tuple[Node, ...]"
    options: tuple[tuple[str, Any], ...] = ()

    def option(self, name: str) -> Any:
        return dict(self.options)[name]


Node = Input | Constant | Call


def walk(node: Node) -> Iterator[Node]:
    """Every node once per place where it stands, without recursion."""
    waiting = [node]
    while waiting:
        each = waiting.pop()
        yield each
        if isinstance(each, Call):
            waiting.extend(each.arguments)


def inputs_of(node: Node) -> frozenset[str]:
    """The names of the raw columns that a tree reads."""
    return frozenset(each.name for each in walk(node) if isinstance(each, Input))


def extent_of(node: Node) -> tuple[int, int]:
    """How many nodes the tree has when it is written out, and how many lie on its longest path.

    A part that is used twice counts twice, though it is looked at once: a value that Python doubled forty times would
    otherwise never be counted to the end.
    """
    known: dict[int, tuple[int, int]] = {}
    waiting = [node]
    while waiting:
        each = waiting[-1]
        arguments = each.arguments if isinstance(each, Call) else ()
        unknown = [argument for argument in arguments if id(argument) not in known]
        if unknown:
            waiting.extend(unknown)
            continue
        waiting.pop()
        parts = [known[id(argument)] for argument in arguments]
        known[id(each)] = (1 + sum(size for size, _ in parts), 1 + max((depth for _, depth in parts), default=0))
    return known[id(node)]


def is_small(node: Node) -> bool:
    size, depth = extent_of(node)
    return size <= LARGEST and depth <= DEEPEST


def to_json(node: Node) -> dict[str, Any]:
    """Plain builtins; equal trees have equal JSON.

    >>> to_json(Call("add", (Input("a"), Constant(1, "integer"))))
    {'call': 'add', 'arguments': [{'input': 'a'}, {'constant': 1, 'type': 'integer'}]}
    """
    match node:
        case Input(name):
            return {"input": name}
        case Constant(value, type):
            return {"constant": value, "type": type}
        case Call(operation, arguments, options):
            form: dict[str, Any] = {"call": operation, "arguments": [to_json(each) for each in arguments]}
            if options:
                form["options"] = {name: _thaw(value) for name, value in options}
            return form


def from_json(form: Mapping[str, Any]) -> Node:
    """The reverse of `to_json`; raises SpecError on anything else."""
    try:
        if "input" in form:
            return Input(form["input"])
        if "constant" in form:
            value, kind = form["constant"], form["type"]
            return Constant(float(value) if kind == "number" else value, kind)
        arguments = tuple(from_json(each) for each in form["arguments"])
        options = tuple(sorted((name, _freeze(value)) for name, value in form.get("options", {}).items()))
        return Call(form["call"], arguments, options)
    except (KeyError, TypeError, ValueError, AttributeError) as problem:
        raise SpecError(f"{form!r} is not a feature tree; it may come from another version of everloop") from problem


def _freeze(value: Any) -> Any:
    return tuple(_freeze(each) for each in value) if isinstance(value, list | tuple) else value


def _thaw(value: Any) -> Any:
    return [_thaw(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True, kw_only=True)
class FeatureTree:
    """Named features in the order the user gave them: what a row becomes before the estimator sees it."""

    columns: tuple[tuple[str, Node], ...]

    @cached_property
    def digest(self) -> str:
        """Names the meaning: equal trees in the same order have equal digests in every process."""
        return digest_of(encode(self.to_json()))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The raw columns that any feature reads, sorted."""
        return tuple(sorted(frozenset().union(*(inputs_of(node) for _, node in self.columns))))

    def to_json(self) -> list[list[Any]]:
        return [[name, to_json(node)] for name, node in self.columns]

    @classmethod
    def from_json(cls, form: list[list[Any]]) -> "FeatureTree":
        return cls(columns=tuple((name, from_json(node)) for name, node in form))

    def types(self, schema: Mapping[str, ColumnType]) -> dict[str, FeatureType]:
        """The type of each feature; raises SpecError that names the feature."""
        from everloop.spec.operations import infer

        types: dict[str, FeatureType] = {}
        for name, node in self.columns:
            try:
                types[name] = infer(node, schema)
            except SpecError as problem:
                raise SpecError(f"feature {name!r}: {problem}") from None
        return types


_INFIX = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "floor_divide": "//", "modulo": "%", "power": "**",
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
    "and": "&", "or": "|", "xor": "^",
}  # fmt: skip
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def describe(node: Node) -> str:
    """The expression much as the user wrote it, for messages and for people.

    >>> describe(Call("divide", (Input("miles"), Call("at_least", (Input("minutes"), Constant(1, "integer"))))))
    'row.miles / row.minutes.clip(low=1)'
    """
    match node:
        case Input(name):
            return f"row.{name}" if name.isidentifier() else f"row[{name!r}]"
        case Constant(value, "instant"):
            return (_EPOCH + timedelta(microseconds=value)).isoformat()
        case Constant(value, _):
            return repr(value)
        case Call("choose", arguments, _):
            pairs = zip(arguments[0::2], arguments[1::2], strict=False)
            text = ".".join(f"when({describe(test)}).then({describe(value)})" for test, value in pairs)
            return text + (f".otherwise({describe(arguments[-1])})" if len(arguments) % 2 else "")
        case Call(operation, (left, right), ()) if operation in _INFIX:
            return f"{_inner(left)} {_INFIX[operation]} {_inner(right)}"
        case Call("negate", (value,), _):
            return f"-{_inner(value)}"
        case Call("not", (value,), _):
            return f"~{_inner(value)}"
        case Call("at_least", (value, bound), _):
            return f"{_inner(value)}.clip(low={describe(bound)})"
        case Call("at_most", (value, bound), _):
            return f"{_inner(value)}.clip(high={describe(bound)})"
        case Call(operation, (subject, *others), options):
            shown = [describe(each) for each in others] + [f"{k}={v!r}" for k, v in options if v is not None]
            operation = {"terms": "text"}.get(operation, operation)
            name = operation.replace("str_", "str.", 1) if operation.startswith("str_") else operation
            name = name.replace("dt_", "dt.", 1) if name.startswith("dt_") else name
            return f"{_inner(subject)}.{name}({', '.join(shown)})"
        case _:
            return str(node)


def _inner(node: Node) -> str:
    text = describe(node)
    return f"({text})" if isinstance(node, Call) and node.operation in {*_INFIX, "negate", "not"} else text
