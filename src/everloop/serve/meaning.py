"""What a query is about, and whether it goes before others: from its row, before anything runs. Knows no queue and no log.

An expression of the declaration becomes a Python function of one row: it is asked for each request before that waits,
where a graph would cost ten times as much. It says what the declaration's own rendering says (tests hold the two
against each other): a missing argument makes the result missing, a missing test counts as false. The cluster of a
text or an embedding is its nearest centroid in the rows that a package learned from (`everloop.measure.space`).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from everloop.errors import EverloopError, ServeError
from everloop.measure import space
from everloop.records import MISSING_INTEGER, MISSING_TEXT
from everloop.serve.live import Live
from everloop.serve.releases import MeaningFile
from everloop.serve.rows import Column, Row
from everloop.spec.tree import Call, Constant, Input, Node, from_json

Value = Callable[[Row], Any]
Meaning = Callable[[Sequence[Row]], list[str]]
"""The class of each row; empty where it has none."""
MISSING = ""


class _Profile(msgspec.Struct):
    """What is wanted of a package's profile.json."""

    spaces: dict[str, space.Space] = {}


def first_of(form: Mapping[str, Any], columns: Sequence[Column]) -> Callable[[Sequence[Row]], bool]:
    """Whether a request goes before others: one of its rows does. Raises ServeError for what cannot be asked of a row."""
    test = compiled(form, columns)

    def first(rows: Sequence[Row]) -> bool:
        return any(test(row) is True for row in rows)

    return first


def meaning_of(file: MeaningFile, columns: Sequence[Column], profile: bytes | None) -> Meaning:
    """The classes of rows. ``profile``: of the package whose clusters are meant. Raises ServeError."""
    if file.node is not None:
        value = compiled(file.node, columns)

        def by_value(rows: Sequence[Row]) -> list[str]:
            return [_named(value(row)) for row in rows]

        return by_value
    spaces = {} if profile is None else msgspec.json.decode(profile, type=_Profile).spaces
    name = file.column or ""
    learned = spaces.get(name)
    places = {column.name: place for place, column in enumerate(columns)}
    if learned is None or name not in places:
        raise ServeError(
            f"The package has learned no clusters of {name!r}: it is neither free text nor an array there."
        )
    place, tensor = places[name], columns[places[name]].tensor

    def by_cluster(rows: Sequence[Row]) -> list[str]:
        values: Any
        if tensor is None:
            values = np.empty(len(rows), dtype=object)
            values[:] = [row[place] for row in rows]
        else:
            from everloop.serve.tensors import joined

            values = space.summary(joined([row[place] for row in rows], tensor))
            if values.shape[1] != learned.width:
                return [MISSING] * len(rows)
        here, nearest, _ = space.located(learned, values)
        found = [str(each + 1) for each in nearest.tolist()]
        if len(found) == len(rows):
            return found
        known = iter(found)
        return [next(known) if present else MISSING for present in here.tolist()]

    return by_cluster


def ask(live: Live, profile: Callable[[str], bytes]) -> list[str]:
    """Give ``live`` what its release says is to be asked of a request; returns why something cannot be.

    ``profile``: of a package, profile.json.
    """
    release, columns, problems = live.release, live.reader.columns, list[str]()
    if release.first is not None:
        try:
            live.first = first_of(release.first, columns)
        except (EverloopError, ValueError) as error:
            problems.append(f"nobody goes first: {error}")
    if release.meaning is not None:
        file = release.meaning
        try:
            known = None if file.package is None else profile(file.package)
            live.meaning = meaning_of(file, columns, known)
        except (EverloopError, ValueError, OSError) as error:
            problems.append(f"meanings are not known: {error}")
        else:
            live.first_meanings = frozenset(file.first)
    return problems


def _named(value: Any) -> str:
    if value is None:
        return MISSING
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def compiled(form: Mapping[str, Any], columns: Sequence[Column]) -> Value:
    """An expression (`spec.tree.to_json`) as a function of a row: None where its value is missing."""
    return _compiled(from_json(form), {column.name: (place, column.type) for place, column in enumerate(columns)})


