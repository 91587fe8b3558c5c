"""Policies as they are read from a file: Python, or the JSON of a backtest. Knows no rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from everloop.errors import SpecError
from everloop.loop.backtest.choices import once
from everloop.spec import codec
from everloop.spec.conform import shown
from everloop.spec.policy import Policy

REMEDY = "give what everloop backtest --json printed, or write policies = [el.Policy(…), …] into a .py file"


def read(path: Path) -> tuple[Policy, ...]:
    """Policies of a Python file (every `el.Policy` at its top level, alone or in a list) or of a JSON file.

    JSON: a list of what `Policy.to_json` gives, or what ``everloop backtest --json`` printed. Raises SpecError.
    """
    if not path.is_file():
        raise SpecError(f"There is no file {path}; write policies = [el.Policy(el.Every(td(days=7))), …] into one.")
    if path.suffix == ".json":
        found = _of_json(path)
    elif path.suffix == ".py":
        found = [each for value in vars(_module(path)).values() for each in _policies_in(value)]
    else:
        raise SpecError(f"{path.name} is neither Python nor JSON; name a file that ends in .py or .json.")
    if not found:
        raise SpecError(f"{path.name} holds no policy; write policies = [el.Policy(el.Every(td(days=7))), …] into it.")
    return once(found)


def _of_json(path: Path) -> list[Policy]:
    try:
        form = json.loads(path.read_text("utf-8"))
    except (ValueError, OSError) as error:
        raise SpecError(f"{path.name} is not JSON: {error}; {REMEDY}.") from None
    if isinstance(form, dict):
        held = form.get("runs", form.get("policies"))
        if held is None:
            raise SpecError(f"{path.name} is an object without runs or policies; {REMEDY}.")
        form = held
    if not isinstance(form, list):
        raise SpecError(f"{path.name} holds {shown(form)} and no list of policies; {REMEDY}.")
    return [
        _policy(each.get("policy", each) if isinstance(each, dict) else each, f"{path.name}, policy {number}")
        for number, each in enumerate(form, 1)
    ]


def _policy(form: Any, where: str) -> Policy:
    """One policy of a JSON file. Raises SpecError that says which one, which field, and what to write."""
    if not isinstance(form, dict):
        raise SpecError(f"{where} is {shown(form)} and no policy; {REMEDY}.")
    values: dict[str, Any] = {}
    for name, value in form.items():
        try:
            values[name] = codec.from_json(value)
        except codec.NoValue:
            raise SpecError(f"{where}: {name} is {_wrong(value)}; {REMEDY}.") from None
        except SpecError as error:
            raise SpecError(f"{where}: {error}") from None
    try:
        return Policy(**values)
    except SpecError as error:
        raise SpecError(f"{where}: {error}") from None
    except TypeError:
        raise SpecError(f"{where} has fields that no policy has; {REMEDY}.") from None


def _wrong(value: Any) -> str:
    """What is wrong with something that is no value: the innermost part of it that is none."""
    if not isinstance(value, dict):
        return f"{shown(value)}, which is no value"
    kind = value.get("kind")
    if kind is None:
        return "an object that does not say its kind"
    if not codec.knows(kind):
        return f"of the kind {shown(kind)}, which there is not"
    for part in value.values():
        for each in part if isinstance(part, list) else [part]:
            if isinstance(each, dict):
                try:
                    codec.from_json(each)
                except SpecError:
                    return _wrong(each)
    return f"no {shown(kind)} that is whole"


def _policies_in(value: Any) -> list[Policy]:
    if isinstance(value, Policy):
        return [value]
    if isinstance(value, list | tuple):
        return [each for each in value if isinstance(each, Policy)]
    if isinstance(value, dict):
        return [each for each in value.values() if isinstance(each, Policy)]
    return []


def _module(path: Path) -> ModuleType:
    """The file, executed. Raises SpecError with its line for whatever goes wrong in it."""
    module = ModuleType(f"everloop_policies_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module
    try:
        exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        raise SpecError(f"{path.name}:{error.lineno}: {error.msg}; correct the line.") from None
    except (Exception, SystemExit) as error:
        line = _line(error, path)
        raise SpecError(f"{path.name}{f':{line}' if line else ''}: {type(error).__name__}: {error}") from None
    finally:
        sys.modules.pop(module.__name__, None)
    return module


def _line(error: BaseException, path: Path) -> int | None:
    found, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            found = trace.tb_lineno
        trace = trace.tb_next
    return found
