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
    if found:
        return made
    each = next((one for one in _options(hint) if get_origin(one) is tuple and get_args(one)[-1] is Ellipsis), None)
    if each is not None and isinstance(value, list | tuple):  # point at the one that is wrong
        for position, part in enumerate(value):
            if not _fit(part, get_args(each)[0])[0]:
                raise SpecError(f"{where}[{position}] is {shown(part)}; write {words(get_args(each)[0])}.")
    if isinstance(value, datetime) and value.tzinfo is None and datetime in _options(hint):
        raise SpecError(f"{where} is {value.isoformat()} without a zone; write it with one, for example tzinfo=UTC.")
    raise SpecError(f"{where} is {shown(value)}; write {words(hint)}.")


_NO: tuple[bool, Any] = (False, None)


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _fit(value: Any, hint: Any) -> tuple[bool, Any]:
    origin = get_origin(hint)
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if hint is Any:
        return True, value
    if hint is None or hint is type(None):
        return value is None, None
    if origin is Literal:
        return any(value == each and type(value) is type(each) for each in get_args(hint)), value
    if origin in (Union, types.UnionType):
        return next((fit for fit in (_fit(value, each) for each in get_args(hint)) if fit[0]), _NO)
    if origin is tuple:
        return _fit_tuple(value, get_args(hint))
    if origin in (Mapping, dict):
        return _fit_mapping(value, get_args(hint))
    if origin is Callable:
        return callable(value), value
    if hint is float:
        return _fit_number(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63, value
    if hint is datetime:
        aware = isinstance(value, datetime) and value.tzinfo is not None
        return aware, value.astimezone(UTC) if aware else None
    return isinstance(value, hint), value


def _fit_number(value: Any) -> tuple[bool, Any]:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _NO
    try:
        number = float(value) + 0.0  # -0.0 is 0.0: equal values have one digest
    except OverflowError:
        return _NO
    return math.isfinite(number), number


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


def _fit_mapping(value: Any, arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    if not isinstance(value, Mapping):
        return _NO
    keys = [_fit(each, arguments[0]) for each in value]
    values = [_fit(each, arguments[1]) for each in value.values()]
    sound = all(found for found, _ in (*keys, *values))
    return sound, {key: each for (_, key), (_, each) in zip(keys, values, strict=True)} if sound else None


def exact(value: Any) -> Any:
    """A float that is a whole number as that int, where int and float mean the same: 1 and 1.0 have one digest.

    >>> exact(1.0), exact(0.5), exact("a")
    (1, 0.5, 'a')
    """
    whole = isinstance(value, float) and value.is_integer() and abs(value) <= 2**53
    return int(value) if whole else value


_WORDS: dict[Any, tuple[str, str]] = {
    str: ("a text", "texts"),
    int: ("a whole number", "whole numbers"),
    float: ("a finite number", "numbers"),
    bool: ("True or False", "True or False"),
    timedelta: ("a timedelta, for example timedelta(days=1)", "timedeltas"),
    datetime: ("a datetime with a time zone", "datetimes with a time zone"),
    type(None): ("None", "None"),
    Any: ("a value", "values"),
}
_NAMES = {"FeatureTree": "a function of the row", "Function": "a function", "Estimator": "an estimator"}


def words(hint: Any, *, many: bool = False) -> str:
    """The type as a person would say it.

    >>> words(str | None), words(tuple[float, ...])
    ('a text or None', 'a list of numbers')
    """
    origin = get_origin(hint)
    if hint in _WORDS:
        return _WORDS[hint][many]
    if origin is Literal:
        return " or ".join(repr(each) for each in get_args(hint))
    if origin in (Union, types.UnionType):
        parts = list(dict.fromkeys(words(each, many=many) for each in get_args(hint)))
        return " or ".join(parts)
    if origin is tuple:
        return f"a list of {words(get_args(hint)[0], many=True)}"
    if origin in (Mapping, dict):
        return "a dict"
    if origin is Callable:
        return "a function"
    name = str(getattr(hint, "__name__", hint))
    return _NAMES.get(name, f"{name}(…)")


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
