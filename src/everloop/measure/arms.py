"""What two arms of a canary count, epoch by epoch, and the rates that follow. Bets nothing: that is `measure.eprocess`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everloop.records import ArmCounts

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Four counts and the share for each epoch: float64 arrays [..., epochs] that broadcast against one another."""

    challenger_events: Floats
    challenger_units: Floats
    champion_events: Floats
    champion_units: Floats
    share: Floats

    @property
    def units(self) -> Floats:
        """Units of both arms and all epochs, [...]."""
        total: Floats = np.sum(self.challenger_units + self.champion_units, axis=-1)
        return total


def counts(
    challenger_events: ArrayLike,
    challenger_units: ArrayLike,
    champion_events: ArrayLike,
    champion_units: ArrayLike,
    share: ArrayLike,
) -> Counts:
    """Counts from arrays [..., epochs] or single numbers (one epoch)."""
    arrays = [
        np.atleast_1d(np.asarray(each, dtype=np.float64))
        for each in (challenger_events, challenger_units, champion_events, champion_units, share)
    ]
    return Counts(
        challenger_events=arrays[0],
        challenger_units=arrays[1],
        champion_events=arrays[2],
        champion_units=arrays[3],
        share=arrays[4],
    )


def counts_of(epochs: Sequence[ArmCounts]) -> Counts:
    """Counts of one guard, [epochs]; epochs without a share strictly between 0 and 1 say nothing and are left out."""
    told = [each for each in epochs if 0.0 < each.share < 1.0]
    return counts(
        [each.challenger_events for each in told],
        [each.challenger_units for each in told],
        [each.champion_events for each in told],
        [each.champion_units for each in told],
        [each.share for each in told],
    )


def difference(observed: Counts) -> Floats:
    """Challenger's rate − champion's rate of `rates`, [...]; 0 where no epoch has units of both."""
    challenger, champion = rates(observed)
    return np.nan_to_num(challenger - champion)


def rates(observed: Counts) -> tuple[Floats, Floats]:
    """Challenger's and champion's rate, [...] each: per epoch, then weighted alike. Never pooled over epochs (Simpson).

    Weights of Mantel and Haenszel (1959), n1·n0/(n1 + n0): an epoch counts for as much as its smaller arm can say, so
    that a dozen requests at a small share do not speak for all. NaN where no epoch has units of both.
    """
    n1, n0 = observed.challenger_units, observed.champion_units
    weight = np.where((n1 > 0) & (n0 > 0), n1 * n0 / np.maximum(n1 + n0, 1e-12), 0.0)
    total = np.sum(weight, axis=-1)
    challenger, champion = (
        np.sum(weight * events / np.maximum(units, 1e-12), axis=-1) / np.where(total > 0, total, np.nan)
        for events, units in ((observed.challenger_events, n1), (observed.champion_events, n0))
    )
    return challenger, champion
