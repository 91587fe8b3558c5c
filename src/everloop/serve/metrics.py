"""Histograms. Knows nothing of what is counted.

Counting is a few additions, or one entry in a list for a whole batch; buckets are filled when somebody looks, or when
enough waits.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain

import numpy as np

SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0,
)  # fmt: skip
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SORTED_LATER = 4096
"""So many values are sorted into their buckets at once: a fifth of the price of one at a time."""


class Histogram:
    """``counts[i]`` fell at or below ``bounds[i]``, the last one above all; ``total`` is the sum of the values."""

    __slots__ = ("_counts", "_later", "_less", "_total", "_waiting", "bounds")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0
        self._later: list[Sequence[float]] = []
        self._less: list[float] = []
        self._waiting = 0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self.bounds, value)] += 1
        self._total += value

    def observe_all(self, values: Sequence[float], less: float = 0.0) -> None:
        """Each of ``values`` minus ``less``. They are kept as they are until there are enough, or somebody reads."""
        self._later.append(values)
        self._less.append(less)
        self._waiting += len(values)
        if self._waiting >= SORTED_LATER:
            self._sort()

    @property
    def counts(self) -> list[int]:
        self._sort()
        return self._counts

    @property
    def total(self) -> float:
        self._sort()
        return self._total

    def _sort(self) -> None:
        if not self._waiting:
            return
        values = np.fromiter(chain.from_iterable(self._later), np.float64, self._waiting)
        values -= np.repeat(self._less, [len(each) for each in self._later])
        np.maximum(values, 0.0, out=values)  # a clock read twice within its own precision
        self._later, self._less, self._waiting = [], [], 0
        places = np.searchsorted(np.array(self.bounds), values, side="left")
        for place, count in enumerate(np.bincount(places, minlength=len(self._counts)).tolist()):
            self._counts[place] += count
        self._total += float(values.sum())
