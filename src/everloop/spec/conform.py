"""Holds a declaration's values against their annotated types and makes them canonical. Knows no fields by name.

A list becomes a tuple and a whole number in a float field becomes a float, so that two declarations which mean the
same are equal and have one digest.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Union, get_args, get_origin

from everloop.errors import SpecError


_HINTS: dict[type[Any], dict[str, Any]] = {}


def hints_of(kind: type[Any]) -> dict[str, Any]:
    """The annotated types of a class, looked up once."""
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def conform(value: object) -> None:
    """Make every field of a frozen dataclass canonical, in its ``__post_init__``. Raises SpecError."""
    kind: type[Any] = type(value)
    name = kind.__name__
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        hint = hints_of(kind)[field.name]
        given = getattr(value, field.name)
        object.__setattr__(value, field.name, fitted(given, hint, f"{name}.{field.name}"))


def fitted(value: Any, hint: Any, where: str) -> Any:
    """``value`` in the canonical form of ``hint``."""
    found, made = _fit(value, hint)
    if not found:
        raise SpecError(f"{where} is {shown(value)}; write {words(hint)}.")
    return made


_NO: tuple[bool, Any] = (False, None)


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    origin = get_origin(hint)
    if hint is Any:
        return True, value
    if hint is None or hint is type(None):
        return value is None, None
    if origin is Literal:
        return value in get_args(hint), value
    if origin in (Union, types.UnionType):
        for each in get_args(hint):
            found, made = _fit(value, each)
            if found:
                return True, made
        return _NO
    if origin is tuple:
        return _fit_tuple(value, get_args(hint))
    if origin in (Mapping, dict):
        return isinstance(value, Mapping), dict(value) if isinstance(value, Mapping) else None
    if origin is Callable:
        return callable(value), value
    if hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return (number and math.isfinite(value), float(value) if number else None)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if hint is datetime:
        aware = isinstance(value, datetime) and value.tzinfo is not None
        return aware, value.astimezone(UTC) if aware else None
    return isinstance(value, hint), value


def _fit_tuple(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, list | tuple):
        return _NO
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        parts = [_fit(each, arguments[0]) for each in value]
    elif len(arguments) == len(value):
        parts = [_fit(each, kind) for each, kind in zip(value, arguments, strict=True)]
    else:
        return _NO
    return all(found for found, _ in parts), tuple(made for _, made in parts)


_WORDS: dict[Any, str] = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    timedelta: "a timedelta, for example timedelta(days=1)",
    datetime: "a datetime with a time zone",
    type(None): "None",
    Any: "a value",
}


def words(hint: Any) -> str:
    """The type as a person would say it."""
    origin = get_origin(hint)
    if hint in _WORDS:
        return _WORDS[hint]
    if origin is Literal:
        return " or ".join(repr(each) for each in get_args(hint))
    if origin in (Union, types.UnionType):
        return " or ".join(words(each) for each in get_args(hint))
    if origin is tuple:
        return f"a tuple of {words(get_args(hint)[0])}"
    if origin in (Mapping, dict):
        return "a dict"
    if origin is Callable:
        return "a function"
    return str(getattr(hint, "__name__", hint))


def shown(value: Any) -> str:
    """The value as it would be written, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


def positive(value: timedelta | None, where: str, *, example: str = "timedelta(days=1)") -> None:
    if value is not None and value <= timedelta(0):
        raise SpecError(f"{where} is {value}; write more than zero, for example {example}.")


def within(value: float, low: float, high: float, where: str) -> None:
    """Strictly between."""
    if not low < value < high:
        raise SpecError(f"{where} is {value:g}; write a number between {low:g} and {high:g}, both excluded.")
