"""What each player brought to a value: Shapley's shares, exact or by sampled orders. Knows no model and no rows.

Shares sum to the difference between the value of all players and that of none (L. S. Shapley, 1953). Orders are drawn in
pairs, each with its reverse (antithetic), which takes out most of what the places in the order do.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import factorial
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Coalitions = npt.NDArray[np.bool_]

EXACT_UP_TO = 9
"""Players whose 512 coalitions are all valued; of more, orders are drawn."""
MOST_COALITIONS = 1_500


@dataclass(frozen=True, kw_only=True)
class Shares:
    """``shares`` [players] sum to ``total`` - ``base``. ``errors`` [players]: standard errors; 0 where exact."""

    shares: Numbers
    base: float
    total: float
    errors: Numbers


def shapley(value: Callable[[Coalitions], Numbers], players: int, *, seed: int, most: int = MOST_COALITIONS) -> Shares:
    """``value``: coalitions [many, players] → their values [many]. At most about ``most`` coalitions are valued.

    >>> def both(present):  # the first two together bring 10, the third 1
    ...     return 10.0 * (present[:, 0] & present[:, 1]) + present[:, 2]
    >>> shapley(both, 3, seed=0).shares.tolist()
    [5.0, 5.0, 1.0]
    """
    if players == 0:
        alone = float(value(np.ones((1, 0), dtype=np.bool_))[0])
        return Shares(shares=np.zeros(0), base=alone, total=alone, errors=np.zeros(0))
    if players <= EXACT_UP_TO:
        return _exact(value, players)
    return _sampled(value, players, seed, most)


def _exact(value: Callable[[Coalitions], Numbers], players: int) -> Shares:
    numbers = np.arange(2**players)
    present = (numbers[:, None] >> np.arange(players)) & 1 == 1
    values = np.asarray(value(present), dtype=np.float64)
    sizes = present.sum(axis=1)
    weights = np.array(
        [factorial(size) * factorial(players - size - 1) / factorial(players) for size in range(players)]
    )
    shares = np.empty(players)
    for player in range(players):
        without = numbers[~present[:, player]]
        gained = values[without | (1 << player)] - values[without]
        shares[player] = (weights[sizes[without]] * gained).sum()
    return Shares(shares=shares, base=float(values[0]), total=float(values[-1]), errors=np.zeros(players))


def _sampled(value: Callable[[Coalitions], Numbers], players: int, seed: int, most: int) -> Shares:
    random = np.random.default_rng(seed)
    pairs = max(2, most // (2 * (players - 1)))
    orders: list[Any] = []
    for _ in range(pairs):
        order = random.permutation(players)
        orders += [order, order[::-1]]
    # Of each order all coalitions but the empty and the whole one, which all share.
    present = np.zeros((len(orders), players - 1, players), dtype=np.bool_)
    for place, order in enumerate(orders):
        for size in range(players - 1):
            present[place, size:, order[size]] = True
    ends = np.stack([np.zeros(players, dtype=np.bool_), np.ones(players, dtype=np.bool_)])
    valued = np.asarray(value(np.concatenate([ends, present.reshape(-1, players)])), dtype=np.float64)
    base, total = valued[:2]
    inner = valued[2:].reshape(len(orders), players - 1)
    path = np.concatenate([np.full((len(orders), 1), base), inner, np.full((len(orders), 1), total)], axis=1)
    gained = np.empty((len(orders), players))
    for place, order in enumerate(orders):
        gained[place, order] = np.diff(path[place])
    paired = gained.reshape(pairs, 2, players).mean(axis=1)
    errors = paired.std(axis=0, ddof=1) / np.sqrt(pairs)
    return Shares(shares=paired.mean(axis=0), base=float(base), total=float(total), errors=errors)
