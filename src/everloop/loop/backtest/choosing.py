"""Who is recommended: by the score beside the cost, or by all money together; and who would have been at half-time.

Pure arithmetic on a `BacktestResult`. ``rows`` [windows] says what counts: a window with 0 rows is as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.result import BacktestResult, PolicyRun
from everloop.loop.backtest.yardstick import Yardstick
from everloop.measure.bootstrap import Compared, compare, of_windows
from everloop.measure.frontier import Recommendation, recommend
from everloop.spec.retrain import Manual

Floats = npt.NDArray[np.float64]
Unit = Literal["retrains", "money"]
ERRORS = 1.0
"""The recommended one looks at most so many standard errors worse than the best."""
LEAST_HALF = 12
"""Windows in each half of the history, below which nobody looks back from half-time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HalfTime:
    """What this rule would have chosen from the first half alone, and how that went in the second."""

    window: int
    """The first one of the second half."""
    chosen: int
    """Its place."""
    score: float
    """In the second half."""
    best: int
    best_score: float
    never: float | None
    """What never retraining scored there, where that is among the policies."""
    present: float | None
    """What the declared policy scored there."""
    rank: int
    """Of the chosen one in the second half, 1 is the best."""


def cost_of(run: PolicyRun, unit: Unit) -> float:
    """What retraining costs: its errors are what it is judged by."""
    if unit == "retrains":
        return float(run.costs.retrains)
    return float(sum(run.costs.parts.get(part, 0.0) for part in ("retrains", "hours")))


def errors_have_a_price(result: BacktestResult) -> bool:
    return result.prices is not None and any(result.prices.errors.values())


def choose(
    result: BacktestResult,
    runs: Sequence[PolicyRun],
    rows: Floats,
    cost: Floats,
    yardstick: Yardstick,
    alpha: float,
    seed: int,
) -> tuple[Compared, Recommendation]:
    """Who is recommended, and what that rests on: the score beside the cost, or all money together."""
    if not errors_have_a_price(result):
        compared = compare(yardstick.influences(runs, rows), alpha=alpha, seed=seed)
        return compared, recommend(compared, cost, errors=ERRORS)
    spent = np.array([_money(result, run) for run in runs])
    per_row = np.where(rows > 0, spent / np.maximum(rows, 1.0), 0.0)
    compared = compare(of_windows(per_row, rows, greater_is_better=False), alpha=alpha, seed=seed)
    # Retraining is in the total already: nothing is left to save on.
    return compared, recommend(compared, cost, errors=0.0)


def _money(result: BacktestResult, run: PolicyRun) -> Floats:
    """What was spent in each window: its errors, and the retrains that were started after it, the last window's before."""
    assert result.prices is not None
    prices = result.prices
    spent = np.zeros(len(result.windows))
    for at, window in enumerate(run.windows):
        spent[at] += sum(prices.errors.get(kind, 0.0) * count for kind, count in window.errors.items())
    for each in run.retrains[1:]:
        spent[min(max(each.window, 0), len(spent) - 1)] += prices.retrain + prices.hour * each.seconds / 3_600
    return spent


def half_time(
    result: BacktestResult,
    places: Sequence[int],
    runs: Sequence[PolicyRun],
    rows: Floats,
    yardstick: Yardstick,
    unit: Unit,
    alpha: float,
    seed: int,
) -> HalfTime | None:
    """Retrains are counted by the window in which they were started; prices by their share of all retrains."""
    half = len(rows) // 2
    if half < LEAST_HALF:
        return None
    first, second = (np.where((np.arange(len(rows)) < half) == before, rows, 0.0) for before in (True, False))
    cost = np.array([cost_of(run, unit) * _early(run, half) for run in runs])
    chosen = choose(result, runs, first, cost, yardstick, alpha, seed)[1].policy
    later = yardstick.influences(runs, second).score
    worse = np.array([yardstick.worse_by(float(each), 0.0) for each in later])
    best = int(np.argmin(worse))
    never = [at for at, run in enumerate(runs) if isinstance(run.policy.retrain, Manual)]
    present = result.present
    return HalfTime(
        window=half,
        chosen=places[chosen],
        score=float(later[chosen]),
        best=places[best],
        best_score=float(later[best]),
        never=float(later[never[0]]) if never else None,
        present=float(later[places.index(present)]) if present is not None and present in places else None,
        rank=1 + int(np.sum(worse < worse[chosen] - 1e-12)),
    )


def _early(run: PolicyRun, half: int) -> float:
    made = [each.window for each in run.retrains[1:]]
    return sum(each < half for each in made) / len(made) if made else 0.0
