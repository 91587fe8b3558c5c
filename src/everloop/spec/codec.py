"""A loop as canonical JSON and back. Imports nobody's module: estimators and functions stay names.

Values are canonical when they are made (``conform``), so equal declarations have equal bytes and one digest.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

import msgspec

from everloop.errors import SpecError
from everloop.records import digest_of
from everloop.spec import (
    alert,
    augment,
    checks,
    decision,
    detector,
    gate,
    guard,
    label,
    metric,
    notify,
    retrain,
    rollout,
    serve,
    source,
    torch,
    train,
    tree,
    window,
)
from everloop.spec.conform import fitted, hints_of, shown
from everloop.spec.function import Function
from everloop.spec.loop import Loop

FORMAT = 1
_MICROSECOND = timedelta(microseconds=1)
_MODULES = (
    augment,
    checks,
    decision,
    detector,
    gate,
    guard,
    label,
    metric,
    retrain,
    rollout,
    serve,
    source,
    torch,
    train,
    window,
)
KINDS: dict[str, type] = {
    name: kind
    for module in _MODULES
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and not name.startswith("_")
} | {"Loop": Loop, "Function": Function}
# An alert may be called as a guard is: these two families are written with their name before.
KINDS |= {
    f"{family}.{name}": kind
    for family, module in (("alert", alert), ("notify", notify))
    for name, kind in vars(module).items()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind)
}
PLAIN = ("timedelta", "datetime", "features", "node", "float", "tuple", "map")
"""Kinds of values that are no class of a declaration."""
_NAMES = {kind: name for name, kind in KINDS.items()}
NODES = (tree.Input, tree.Constant, tree.Call)


def to_bytes(loop: Loop) -> bytes:
    """Canonical: keys sorted, no spaces, durations in microseconds, instants in UTC."""
    try:
        return msgspec.json.encode({"format": FORMAT, "loop": _encoded(loop)}, order="sorted")
    except UnicodeEncodeError as error:
        raise SpecError(
            f"{shown(error.object)} in the loop {loop.name} is no sound text ({error.reason}); correct it."
        ) from None


def digest(loop: Loop) -> str:
    """The identity of what the loop means: SHA-256 of its canonical bytes, 64 hexadecimal digits."""
    return digest_of(to_bytes(loop))


def from_bytes(data: bytes, *, bind: Callable[[Function], Callable[..., Any]] | None = None) -> Loop:
    """The loop of `to_bytes`. ``bind`` finds the callable of a scoring function; without it none can be called.

    Raises SpecError for bytes that are no loop or of a newer everloop.
    """
    try:
        form = msgspec.json.decode(data)
        if form["format"] != FORMAT:
            raise SpecError(
                f"The loop is written in form {form['format']!r}, and this everloop reads {FORMAT}; "
                "use the everloop that wrote it, or declare the loop again."
            )
        loop = _decoded(form["loop"], bind)
    except (
        msgspec.DecodeError,
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:
        raise SpecError(
            f"These bytes are no loop ({type(error).__name__}: {error}); write them with codec.to_bytes."
        ) from None
    if not isinstance(loop, Loop):
        raise SpecError(f"These bytes hold {shown(loop)} and no loop; write them with codec.to_bytes.")
    return loop


class NoValue(SpecError):
    """JSON that no value of a declaration is written as."""


def to_json(value: Any) -> Any:
    """Any value that a declaration may hold, as canonical JSON. Raises SpecError for another one."""
    return _encoded(value)


def from_json(form: Any) -> Any:
    """The value of `to_json`; functions stay names. Raises NoValue for what is none, SpecError for one that may not be."""
    try:
        return _decoded(form, None)
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RecursionError) as error:
        raise NoValue(
            f"This is no value of a declaration ({type(error).__name__}: {error}); write it with codec.to_json."
        ) from None


def knows(kind: Any) -> bool:
    """Whether canonical JSON has values of a kind of this name."""
    return kind in PLAIN or (isinstance(kind, str) and kind in KINDS)


def _encoded(value: Any) -> Any:
    """Fields have declared types, so lists and tuples need no telling apart."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, timedelta):
        return {"kind": "timedelta", "microseconds": value // _MICROSECOND}
    if isinstance(value, datetime):
        return {"kind": "datetime", "instant": value.isoformat()}
    if isinstance(value, tree.FeatureTree):
        return {"kind": "features", "columns": value.to_json()}
    if isinstance(value, NODES):
        return {"kind": "node", "tree": tree.to_json(value)}
    if isinstance(value, train.Estimator):
        return {"kind": "Estimator", "path": value.path, "parameters": _encoded_exactly(value.parameters)}
    if dataclasses.is_dataclass(value) and type(value) in _NAMES:
        fields = [
            each
            for each in dataclasses.fields(value)
            if each.metadata.get("encoded", True)
            and not (each.metadata.get("omitted") == "default" and getattr(value, each.name) == each.default)
        ]
        return {"kind": _NAMES[type(value)], **{each.name: _encoded(getattr(value, each.name)) for each in fields}}
    if isinstance(value, Mapping):
        return _pairs(value, _encoded)
    if isinstance(value, list | tuple):
        return [_encoded(each) for each in value]
    raise SpecError(f"{shown(value)} is a {type(value).__name__}, which a declaration cannot hold; leave it out.")


def _encoded_exactly(value: Any) -> Any:
    """An estimator's parameters have no declared types: what they are is kept."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"kind": "float", "value": repr(value)}
    if isinstance(value, tuple):
        return {"kind": "tuple", "items": [_encoded_exactly(each) for each in value]}
    if isinstance(value, list):
        return [_encoded_exactly(each) for each in value]
    if isinstance(value, Mapping):
        return _pairs(value, _encoded_exactly)
    return _encoded(value)


def _pairs(value: Mapping[Any, Any], encoded: Callable[[Any], Any]) -> dict[str, Any]:
    pairs = sorted(value.items(), key=lambda pair: (type(pair[0]).__name__, pair[0]))
    return {"kind": "map", "pairs": [[key, encoded(each)] for key, each in pairs]}


def _decoded(form: Any, bind: Callable[[Function], Callable[..., Any]] | None) -> Any:
    if isinstance(form, list):
        return [_decoded(each, bind) for each in form]
    if not isinstance(form, dict):
        return form
    kind = form["kind"]
    match kind:
        case "timedelta":
            return timedelta(microseconds=form["microseconds"])
        case "datetime":
            return datetime.fromisoformat(form["instant"])
        case "features":
            return tree.FeatureTree.from_json(form["columns"])
        case "node":
            return tree.from_json(form["tree"])
        case "float":
            number = float(form["value"])
            return math.nan if math.isnan(number) else number
        case "tuple":
            return tuple(_decoded(each, bind) for each in form["items"])
        case "map":
            return {key: _decoded(value, bind) for key, value in form["pairs"]}
    made = _made(KINDS[kind], {name: _decoded(value, bind) for name, value in form.items() if name != "kind"})
    return made.bound(bind(made)) if isinstance(made, Function) and bind is not None else made


def _made(kind: type, fields: dict[str, Any]) -> Any:
    if "__init__" not in vars(kind) or kind.__dataclass_params__.init:  # type: ignore[attr-defined]
        return kind(**fields)
    # Kinds with an initialiser for people, such as NotNull("a", "b"), take their fields as they were.
    value: Any = object.__new__(kind)
    for name, hint in hints_of(kind).items():
        if name in fields:
            object.__setattr__(value, name, fitted(fields[name], hint, f"{kind.__name__}.{name}"))
    return value


def value(form: Any, bind: Callable[[Function], Callable[..., Any]] | None = None) -> Any:
    """The value that `to_json` wrote; ``bind`` finds the callables of functions."""
    return _decoded(form, bind)
