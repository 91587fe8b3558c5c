"""Who is recommended: the best within a budget, or by all money together; and who would have been at half-time.

Pure arithmetic on a `BacktestResult`. ``rows`` [windows] says what counts: a window with 0 rows is as if it had not been.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from everloop.loop.backtest.budget import Asked, Budget, Unit, budget
from everloop.loop.backtest.result import BacktestResult, PolicyRun
from everloop.loop.backtest.yardstick import Yardstick
from everloop.measure.bootstrap import Compared, compare, of_windows
from everloop.measure.frontier import recommend
from everloop.spec.retrain import Manual

Floats = npt.NDArray[np.float64]
ERRORS = 1.0
"""Who looks worse by at most so many standard errors of the difference may as well be taken for being cheaper."""
LEAST_HALF = 12
"""Windows in each half of the history, below which nobody looks back from half-time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Who is recommended, beside whom, and what that rests on. Policies by their place among the runs that were chosen from."""

    compared: Compared
    budget: Budget | None
    """What retraining may cost; None: whatever it does."""
    policy: int
    """The recommended one: the best score that the budget allows. Without a budget the same as ``at_any_cost``."""
    at_any_cost: int
    """The cheapest within one standard error of the best (where errors have a price, the least money in all); the recommended
    one itself where that is no better."""
    thrifty: int
    """The cheapest within one standard error of the recommended one."""
    among: npt.NDArray[np.int64]
    """All that cannot be told apart from the best, cheapest first."""


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
    *,
    asked: Asked,
    present: int | None,
    unit: Unit,
    alpha: float,
    seed: int,
) -> Choice:
    """Who is recommended within the budget that is ``asked`` for.

    Where errors have a price, the sum of all money says what a retrain is worth, and no budget holds unless one is asked
    for. ``cost`` [runs] of retraining; ``present``: which of the runs the declaration says, if any does.
    """
    priced = errors_have_a_price(result)
    limit = None
    if not priced or asked != "declared":
        limit = budget(asked, result, runs, cost, rows, present=present, unit=unit)
    if priced:
        spent = np.array([_money(result, run) for run in runs])
        per_row = np.where(rows > 0, spent / np.maximum(rows, 1.0), 0.0)
        compared = compare(of_windows(per_row, rows, greater_is_better=False), alpha=alpha, seed=seed)
        # Retraining is in the total already: nothing is left to save on.
        free = recommend(compared, cost, errors=0.0)
    else:
        compared = compare(yardstick.influences(runs, rows), alpha=alpha, seed=seed)
        free = recommend(compared, cost, errors=ERRORS)
    chosen = free.policy if limit is None else best_within(compared, cost, limit)
    better = compared.behind[free.policy] < compared.behind[chosen]
    return Choice(
        compared=compared,
        budget=limit,
        policy=chosen,
        at_any_cost=free.policy if better else chosen,
        thrifty=chosen if priced else _thrifty(compared, cost, chosen),
        among=free.among,
    )


def best_within(compared: Compared, cost: Floats, limit: Budget) -> int:
    """The best looking one that the budget allows, of equal ones the cheapest; where it allows nobody, of the cheapest ones."""
    allowed = np.array([limit.holds(float(each)) for each in cost])
    if not allowed.any():
        allowed = cost <= cost.min()
    order = np.lexsort((cost, np.round(compared.behind, 12)))
    return int(next(at for at in order if allowed[at]))


def _thrifty(compared: Compared, cost: Floats, chosen: int) -> int:
    """The cheapest that looks worse than the chosen one by at most one standard error of the difference."""
    error = compared.error_between[chosen]
    near = compared.behind - compared.behind[chosen] <= ERRORS * np.where(np.isfinite(error), error, 0.0) + 1e-12
    near &= cost <= cost[chosen]
    return int(next(at for at in np.lexsort((compared.behind, cost)) if near[at]))


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
    *,
    asked: Asked,
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
    present = places.index(result.present) if result.present in places else None
    chosen = choose(
        result, runs, first, cost, yardstick, asked=asked, present=present, unit=unit, alpha=alpha, seed=seed
    ).policy
    later = yardstick.influences(runs, second).score
    worse = np.array([yardstick.worse_by(float(each), 0.0) for each in later])
    best = int(np.argmin(worse))
    never = [at for at, run in enumerate(runs) if isinstance(run.policy.retrain, Manual)]
    return HalfTime(
        window=half,
        chosen=places[chosen],
        score=float(later[chosen]),
        best=places[best],
        best_score=float(later[best]),
        never=float(later[never[0]]) if never else None,
        present=None if present is None else float(later[present]),
        rank=1 + int(np.sum(worse < worse[chosen] - 1e-12)),
    )


def _early(run: PolicyRun, half: int) -> float:
    made = [each.window for each in run.retrains[1:]]
    return sum(each < half for each in made) / len(made) if made else 0.0
