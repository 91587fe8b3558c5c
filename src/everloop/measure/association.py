"""Do two daily series move together, beyond habit and trend? A correlation of what could not be foreseen, with an interval.

Two series that both grow, or both have weekends, correlate without having anything to do with each other; so do two that
merely remember their yesterday. Each is therefore held against its own past first: a trend, the days of the week and
its two last values (least squares, on normal scores of ranks); what is left are its surprises, and those are compared (Haugh 1976, "Checking the
independence of two covariance-stationary time series"). By ranks, so that one wild day decides nothing. An
association is no cause.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

Floats = NDArray[np.float64]

WEEK = 7
MEMORY = 2
"""Values of its own past that a series is held against."""
LEAST = 30
"""Days with a surprise of both below which nothing is said."""
ALPHA = 0.05
RANKS = 1.06
"""The variance of Spearman's correlation after Fisher's transformation, times n − 3 (Fieller, Hartley, Pearson 1957)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Association:
    """Of one signal with an outcome. ``low`` and ``high`` hold for all signals that were asked about together."""

    signal: str
    lag: Literal[0, 1]
    """1: the signal of the day before."""
    correlation: float
    low: float
    high: float
    days: int

    @property
    def shown(self) -> bool:
        """Whether chance does not explain it, however many signals were asked about."""
        return self.low > 0 or self.high < 0


def surprises(series: ArrayLike) -> Floats:
    """What could not be foreseen of each day [n], NaN where it or what it is held against is missing.

    ``series``: one value a day, oldest first, NaN where there is none.
    """
    y = _scores(np.asarray(series, dtype=np.float64))
    n = len(y)
    day = np.arange(n)
    columns = [np.ones(n), day / max(n - 1, 1)]
    columns += [(day % WEEK == each).astype(np.float64) for each in range(WEEK - 1)]
    for back in range(1, MEMORY + 1):
        columns.append(np.concatenate([np.full(min(back, n), np.nan), y[: max(n - back, 0)]]))
    design = np.stack(columns, axis=1)
    known = np.isfinite(y) & np.isfinite(design).all(axis=1)
    left = np.full(n, np.nan)
    if known.sum() <= design.shape[1] + 1:
        return left
    if y[known].std() == 0:
        return left  # a constant surprises nobody
    found, *_ = np.linalg.lstsq(design[known], y[known], rcond=None)
    left[known] = y[known] - design[known] @ found
    return left


def _scores(values: Floats) -> Floats:
    """Each value by its rank, as a normal deviate (van der Waerden): one wild day bends no habit and no trend."""
    made, known = np.full(len(values), np.nan), np.isfinite(values)
    made[known] = ndtri(rankdata(values[known]) / (known.sum() + 1))
    return made


def associations(
    outcome: ArrayLike,
    signals: Mapping[str, ArrayLike],
    *,
    alpha: float = ALPHA,
    lags: Sequence[Literal[0, 1]] = (0, 1),
) -> tuple[Association, ...]:
    """Every signal that can be told of, of the same day and of the day before, the strongest first.

    All series have one value a day. The intervals are Bonferroni's over signals and lags: with chance ``alpha`` one of
    them misses.
    """
    y = surprises(outcome)
    pairs: list[tuple[str, Literal[0, 1], Floats, Floats]] = []
    for name, series in signals.items():
        x = surprises(series)
        for lag in lags:
            moved = np.concatenate([np.full(lag, np.nan), x[: len(x) - lag]])
            both = np.isfinite(y) & np.isfinite(moved)
            if both.sum() >= LEAST and len(np.unique(moved[both])) > 2 and len(np.unique(y[both])) > 2:
                pairs.append((name, lag, moved[both], y[both]))
    reach = float(-ndtri(alpha / (2 * max(len(pairs), 1))))
    found = []
    for name, lag, x, z in pairs:
        r = max(min(float(np.corrcoef(rankdata(x), rankdata(z))[0, 1]), 1 - 1e-9), 1e-9 - 1)
        # What was estimated to foresee the days is no evidence.
        free = len(x) - 3 - (WEEK + 1 + MEMORY)
        width = reach * math.sqrt(RANKS / max(free, 1))
        centre = math.atanh(r)
        found.append(
            Association(
                signal=name,
                lag=lag,
                correlation=r,
                low=math.tanh(centre - width),
                high=math.tanh(centre + width),
                days=len(x),
            )
        )
    return tuple(sorted(found, key=lambda each: -abs(each.correlation)))
