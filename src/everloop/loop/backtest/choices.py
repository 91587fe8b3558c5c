"""Which policies are compared when nobody names any, and how they are read from a file. Knows no rows."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

from everloop.errors import SpecError
from everloop.loop.backtest.grid import Windows
from everloop.spec.conform import shown
from everloop.spec.gate import Better, NotWorse
from everloop.spec.loop import Loop
from everloop.spec.metric import LogLoss, MeanAbsoluteError, Metric, RootMeanSquaredError, SquaredError
from everloop.spec.policy import Policy
from everloop.spec.retrain import Degraded, Drift, Every, Manual, Rows, Trigger, leaves
from everloop.spec.window import Everything, Last

EVERY = (1, 2, 4, 8)
"""Windows between two retrains of a schedule."""
MONTH = timedelta(days=28)
LONGEST_PART = 0.5
"""The part of the history that a training window may be, at most."""


def usual(
    loop: Loop, *, every: Windows, span: timedelta, rows: int, metric: Metric, spread: float
) -> tuple[Policy, ...]:
    """The declared policy, never, schedules, drift and a fallen score, each with a few training windows.

    ``every``: the scored windows; ``span`` and ``rows``: of the whole history; ``spread``: the label's standard deviation.
    """
    present = Policy.of(loop)
    triggers: list[Trigger] = [_schedule(every, count) for count in EVERY]
    triggers += [Drift(), Degraded(by=_fall(loop, metric, spread))]
    found = [present, replace(present, retrain=Manual(), cooldown=timedelta(0))]
    for window in usual_windows(present.window, every, span, rows):
        found += [replace(present, retrain=each, window=window, cooldown=timedelta(0)) for each in triggers]
    return once(found)


def once(policies: Iterable[Policy]) -> tuple[Policy, ...]:
    """Each policy once, in their order."""
    return tuple({each.digest: each for each in policies}.values())


def _schedule(every: Windows, count: int) -> Trigger:
    if isinstance(every, int):
        return Rows(every * count)
    return Every((MONTH if every == "month" else every) * count)


def usual_windows(
    window: Last | Everything, every: Windows | None, span: timedelta, rows: int
) -> list[Last | Everything]:
    """The declared window, half and twice as long; where all rows are declared, an eighth and a quarter of them."""
    if isinstance(window, Everything):
        length: timedelta | int = span / 8 if not isinstance(every, int) else rows // 8
        if isinstance(length, timedelta):
            step = every if isinstance(every, timedelta) else MONTH
            length = step * max(2, round(length / step))
        eighth = Last(length, test=window.test, refit=window.refit)
        return [window, eighth, replace(eighth, length=length * 2)]
    whole = window.length
    half: Any = whole // 2
    if isinstance(whole, timedelta) and isinstance(every, timedelta):
        half = every * max(1, round(half / every))
    most: Any = span * LONGEST_PART if isinstance(whole, timedelta) else int(rows * LONGEST_PART)
    found: list[Last | Everything] = []
    for length in (half, whole, whole * 2):
        if length == whole or (length <= most and _leaves_rows(length, window.test)):
            found.append(replace(window, length=length))
    return found


def _leaves_rows(length: Any, test: Any) -> bool:
    return type(test) is not type(length) or test * 2 <= length


def _fall(loop: Loop, metric: Metric, spread: float) -> float:
    """How far a score must fall: as declared, two points of a share, or a twentieth of what labels vary by."""
    declared = next((each.by for each in leaves(loop.retrain) if isinstance(each, Degraded)), None)
    if isinstance(metric, RootMeanSquaredError | MeanAbsoluteError):
        return float(f"{max(0.05 * spread, 1e-9):.2g}")
    if isinstance(metric, SquaredError):
        return float(f"{max((0.05 * spread) ** 2, 1e-12):.2g}")
    return declared if declared is not None else 0.05 if isinstance(metric, LogLoss) else 0.02


# Files


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
        raise SpecError(f"{path.name} is not JSON: {error}; write a list of policies.") from None
    if isinstance(form, dict):
        form = form.get("runs", form.get("policies"))
    if not isinstance(form, list):
        raise SpecError(f"{path.name} holds {shown(form)}; write a list of policies.")
    return [Policy.from_json(each.get("policy", each)) if isinstance(each, dict) else _wrong(each) for each in form]


def _wrong(value: Any) -> Policy:
    raise SpecError(f"{shown(value)} is no policy; write what Policy.to_json gives.")


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


def gates(policies: Iterable[Policy]) -> tuple[NotWorse | Better, ...]:
    return tuple(dict.fromkeys(each.gate for each in policies if each.gate is not None))