def _compiled(node: Node, places: Mapping[str, tuple[int, Any]]) -> Value:
    match node:
        case Input(name):
            if name not in places:
                raise ServeError(
                    f"The column {name!r} is none that requests bring to this version; a version that is made from now on reads it."
                )
            return _column(*places[name])
        case Constant(value, _):
            return lambda row: value
        case Call(operation, arguments, _):
            made = MAKERS.get(operation)
            if made is None:
                raise ServeError(f"{operation} cannot be asked of a request before it waits.")
            return made(node, [_compiled(each, places) for each in arguments])


def _column(place: int, kind: Any) -> Value:
    if kind == "number":

        def number(row: Row) -> Any:
            value = row[place]
            return None if value is None or value != value else value

        return number
    if kind == "boolean":

        def boolean(row: Row) -> Any:
            value = row[place]
            return None if value is None or value == MISSING_INTEGER else bool(value)

        return boolean

    def other(row: Row) -> Any:
        value = row[place]
        return None if value is None or value in (MISSING_INTEGER, MISSING_TEXT) else value

    return other


def _strict(function: Callable[..., Any]) -> Callable[[Call, list[Value]], Value]:
    """Missing where an argument is, or where the result is no finite number."""

    def maker(node: Call, given: list[Value]) -> Value:
        if len(given) == 1:
            (one,) = given

            def unary(row: Row) -> Any:
                value = one(row)
                return None if value is None else function(value)

            return unary
        left, right = given

        def binary(row: Row) -> Any:
            a, b = left(row), right(row)
            if a is None or b is None:
                return None
            try:
                result = function(a, b)
            except (ArithmeticError, ValueError, TypeError):
                return None
            return None if type(result) is float and not math.isfinite(result) else result

        return binary

    return maker


def _and(node: Call, given: list[Value]) -> Value:
    left, right = given

    def both(row: Row) -> Any:
        a, b = left(row), right(row)
        return False if a is False or b is False else None if a is None or b is None else True

    return both


def _or(node: Call, given: list[Value]) -> Value:
    left, right = given

    def either(row: Row) -> Any:
        a, b = left(row), right(row)
        return True if a is True or b is True else None if a is None or b is None else False

    return either


def _choose(node: Call, given: list[Value]) -> Value:
    tests, values = given[0 : len(given) // 2 * 2 : 2], given[1::2]
    otherwise = given[-1] if len(given) % 2 else None

    def chosen(row: Row) -> Any:
        for test, value in zip(tests, values, strict=True):
            if test(row) is True:
                return value(row)
        return None if otherwise is None else otherwise(row)

    return chosen


def _fill(node: Call, given: list[Value]) -> Value:
    value, instead = given

    def filled(row: Row) -> Any:
        found = value(row)
        return instead(row) if found is None else found

    return filled


def _is_missing(node: Call, given: list[Value]) -> Value:
    (value,) = given
    return lambda row: value(row) is None


def _is_in(node: Call, given: list[Value]) -> Value:
    known = frozenset(node.option("values"))
    (value,) = given

    def inside(row: Row) -> Any:
        found = value(row)
        return None if found is None else found in known

    return inside


def _text(function: Callable[[str, str], bool]) -> Callable[[Call, list[Value]], Value]:
    def maker(node: Call, given: list[Value]) -> Value:
        wanted = node.option("text")
        (value,) = given

        def said(row: Row) -> Any:
            found = value(row)
            return None if found is None else function(found, wanted)

        return said

    return maker


def _as_text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


MAKERS: dict[str, Callable[[Call, list[Value]], Value]] = {
    "add": _strict(operator.add),
    "multiply": _strict(operator.mul),
    "divide": _strict(operator.truediv),
    "negate": _strict(operator.neg),
    "absolute": _strict(abs),
    "at_least": _strict(max),
    "at_most": _strict(min),
    "equal": _strict(operator.eq),
    "not_equal": _strict(operator.ne),
    "less": _strict(operator.lt),
    "less_equal": _strict(operator.le),
    "greater": _strict(operator.gt),
    "greater_equal": _strict(operator.ge),
    "and": _and,
    "or": _or,
    "xor": _strict(operator.xor),
    "not": _strict(operator.not_),
    "choose": _choose,
    "is_missing": _is_missing,
    "fill_missing": _fill,
    "to_text": _strict(_as_text),
    "is_in": _is_in,
    "str_contains": _text(operator.contains),
    "str_starts_with": _text(str.startswith),
    "str_ends_with": _text(str.endswith),
    "str_length": _strict(len),
}
"""What can be asked of a row before it waits: `everloop.spec.serve.ASKED` says the same to whoever declares."""
