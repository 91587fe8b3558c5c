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

UNKNOWN = "Some window has no fit whose loss is known; every fit needs losses until the next one is ready."


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
    one turn at a time. Of equal schedules the one with the fewest retrains, where there is a limit.

    V(g) = price(g) + min over f that may come before g of V(f) + Σ_{ready(f) ≤ w < ready(g)} loss(f, w).

    Raises ValueError when no fit can serve the first window, or a window has nobody to serve it.

    >>> found = best_schedule([[1, 9, 9], [9, 2, 9], [9, 9, 3]], made=[0, 1, 2], ready=[0, 1, 2])
    >>> found.fits, found.total
    ((0, 1, 2), 6.0)
    >>> best_schedule([[1, 9, 9], [9, 2, 9], [9, 9, 3]], made=[0, 1, 2], ready=[0, 1, 2], most=1).serving.tolist()
    [0, 1, 1]
    """
    if most is not None:
        return best_by_retrains(loss, made, ready, most=most, price=price, apart=apart)[-1]
    table = _Table.of(loss, made, ready, price, apart)
    value, came = table.step(table.first.copy(), None)
    return table.read([value], [came], level=None)


def best_by_retrains(
    loss: ArrayLike,
    made: ArrayLike,
    ready: ArrayLike,
    *,
    most: int,
    price: ArrayLike | float = 0.0,
    apart: int = 1,
) -> tuple[Schedule, ...]:
    """The best schedule with at most 0, 1, … retrains, all from one pass, up to the count from which more brings nothing.

    Counts with which no schedule is possible (the first fit's loss is not known to the end) are left out.

    What the frontier of every possible policy looks like. Arguments as in `best_schedule`.

    >>> found = best_by_retrains([[1, 9, 9], [9, 2, 9], [9, 9, 3]], made=[0, 1, 2], ready=[0, 1, 2], most=9)
    >>> [(each.retrains, each.total) for each in found]
    [(0, 19.0), (1, 12.0), (2, 6.0)]
    """
    if most < 0:
        raise ValueError(f"most={most}; it may not be negative.")
    table = _Table.of(loss, made, ready, price, apart)
    values, before = [table.first], [np.full(len(table.start), -1, np.int64)]
    # More retrains than the best schedule without a limit has cannot make it better.
    value, came = table.step(table.first.copy(), None)
    enough = table.read([value], [came], level=None).retrains
    for _ in range(min(most, enough)):
        value, came = table.step(np.full(len(table.start), np.inf), values[-1])
        values.append(value)
        before.append(came)
    found: list[Schedule] = []
    for level, value in enumerate(values):
        total = float(table.ends(value).min())
        if math.isfinite(total):
            better = not found or total < found[-1].total
            found.append(table.read(values, before, level=level) if better else found[-1])
    if not found:
        raise ValueError(UNKNOWN)
    return tuple(found)


def served(schedule: ArrayLike, loss: ArrayLike) -> float:
    """Summed loss of any assignment of fits to windows: ``schedule`` int [windows], ``loss`` [fits, windows]."""
    serving, losses = np.asarray(schedule, np.int64), np.asarray(loss, np.float64)
    return float(losses[serving, np.arange(losses.shape[1])].sum())


@dataclass(frozen=True, slots=True)
class _Table:
    """The arrays of a dynamic programme, checked."""

    losses: Floats
    made: Integers
    ready: Integers
    start: Integers
    """``ready``, cut to [0, windows]."""
    summed: Floats
    """Σ of a fit's losses from its first window to before each window, [fits, windows + 1]; inf once one is unknown."""
    price: Floats
    first: Floats
    """0 for a fit that can be the first one, inf for the rest."""
    order: NDArray[np.intp]
    apart: int

    @classmethod
    def of(cls, loss: ArrayLike, made: ArrayLike, ready: ArrayLike, price: ArrayLike | float, apart: int) -> _Table:
        losses, begun, serves = np.asarray(loss, np.float64), np.asarray(made, np.int64), np.asarray(ready, np.int64)
        fits, windows = losses.shape
        if len(begun) != fits or len(serves) != fits or np.any(serves < begun):
            raise ValueError(f"{fits} fits need as many `made` and `ready` windows, none ready before it is made.")
        if apart < 0:
            raise ValueError(f"apart={apart}; it may not be negative.")
        first = np.where(serves <= 0, 0.0, np.inf)
        if not np.isfinite(first).any():
            raise ValueError("No fit is ready for the first window; begin where one is.")
        start = np.clip(serves, 0, windows)
        counted = np.arange(windows)[None, :] >= start[:, None]
        known = np.where(counted, np.where(np.isnan(losses), np.inf, losses), 0.0)
        return cls(
            losses=losses,
            made=begun,
            ready=serves,
            start=start,
            summed=np.concatenate([np.zeros((fits, 1)), np.cumsum(known, axis=1)], axis=1),
            price=np.broadcast_to(np.asarray(price, dtype=np.float64), (fits,)),
            first=first,
            order=np.lexsort((begun, start)),
            apart=apart,
        )

    def step(self, value: Floats, earlier: Floats | None) -> tuple[Floats, Integers]:
        """Least cost with which each fit comes to serve, and who served before: from these values, or an earlier step's."""
        came = np.full(len(value), -1, np.int64)
        source = value if earlier is None else earlier
        for g in self.order:
            if self.ready[g] <= 0 or self.start[g] >= self.losses.shape[1]:
                continue  # there from the beginning, or after the end
            may = (self.made + self.apart <= self.made[g]) & (self.ready <= self.made[g]) & (self.start < self.start[g])
            through = np.where(may, source + self.summed[:, self.start[g]], np.inf)
            f = int(np.argmin(through))
            if through[f] + self.price[g] < value[g]:
                value[g], came[g] = through[f] + self.price[g], f
        return value, came

    def ends(self, value: Floats) -> Floats:
        ended: Floats = value + self.summed[:, -1]
        return ended

    def read(self, values: list[Floats], before: list[Integers], *, level: int | None) -> Schedule:
        """The best schedule that ends at a level, read backwards; ``level`` None: all steps were one."""
        here = level or 0
        ended = self.ends(values[here])
        fit = int(np.argmin(ended))
        total = float(ended[fit])
        if not math.isfinite(total):
            raise ValueError(UNKNOWN)
        chain = [fit]
        while (came := int(before[here][chain[-1]])) >= 0:
            chain.append(came)
            here -= 0 if level is None else 1
        chain.reverse()
        serving = np.empty(self.losses.shape[1], np.int64)
        for each in chain:
            serving[self.start[each] :] = each
        return Schedule(fits=tuple(chain), serving=serving, loss=served(serving, self.losses), total=total)
