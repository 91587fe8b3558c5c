"""Turns a declaration's call with a missing, unknown or unnamed field into an error that teaches. Knows no field by name.

Python would say ``__init__() got an unexpected keyword argument``; a user is told what to write.
"""

from __future__ import annotations

import functools
import inspect
from difflib import get_close_matches
from typing import Any, TypeVar

from everloop.errors import SpecError

Kind = TypeVar("Kind")

LATER = {
    "joins": "joining other tables is not built yet; join them in your source, as they were known at the event",
    "experiment": "an experiment is no part of a declaration; start one between versions with `everloop experiment start`",
}
"""Fields of the design that are to come."""


def taught(kind: type[Kind]) -> type[Kind]:
    """Decorate a dataclass: a call that does not fit its fields raises SpecError instead of TypeError."""
    plain: Any = kind.__init__
    shape = inspect.signature(plain)

    @functools.wraps(plain)
    def initialise(self: Any, *given: Any, **named: Any) -> None:
        try:
            shape.bind(self, *given, **named)
        except TypeError:
            raise SpecError(_mistake(kind.__name__, shape, given, named)) from None
        plain(self, *given, **named)

    kind.__init__ = initialise  # type: ignore[method-assign]
    return kind


def _mistake(name: str, shape: inspect.Signature, given: tuple[Any, ...], named: dict[str, Any]) -> str:
    fields = [each for each in shape.parameters.values() if each.name != "self"]
    known = [each.name for each in fields if each.kind is not each.VAR_POSITIONAL]
    for wrong in named:
        if wrong in known:
            continue
        if wrong in LATER:
            return f"{name} is given {wrong}=; {LATER[wrong]}."
        close = get_close_matches(wrong, known, n=1)
        remedy = f"did you mean {close[0]}=?" if close else f"it has {', '.join(known) or 'none'}."
        return f"{name} has no field {wrong}; {remedy}"
    places = [each.name for each in fields if each.kind is each.POSITIONAL_OR_KEYWORD]
    if len(given) > len(places) and not any(each.kind is each.VAR_POSITIONAL for each in fields):
        extra = given[len(places)]
        unnamed = [each for each in known if each not in places and each not in named]
        remedy = f"write its name: {' or '.join(f'{each}=' for each in unnamed[:4])}." if unnamed else "leave it out."
        return f"{name} is given {extra!r:.60} without a name; {remedy}"
    placed = places[: len(given)]
    twice = [each for each in placed if each in named]
    if twice:
        return f"{name} is given {twice[0]} twice: {given[places.index(twice[0])]!r:.60} and {named[twice[0]]!r:.60}; leave one out."
    missing = [
        each.name
        for each in fields
        if each.default is each.empty
        and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
        and each.name not in named
        and each.name not in placed
    ]
    return f"{name} has no {' and no '.join(missing)}; write {name}({', '.join(f'{each}=…' for each in missing)})."
