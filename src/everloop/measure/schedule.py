"""The best possible retrain schedule, known only afterwards: what any trigger could have won. Knows no triggers.

A fit is made with what was known before a window begins and serves from its ``ready`` window until the next one of the
schedule is ready. Losses are sums over a window's rows, so that they can be added up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which fits serve when, and what that costs in all."""

    fits: tuple[int, ...]
    """In the order in which they serve; the first one is there from the beginning."""
    serving: Integers
    """The fit of each window, [windows]."""
    loss: float
    """Summed over all windows, without prices."""
    total: float
    """Loss and prices."""

    @property
    def retrains(self) -> int:
        return len(self.fits) - 1


def best_schedule(
    loss: ArrayLike,
    made: ArrayLike,
    ready: ArrayLike,
    *,
    price: ArrayLike | float = 0.0,
    most: int | None = None,
    apart: int = 1,
) -> Schedule:
    """The schedule with the least loss + prices, by dynamic programming over the fits, O(fits²) and × ``most`` with a limit.

    ``loss`` float [fits, windows]: the sum over the window's rows, NaN where a fit was never asked. ``made`` int [fits]:
    the first window whose beginning the fit may know of; ``ready`` int [fits] ≥ made: the first it can serve, so
    ready − made is the delay. Fits with ready ≤ 0 can be the first one, which has no price. ``price``: of each retrain, in
    units of loss, a number or [fits]. ``most``: at most so many retrains. ``apart``: at least so many windows from one
    retrain's ``made`` to the next one's: a cooldown; and none begins before the one of before is ready, for there is
    one turn at a time. Of equal schedules the one with the fewest retrains.

    V(g) = price(g) + min over f that may come before g of V(f) + Σ_{ready(f) ≤ w < ready(g)} loss(f, w).

    Raises ValueError when no fit can serve the first window, or a window has nobody to serve it.

    >>> found = best_schedule([[1, 9, 9], [9, 2, 9], [9, 9, 3]], made=[0, 1, 2], ready=[0, 1, 2])
    >>> found.fits, found.total
    ((0, 1, 2), 6.0)
    >>> best_schedule([[1, 9, 9], [9, 2, 9], [9, 9, 3]], made=[0, 1, 2], ready=[0, 1, 2], most=1).serving.tolist()
    [0, 1, 1]
    """
    losses, begun, serves = np.asarray(loss, np.float64), np.asarray(made, np.int64), np.asarray(ready, np.int64)
    fits, windows = losses.shape
    if len(begun) != fits or len(serves) != fits or np.any(serves < begun):
        raise ValueError(f"{fits} fits need as many `made` and `ready` windows, none ready before it is made.")
    if apart < 0 or (most is not None and most < 0):
        raise ValueError(f"apart={apart} and most={most}; neither may be negative.")
    cost = np.broadcast_to(np.asarray(price, dtype=np.float64), (fits,))
    start = np.clip(serves, 0, windows)
    # Sums from each fit's first window; what was never asked is infinitely bad and stays so.
    summed = _from_the_first(losses, start)
    first = np.where(serves <= 0, 0.0, np.inf)
    if not np.isfinite(first).any():
        raise ValueError("No fit is ready for the first window; begin where one is.")
    order = np.lexsort((begun, start))
    limit = fits if most is None else min(most, fits)
    free = most is None
    value = [first]
    before: list[Integers] = [np.full(fits, -1, np.int64)]
    if free:
        value[0], before[0] = _pass(first.copy(), None, order, begun, serves, start, summed, cost, apart)
    else:
        for _ in range(limit):
            reached, came = _pass(np.full(fits, np.inf), value[-1], order, begun, serves, start, summed, cost, apart)
            value.append(reached)
            before.append(came)
    return _read_back(value, before, summed, losses, start, free=free)


def served(schedule: ArrayLike, loss: ArrayLike) -> float:
    """Summed loss of any assignment of fits to windows: ``schedule`` int [windows], ``loss`` [fits, windows]."""
    serving, losses = np.asarray(schedule, np.int64), np.asarray(loss, np.float64)
    return float(losses[serving, np.arange(losses.shape[1])].sum())


def _from_the_first(losses: Floats, start: Integers) -> Floats:
    """Σ of a fit's losses from its first window to before each window, [fits, windows + 1]; inf once one is unknown."""
    fits, windows = losses.shape
    counted = np.arange(windows)[None, :] >= start[:, None]
    known = np.where(counted, np.where(np.isnan(losses), np.inf, losses), 0.0)
    return np.concatenate([np.zeros((fits, 1)), np.cumsum(known, axis=1)], axis=1)


def _pass(
    value: Floats,
    earlier: Floats | None,
    order: NDArray[np.intp],
    begun: Integers,
    serves: Integers,
    start: Integers,
    summed: Floats,
    cost: Floats,
    apart: int,
) -> tuple[Floats, Integers]:
    """Least cost with which each fit comes to serve, and who served before it; from this pass's values, or an earlier one's."""
    came = np.full(len(value), -1, np.int64)
    source = value if earlier is None else earlier
    for g in order:
        if serves[g] <= 0 or start[g] >= summed.shape[1] - 1:
            continue  # there from the beginning, or after the end
        may = (begun + apart <= begun[g]) & (serves <= begun[g]) & (start < start[g])
        with np.errstate(invalid="ignore"):
            through = np.where(may, source + summed[:, start[g]], np.inf)
        f = int(np.argmin(through))
        if through[f] + cost[g] < value[g]:
            value[g], came[g] = through[f] + cost[g], f
    return value, came


def _read_back(
    value: list[Floats], before: list[Integers], summed: Floats, losses: Floats, start: Integers, *, free: bool
) -> Schedule:
    ends = np.stack(value) + summed[:, -1]
    level, fit = (int(each) for each in np.unravel_index(int(np.argmin(ends)), ends.shape))
    total = float(ends[level, fit])
    if not math.isfinite(total):
        raise ValueError(
            "Some window has no fit whose loss is known; every fit needs losses until the next one is ready."
        )
    chain = [fit]
    while (came := int(before[level][chain[-1]])) >= 0:
        chain.append(came)
        level -= 0 if free else 1
    chain.reverse()
    serving = np.empty(losses.shape[1], np.int64)
    for each in chain:
        serving[start[each] :] = each
    return Schedule(fits=tuple(chain), serving=serving, loss=served(serving, losses), total=total)
