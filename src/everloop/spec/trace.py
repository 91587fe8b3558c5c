"""Calls a features function once and checks the tree it wrote. Knows nothing of types or data."""

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from everloop.errors import SpecError
from everloop.records import MISSING_TEXT
from everloop.spec.accessors import Dates, Text
from everloop.spec.expression import Branches, Column, Columns
from everloop.spec.tree import DEEPEST, LARGEST, Node, extent_of, inputs_of


def past(*arguments: Any, **named: Any) -> NoReturn:
    """History of a key as a feature; not built yet."""
    raise SpecError(
        "el.past cannot be served yet: features see one row; compute the history in your source, with what was known "
        "before the event, and declare it as a column"
    )


def trace(function: Callable[[Columns], Mapping[str, Column]]) -> tuple[tuple[str, Node], ...]:
    """The tree that a features function writes: it is called once, with stand-ins.

    Raises SpecError when it fails, returns something else than a dict of columns, or uses what cannot be served.
    """
    name = getattr(function, "__name__", repr(function))
    if not callable(function):
        raise SpecError(f"features is {function!r}; give a function of the row that returns a dict of columns")
    try:
        result = function(Columns())
    except SpecError as problem:
        raise SpecError(f"{name}: {problem}") from None
    except Exception as problem:
        raise SpecError(
            f"{name} failed while it was declared: {type(problem).__name__}: {problem}; it is called once, with "
            "stand-ins for the columns, and may only combine them"
        ) from problem
    if not isinstance(result, Mapping):
        raise SpecError(
            f'{name} returned {type(result).__name__}; return a dict, for example {{"hour": row.time.dt.hour()}}'
        )
    if not result:
        raise SpecError(f"{name} returned no features; return at least one")
    return tuple((_checked_name(name, feature), _checked(name, feature, value)) for feature, value in result.items())


def _checked_name(function: str, feature: object) -> str:
    if not isinstance(feature, str) or not feature or MISSING_TEXT in feature:
        raise SpecError(f"{function} names a feature {feature!r}; a name is text that is not empty")
    return feature


def _checked(function: str, feature: str, value: object) -> Node:
    if isinstance(value, Branches | Text | Dates):
        raise SpecError(f"{function}: feature {feature!r} is not finished; call a method such as .then(…) or .hour()")
    if not isinstance(value, Column):
        raise SpecError(
            f"{function}: feature {feature!r} is {value!r:.60}, which is the same for every row; give a column"
        )
    node = value._node
    size, depth = extent_of(node)
    if size > LARGEST or depth > DEEPEST:
        raise SpecError(
            f"{function}: feature {feature!r} has {size} operations, {depth} inside one another (limits {LARGEST} and "
            f"{DEEPEST}); split it into features"
        )
    if not inputs_of(node):
        raise SpecError(
            f"{function}: feature {feature!r} reads no column, so it is the same for every row; leave it out"
        )
    return node
