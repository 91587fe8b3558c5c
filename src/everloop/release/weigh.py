"""Who answers which class of queries, and with which weight: from what matured labels say of each. Pure; reads nothing.

Within a class each row was answered by an arm drawn with a known weight. Held against the first arm, an arm's row
counts as its loss over its weight, the first one's as minus its loss over its own: the mean of that is the difference
of the two, however the weights were moved meanwhile (Horvitz and Thompson 1952). The interval holds at every look
(`measure.sequence`), divided over classes and arms, so that moving weights by it is no peeking.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from everloop.measure import sequence

Floats = NDArray[np.float64]
ALPHA = 0.05
LEAST_ROWS = 200
"""Labelled rows of a class before anything is said of it."""
MOST_CLASSES = 64
OTHERS = ""
"""The class of every query whose class is not named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Labelled rows of one class: which arm answered, drawn with which weight, and its loss; arrays [rows]."""

    arm: NDArray[np.int64]
    weight: Floats
    loss: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """Of one class: the arms' mean losses (NaN: none answered), differences from the first with bounds, and who leads."""

    rows: int
    losses: tuple[float, ...]
    differences: tuple[tuple[float, float, float], ...]
    """Of each arm but the first: estimate, lower and upper bound; above 0 it is worse."""
    leader: int | None
    because: str


def weigh(seen: Seen, arms: Sequence[str], margin: float, *, classes: int) -> Weighed:
    """The arm that is shown better leads; the first one where none is better by more than ``margin``; else nobody yet."""
    rows, count = len(seen.loss), len(arms)
    losses = tuple(
        float(seen.loss[seen.arm == each].mean()) if (seen.arm == each).any() else math.nan for each in range(count)
    )
    alpha = ALPHA / 2 / max(1, classes) / max(1, count - 1)
    centred = seen.loss - seen.loss.mean() if rows else seen.loss
    found: list[tuple[float, float, float]] = []
    for each in range(1, count):
        psi = np.where(seen.arm == each, centred, np.where(seen.arm == 0, -centred, 0.0)) / seen.weight
        estimate = float(psi.mean()) if rows else 0.0
        error = float(psi.std(ddof=1)) / math.sqrt(rows) if rows > 1 else 0.0
        told = min(int((seen.arm == each).sum()), int((seen.arm == 0).sum())) >= sequence.LEAST_UNITS // 2
        bound = sequence.bound(estimate, error, rows if rows >= LEAST_ROWS and told else 0, alpha)
        found.append((estimate, bound.lower, bound.upper))
    better = [each for each, (_, _, upper) in enumerate(found, start=1) if upper < 0]
    if better:
        leader = min(better, key=lambda each: found[each - 1][0])
        estimate, lower, upper = found[leader - 1]
        words = f"{arms[leader]} is better than {arms[0]} by {-estimate:.3g} ({-upper:.3g} to {-lower:.3g})"
        return Weighed(rows=rows, losses=losses, differences=tuple(found), leader=leader, because=words)
    if all(lower > -margin for _, lower, _ in found):
        words = f"none is better than {arms[0]} by more than {margin:g}"
        return Weighed(rows=rows, losses=losses, differences=tuple(found), leader=0, because=words)
    words = f"not settled yet in {rows:,} labelled rows"
    return Weighed(rows=rows, losses=losses, differences=tuple(found), leader=None, because=words)


def weights_of(leader: int | None, count: int, least: float, most: float) -> tuple[float, ...]:
    """The leader's share as large as ``most`` and the others' ``least`` allow; even while nobody leads.

    >>> weights_of(0, 2, 0.05, 0.95), weights_of(2, 3, 0.1, 0.95)
    ((0.95, 0.05), (0.1, 0.1, 0.8))
    """
    if leader is None:
        return (1 / count,) * count
    top = max(min(most, 1 - least * (count - 1)), 1 / count)
    rest = (1 - top) / (count - 1)
    return tuple(round(top if each == leader else rest, 12) for each in range(count))


def moved(
    before: Mapping[str, tuple[float, ...]], weighed: Mapping[str, Weighed], count: int, least: float, most: float
) -> dict[str, tuple[float, ...]]:
    """The weights after a look: of classes about which something is settled; the others keep theirs."""
    after = dict(before)
    for name, found in weighed.items():
        if found.leader is not None and name != OTHERS and (name in after or len(after) <= MOST_CLASSES):
            after[name] = weights_of(found.leader, count, least, most)
    return after
