"""What retraining may cost: as much as the declared policy does, a retrain a month, or what somebody asks for.

Chooses nobody, and knows no scores.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.result import BacktestResult, PolicyRun
from everloop.spec.retrain import Manual

Floats = npt.NDArray[np.float64]
Unit = Literal["retrains", "money"]
Asked = float | timedelta | Literal["declared", "any"]
"""So many retrains (with prices: so much money) over the whole history; one retrain in so much time; what the declared
policy costs; or whatever it costs."""
MONTH = timedelta(days=28)
FEWEST_MONTHS = 4
"""In a shorter history, or one whose clock counts rows, every fourth window is a month."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """The most that the recommended policy may cost."""

    cost: float
    """In `Answer.unit`, over the windows that are counted."""
    source: Literal["declared", "month", "asked"]
    """Whose cost it is: the declared policy's, that of a retrain a month (where the declaration never retrains), or it was
    asked for."""

    def holds(self, cost: float) -> bool:
        return cost <= self.cost + 1e-9 * max(1.0, abs(self.cost))


def budget(
    asked: Asked,
    result: BacktestResult,
    runs: Sequence[PolicyRun],
    cost: Floats,
    rows: Floats,
    *,
    present: int | None,
    unit: Unit,
) -> Budget | None:
    """The budget over the windows with ``rows`` [windows] above 0; None: whatever it costs.

    ``cost`` [runs] in ``unit`` over these windows; ``present``: which of the runs the declaration says, if any does.
    """
    if asked == "any":
        return None
    counted = [window for window, count in zip(result.windows, rows, strict=True) if count > 0]
    if asked == "declared":
        if present is not None and not isinstance(runs[present].policy.retrain, Manual):
            return Budget(cost=float(cost[present]), source="declared")
        time = sum((window.until - window.since for window in counted), timedelta(0))
        months = time / MONTH if time >= FEWEST_MONTHS * MONTH else len(counted) / 4
        return Budget(cost=math.ceil(months) * _one(runs, cost, unit), source="month")
    if isinstance(asked, timedelta):
        time = sum((window.until - window.since for window in counted), timedelta(0))
        return Budget(cost=math.ceil(time / asked) * _one(runs, cost, unit), source="asked")
    return Budget(cost=asked * len(counted) / max(len(result.windows), 1), source="asked")


def _one(runs: Sequence[PolicyRun], cost: Floats, unit: Unit) -> float:
    """What one retrain costs, on average over all policies."""
    if unit == "retrains":
        return 1.0
    made = sum(run.costs.retrains for run in runs)
    return float(cost.sum()) / made if made else 0.0
