"""Parameters as plain values that can be written down. Knows no estimator and no network."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from everloop.errors import SpecError
from everloop.spec.conform import shown


def plain(value: Any, where: str, live: Callable[[Any, str], Any] | None = None, *, remedy: str = "") -> Any:
    """None, booleans, numbers, texts, and lists, tuples and dicts of them; ``live`` writes down objects with parameters.

    Raises SpecError for everything else; ``remedy`` says what to do then.
    """

    def inner(each: Any) -> Any:
        return plain(each, where, live, remedy=remedy)

    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return math.nan  # the one object: a NaN equals itself only as the same object
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise SpecError(f"{where} is {value}, which does not fit into 64 bits; write a smaller number.")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if getattr(value, "__module__", "") == "numpy" and inspect.isclass(value):
        return value.__name__  # a type of numbers; its name means the same
    if live is not None and hasattr(value, "get_params") and not inspect.isclass(value):
        return live(value, where)
    if isinstance(value, list):
        return [inner(each) for each in value]
    if type(value) is tuple:
        return tuple(inner(each) for each in value)
    if isinstance(value, Mapping) and all(isinstance(key, bool | int | float | str) for key in value):
        return {key: inner(each) for key, each in value.items()}
    if isinstance(value, slice):
        raise SpecError(f"{where} is {value!r}; write the list of positions.")
    raise SpecError(
        f"{where} is {shown(value)}, a {type(value).__name__}, which cannot be written down; "
        + (remedy or "use numbers, texts, lists and dicts.")
    )
