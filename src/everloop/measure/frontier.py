"""What quality costs: the frontier of two columns of numbers, its knee, prices, and a recommendation. Knows no policies.

Everything here is a loss: smaller is better, in quality and in cost. Whoever has a score that should be large hands
in its negative.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everloop.measure.bootstrap import Compared

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """Who is beaten on both counts, and where more cost begins to buy little. All arrays are [policies]."""

    on: Booleans
    """No other is at least as good in both and better in one."""
    dominated_by: Integers
    """Of those on the frontier that beat it the one with the least loss; −1 for who is on it."""
    knee: int | None
    """The bend of the frontier, or None where it has none: with two ends there is nothing between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Between these prices of one unit of cost this policy has the least loss + price × cost."""

    policy: int
    above: float
    below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommendation:
    """A choice, and who else it could have been."""

    policy: int
    among: Integers
    """All that cannot be told apart from the best, cheapest first."""
    saves: float
    """Cost below that of the best looking policy, ≥ 0."""
    behind: float
    """Loss above that of the best looking policy, ≥ 0."""
    behind_at_most: float
    """Bound on the loss above that of the truly best, holding for every policy at once and so for a chosen one too."""


def frontier(loss: ArrayLike, cost: ArrayLike) -> Frontier:
    """The policies that no other beats in both, float [policies] each. Equal twins are both on it.

    The knee is the point on the lower hull furthest below the line between the frontier's two ends, both axes scaled to
    [0, 1] there (Satopää, Albrecht, Irwin and Raghavan, "Finding a Kneedle in a Haystack", 2011).

    >>> found = frontier([0.4, 0.28, 0.27, 0.3], [0, 30, 120, 40])
    >>> found.on.tolist(), found.dominated_by.tolist(), found.knee
    ([True, True, True, False], [-1, -1, -1, 1], 1)
    """
    x, y = _finite(cost, "cost"), _finite(loss, "loss")
    if len(x) != len(y) or not len(x):
        raise ValueError(f"{len(y)} losses and {len(x)} costs; there must be one of each for every policy.")
    beats = (y[:, None] <= y) & (x[:, None] <= x) & ((y[:, None] < y) | (x[:, None] < x))
    on: Booleans = np.logical_not(beats.any(axis=0))
    by: Integers = np.argmin(np.where(beats & on[:, None], y[:, None], np.inf), axis=0).astype(np.int64)
    by[on] = -1
    return Frontier(on=on, dominated_by=by, knee=_knee(y, x, np.flatnonzero(on)))


def prices(loss: ArrayLike, cost: ArrayLike) -> tuple[Priced, ...]:
    """Who is best at which price of a unit of cost: the lower convex hull, dearest policy (price 0) first.

    With loss in points and cost in retrains the price is how many points a retrain must bring. A policy on the frontier
    but above the hull is best at no price. Of twins the first stands for both.

    >>> [(each.policy, round(each.above, 4), round(each.below, 4)) for each in prices([0.4, 0.28, 0.27], [0, 30, 120])]
    [(2, 0.0, 0.0001), (1, 0.0001, 0.004), (0, 0.004, inf)]
    """
    x, y = _finite(cost, "cost"), _finite(loss, "loss")
    order = [int(each) for each in np.lexsort((np.arange(len(x)), y, x))]
    hull: list[int] = []
    for each in order:
        if hull and y[each] >= y[hull[-1]]:
            continue  # dearer and no better
        while len(hull) >= 2 and _saving(hull[-2], hull[-1], x, y) <= _saving(hull[-1], each, x, y):
            hull.pop()
        hull.append(each)
    turns = [_saving(cheap, dear, x, y) for cheap, dear in pairwise(hull)]
    above, below = [*turns, 0.0], [np.inf, *turns]
    return tuple(
        Priced(policy=policy, above=float(low), below=float(high))
        for policy, low, high in reversed(list(zip(hull, above, below, strict=True)))
    )


def recommend(compared: Compared, cost: ArrayLike, *, errors: float | None = None) -> Recommendation:
    """The cheapest of those that cannot be told apart from the best; of equally cheap ones the better looking.

    The rule prefers to save where the history cannot say that more is better. What that may cost is bounded:
    ``behind_at_most``. ``errors``: only those that look worse than the best by at most so many standard errors of the
    difference; 1 is the rule of Breiman, Friedman, Olshen and Stone (1984), which keeps a short history, in which nobody can
    be told apart, from recommending whatever is cheapest; where no error is known it is the best looking one. ``cost`` float
    [policies] in any one unit.
    """
    x = _finite(cost, "cost")
    best = int(np.lexsort((x, compared.behind))[0])
    near = np.ones(len(x), dtype=np.bool_)
    if errors is not None:
        error = compared.error_between[best]
        near = compared.behind <= errors * np.where(np.isfinite(error), error, 0.0) + 1e-12
    among = np.flatnonzero(compared.indistinct)
    among = among[np.lexsort((compared.behind[among], x[among]))]
    chosen = int(next(each for each in among if near[each]))
    return Recommendation(
        policy=chosen,
        among=among,
        saves=max(0.0, float(x[best] - x[chosen])),
        behind=float(compared.behind[chosen]),
        behind_at_most=float(compared.behind_at_most[chosen]),
    )


def _saving(cheap: int, dear: int, x: Floats, y: Floats) -> float:
    """Loss saved by a unit of cost from one to the other, the dearer one costing strictly more."""
    return float((y[cheap] - y[dear]) / (x[dear] - x[cheap]))


def _knee(y: Floats, x: Floats, on: NDArray[np.intp]) -> int | None:
    if len(on) < 3:
        return None
    wide, tall = float(np.ptp(x[on])), float(np.ptp(y[on]))
    if wide <= 0 or tall <= 0:
        return None
    below_chord = 1 - (x[on] - x[on].min()) / wide - (y[on] - y[on].min()) / tall
    deepest = int(np.argmax(below_chord))
    return int(on[deepest]) if below_chord[deepest] > 1e-9 else None


def _finite(values: ArrayLike, name: str) -> Floats:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not np.isfinite(found).all():
        raise ValueError(f"A {name} is not a finite number; leave a policy out that has none.")
    return found
