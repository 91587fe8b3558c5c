"""What a policy cost: retrains, training time, labels, stale answers, and money where prices are known. Runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from everloop.errors import SpecError
from everloop.loop.backtest.result import Costs, Prices, Retrain, WindowRun
from everloop.records import Task

KINDS: Mapping[Task, tuple[str, ...]] = {
    "binary": ("wrong", "missed", "false alarm"),
    "multiclass": ("wrong",),
    "regression": ("absolute",),
}
"""Kinds of errors that can have a price."""


def costs(
    retrains: Sequence[Retrain],
    windows: Sequence[WindowRun],
    used: Iterable[tuple[int, int]],
    prices: Prices | None = None,
) -> Costs:
    """Of everything after the first model. ``used``: half-open ranges of labels that anything depended on."""
    turns = [each for each in retrains if each.window >= 0]
    released = [each for each in turns if each.live is not None]
    seconds = sum(each.seconds for each in turns)
    bare = Costs(
        retrains=len(turns),
        released=len(released),
        rejected=sum(each.live is None and each.verdict is not None for each in turns),
        never_paid=sum(each.paid is not None and each.paid <= 0 for each in released),
        seconds=seconds,
        stale=sum(each.stale for each in windows),
        labels=covered(used),
    )
    return bare if prices is None else priced(bare, windows, prices)


def priced(costs: Costs, windows: Sequence[WindowRun], prices: Prices) -> Costs:
    """The same costs in money."""
    parts = {"retrains": costs.retrains * prices.retrain, "hours": costs.seconds / 3600 * prices.hour}
    for kind, price in prices.errors.items():
        parts[kind] = price * sum(each.errors.get(kind, 0.0) for each in windows)
    return Costs(
        retrains=costs.retrains,
        released=costs.released,
        rejected=costs.rejected,
        never_paid=costs.never_paid,
        seconds=costs.seconds,
        stale=costs.stale,
        labels=costs.labels,
        money=sum(parts.values()),
        parts=parts,
    )


def check(prices: Prices | None, task: Task) -> None:
    """Raises SpecError for a price that nothing can have."""
    for kind, price in prices.errors.items() if prices is not None else ():
        if kind not in KINDS[task]:
            raise SpecError(
                f"There is a price for errors of the kind {kind!r}; a {task} label knows {', '.join(KINDS[task])}."
            )
        if price < 0:
            raise SpecError(f"The price of {kind!r} is {price:g}; write 0 or more.")
    if prices is not None and min(prices.retrain, prices.hour) < 0:
        raise SpecError(f"A retrain costs {prices.retrain:g} and an hour {prices.hour:g}; write 0 or more.")


def covered(ranges: Iterable[tuple[int, int]]) -> int:
    """How many integers lie in at least one of the half-open ranges.

    >>> covered([(0, 10), (5, 12), (20, 21)])
    13
    """
    total = end = 0
    for low, high in sorted(ranges):
        total += max(0, high - max(low, end))
        end = max(end, high)
    return total
