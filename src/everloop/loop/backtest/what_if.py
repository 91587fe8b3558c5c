"""The same policies in a world that is changed in one thing: later labels, fewer labels, other prices."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from everloop.loop.backtest.costs import priced
from everloop.loop.backtest.result import BacktestResult
from everloop.loop.backtest.run import Backtest
from everloop.spec.policy import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that is otherwise; ``words`` is the question."""

    words: str
    later: timedelta = timedelta(0)
    labels: float = 1.0
    """The share of labels that come."""
    retrain: float = 1.0
    """Times its price."""


def changed(
    running: Backtest, policies: Sequence[Policy], result: BacktestResult, change: Change
) -> tuple[BacktestResult, int]:
    """The result in the changed world, and how many fits it took beyond those that were there.

    Windows stay the same. Labels that come later by whole windows need few new fits: a turn then sees what one saw
    earlier. Prices need none.
    """
    if change.retrain != 1.0 and result.prices is not None:
        prices = dataclasses.replace(result.prices, retrain=result.prices.retrain * change.retrain)
        runs = tuple(dataclasses.replace(each, costs=priced(each.costs, each.windows, prices)) for each in result.runs)
        result = dataclasses.replace(result, runs=runs, prices=prices)
        if not change.later and change.labels == 1.0:
            return result, 0
    other = running.otherwise(later=change.later, labels=change.labels)
    before = other.made
    found = other.result(policies)
    return found, other.made - before
