"""Which policies are compared when nobody names any. Knows no rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

from everloop.loop.backtest.grid import Windows
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


def gates(policies: Iterable[Policy]) -> tuple[NotWorse | Better, ...]:
    return tuple(dict.fromkeys(each.gate for each in policies if each.gate is not None))
