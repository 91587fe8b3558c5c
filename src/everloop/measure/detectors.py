"""Has a stream of losses become worse, and from where on? Four detectors, for worsening only. Knows no labels, no clock.

Losses lie in [0, 1] (`scaled` brings others there): ADWIN's bound is for such values. What improves is learnt from and
never told. Sources: ADWIN Bifet & Gavaldà 2007; Page 1954, Hinkley 1971; KSWIN Raab, Heusinger & Schleif 2020, with all
older rows in place of a random draw of them; DDM Gama et al. 2004.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from typing import Protocol, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from everloop.spec.detector import Adwin, Ddm, Detector, Kswin, PageHinkley

Floats = NDArray[np.float64]

BUCKETS = 5
"""Buckets of one size before two are merged: memory and time grow with the logarithm of the window."""
EVERY = 32
"""Values between two looks at ADWIN's window."""
SHORTEST = 5
WARM_UP = 100
SCALE_ROWS = 200
SCALE_QUANTILE = 0.99


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A worsening. Rows are counted from the first: the change lies at about ``at`` and was known after ``known``."""

    at: int
    known: int
    before: float
    """The mean before ``at``."""
    after: float
    """The mean from ``at`` to the end of what there is."""


class Running(Protocol):
    """A detector at work."""

    def update(self, value: float) -> int | None:
        """Take one more loss. How many of the newest rows are worse than those before, at the row that shows it."""


def running(detector: Detector) -> Running:
    """A fresh one, as declared."""
    match detector:
        case Adwin():
            return AdwinWindow(detector.delta)
        case PageHinkley():
            return PageHinkleySum(detector.threshold, detector.slack)
        case Kswin():
            return KswinWindow(detector.alpha, detector.window, detector.recent)
        case Ddm():
            return DdmMean(detector.level)
    assert_never(detector)


def scaled(losses: ArrayLike) -> Floats:
    """Losses in [0, 1], fixed by the first 200: nothing below 0, twice their 99 % quantile and more is 1."""
    values = np.asarray(losses, dtype=np.float64)
    early = values[:SCALE_ROWS]
    if not len(early) or (early.min() >= 0 and early.max() <= 1 and values.min() >= 0 and values.max() <= 1):
        return values
    low = min(0.0, float(early.min()))
    high = 2 * float(np.quantile(early, SCALE_QUANTILE)) - low
    return np.clip((values - low) / high, 0.0, 1.0) if high > 0 else np.zeros_like(values)


def worsened(detector: Detector, losses: ArrayLike) -> Change | None:
    """The newest worsening in these losses, oldest first, in any unit; None where there is none that still stands.

    It stands while the mean since is over the mean before.
    """
    values = np.asarray(losses, dtype=np.float64)
    watching = running(detector)
    told = [place + 1 for place, value in enumerate(scaled(values).tolist()) if watching.update(value) is not None]
    if not told:
        return None
    known = told[-1]
    at = _where(values[:known])
    before, after = values[:at], values[at:]
    if not len(before) or not len(after) or after.mean() <= before.mean():
        return None
    return Change(at=at, known=known, before=float(before.mean()), after=float(after.mean()))


def _where(values: Floats) -> int:
    """The first row of what is worse: where the rise between the means before and after is the most certain."""
    n = len(values)
    before = np.arange(1, n)
    sums = np.cumsum(values)[:-1]
    rise = (values.sum() - sums) / (n - before) - sums / before
    return int(np.argmax(np.where(rise > 0, rise**2 * before * (n - before), -1.0))) + 1


class AdwinWindow:
    """Exponential histogram: rows of buckets that hold 1, 2, 4 … values, as sum and sum of squared deviations."""

    def __init__(self, delta: float) -> None:
        self._delta = delta
        # Of each size the buckets, newest first: (sum, squared deviations).
        self._rows: list[deque[tuple[float, float]]] = [deque()]
        self._sum = self._squares = 0.0
        self.width = 0
        self._ticks = 0

    @property
    def mean(self) -> float:
        return self._sum / self.width if self.width else 0.0

    def update(self, value: float) -> int | None:
        if self.width:
            off = value - self._sum / self.width
            self._squares += off * off * self.width / (self.width + 1)
        self._sum += value
        self.width += 1
        self._rows[0].appendleft((value, 0.0))
        self._compress()
        self._ticks += 1
        return self._cut() if self._ticks % EVERY == 0 and self.width > 2 * SHORTEST else None

    def _compress(self) -> None:
        for size, row in enumerate(self._rows):
            if len(row) <= BUCKETS:
                return
            if size + 1 == len(self._rows):
                self._rows.append(deque())
            count = 2**size
            one, other = row.pop(), row.pop()
            off = one[0] / count - other[0] / count
            self._rows[size + 1].appendleft((one[0] + other[0], one[1] + other[1] + off * off * count / 2))

    def _cut(self) -> int | None:
        """Drop old buckets as long as what is newer differs; the rows left if it was worse."""
        worse = None
        while (found := self._differs()) is not None:
            self._drop()
            if found:
                worse = self.width
        return worse

    def _differs(self) -> bool | None:
        """Whether some newer part is worse (True) or better (False) than all before it; None: neither."""
        n0, sum0 = 0, 0.0
        variance = self._squares / self.width
        confidence = math.log(2 * math.log(self.width) / self._delta)
        for size in range(len(self._rows) - 1, -1, -1):
            count = 2**size
            for held, _ in reversed(self._rows[size]):
                n0, sum0 = n0 + count, sum0 + held
                n1 = self.width - n0
                if n1 < SHORTEST + 1:
                    return None
                if n0 < SHORTEST:
                    continue
                gap = (self._sum - sum0) / n1 - sum0 / n0
                harmonic = 1 / (n0 - SHORTEST + 1) + 1 / (n1 - SHORTEST + 1)
                limit = math.sqrt(2 * harmonic * variance * confidence) + 2 / 3 * harmonic * confidence
                if abs(gap) > limit:
                    return bool(gap > 0)
        return None

    def _drop(self) -> None:
        while not self._rows[-1]:
            self._rows.pop()
        held, squares = self._rows[-1].pop()
        count = 2 ** (len(self._rows) - 1)
        self.width -= count
        self._sum -= held
        if self.width:
            off = held / count - self._sum / self.width
            self._squares = max(0.0, self._squares - squares - off * off * count * self.width / (count + self.width))
        else:
            self._squares = 0.0


class PageHinkleySum:
    """CUSUM of (loss − mean)/sd − slack, never below 0; mean and sd of all losses since the start."""

    def __init__(self, threshold: float, slack: float) -> None:
        self._threshold, self._slack = threshold, slack
        self._begin()

    def _begin(self) -> None:
        self._count = 0
        self._mean = self._squares = self._sum = 0.0
        self._since = 0

    def update(self, value: float) -> int | None:
        if self._count >= WARM_UP and self._squares > 0:
            spread = math.sqrt(self._squares / self._count)
            self._sum += (value - self._mean) / spread - self._slack
            self._since += 1
            if self._sum <= 0:
                self._sum, self._since = 0.0, 0
        self._count += 1
        off = value - self._mean
        self._mean += off / self._count
        self._squares += off * (value - self._mean)
        if self._sum < self._threshold:
            return None
        recent = self._since
        self._begin()
        return recent


class KswinWindow:
    """The newest rows against the older ones in a sliding window, one-sided."""

    def __init__(self, alpha: float, window: int, recent: int) -> None:
        self._alpha, self._recent = alpha, recent
        self._values: deque[float] = deque(maxlen=window)
        self._ticks = 0

    def update(self, value: float) -> int | None:
        self._values.append(value)
        self._ticks += 1
        if self._ticks % max(1, self._recent // 5) or len(self._values) < 2 * self._recent:
            return None
        values = np.fromiter(self._values, np.float64)
        older, newer = np.sort(values[: -self._recent]), np.sort(values[-self._recent :])
        levels = np.unique(values)
        distance = float(
            np.max(
                np.searchsorted(older, levels, side="right") / len(older)
                - np.searchsorted(newer, levels, side="right") / len(newer)
            )
        )
        # Smirnov's one-sided limit; for losses with ties it is on the safe side.
        if math.exp(-2 * distance**2 * len(older) * len(newer) / len(values)) >= self._alpha:
            return None
        self._values.clear()
        self._values.extend(newer.tolist())
        return self._recent


class DdmMean:
    """Mean + standard error against the smallest that they have been together."""

    def __init__(self, level: float) -> None:
        self._level = level
        self._begin()

    def _begin(self) -> None:
        self._count = self._at_best = 0
        self._mean = self._squares = 0.0
        self._best = (math.inf, math.inf)

    def update(self, value: float) -> int | None:
        self._count += 1
        off = value - self._mean
        self._mean += off / self._count
        self._squares += off * (value - self._mean)
        error = math.sqrt(self._squares) / self._count
        if self._count < WARM_UP:
            return None
        if self._mean + error <= sum(self._best):
            self._best, self._at_best = (self._mean, error), self._count
        if self._mean + error <= self._best[0] + self._level * self._best[1]:
            return None
        recent = max(1, self._count - self._at_best)
        self._begin()
        return recent
