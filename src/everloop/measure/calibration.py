"""What quiet history says about how restless columns are, and the limit that follows for a budget of false alarms.

Knows neither windows nor profiles: history comes as blocks (a day, or a window where that is longer), because windows
of one day resemble each other and the budget counts days with an alarm. Docs: docs/statistics.md, "Drift alarms".
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

LEAST_BLOCKS = 14
"""Blocks of quiet history below which nothing can be said of their largest values."""
DAY = timedelta(days=1)
LEAST_WEIGHT = 0.5
STEADY = 0.02
"""Of the mean of all signals: what a signal's middle day must reach to be taken at its own word."""
LEAST_SIGNALS = 5
"""With fewer nobody can say how much signals differ from one another."""
EULER = 0.5772156649015329


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What quiet history says about each signal's restlessness. JSON through `everloop.records.encode`."""

    scales: dict[str, float]
    """Mean PSI of each signal on quiet days, shrunk to the mean of all."""
    threshold: float
    """Alarm when PSI / scale is above it in both of two consecutive windows."""
    days: int
    """The blocks it rests on: days, or windows where those are longer."""


def calibrate_blocks(
    signals: Sequence[str], means: NDArray[np.float64], peaks: NDArray[np.float64], *, budget: float
) -> Calibration | None:
    """The limit that one block in ``budget`` exceeds on average. None below `LEAST_BLOCKS`.

    A block is a day of windows, or one longer window. ``means`` [blocks, signals]: of each signal the mean PSI; ``peaks``
    [blocks, signals]: the largest that two windows running both reached; NaN where a block lacks a signal. The two halves
    of the history scale each other: a scale and the maxima that it scales from the same days give many times the budget.
    With ``budget`` − 1 blocks or more the limit is the ⌊(N + 1)/budget⌋-th largest maximum (exchangeable blocks); with
    fewer a Gumbel quantile of the logarithms of the maxima, widened by Student's t.
    """
    blocks = len(means)
    told = (~np.isnan(means)).sum(axis=0) >= LEAST_BLOCKS
    if blocks < LEAST_BLOCKS or not told.any():
        return None
    means, peaks = means[:, told], np.nan_to_num(peaks[:, told], nan=0.0)
    half = blocks // 2
    scales = _scales(means, means)
    maxima = np.concatenate(
        [
            (peaks[:half] / _scales(means[half:], means)).max(axis=1),
            (peaks[half:] / _scales(means[:half], means)).max(axis=1),
        ]
    )
    names = [name for name, known in zip(signals, told.tolist(), strict=True) if known]
    return Calibration(
        scales=dict(zip(names, scales.tolist(), strict=True)), threshold=_limit(maxima, budget), days=blocks
    )


def calibrate(
    quiet: ArrayLike, columns: Sequence[str], *, windows_per_day: int, false_alarm_every: timedelta
) -> Calibration | None:
    """`calibrate_blocks` of PSI [windows, columns] with equally many windows a day; None below 14 days.

    The PSI must be against a reference of other days than these.
    """
    x = np.asarray(quiet, dtype=np.float64)
    days = len(x) // windows_per_day
    x = x[len(x) - days * windows_per_day :]
    if not days:
        return None
    # Two consecutive windows must both be over, so the smaller of the two is what is calibrated.
    pairs = np.minimum(x, np.vstack([x[:1], x[:-1]]))
    by_day = (days, windows_per_day, len(columns))
    return calibrate_blocks(
        columns, x.reshape(by_day).mean(axis=1), pairs.reshape(by_day).max(axis=1), budget=false_alarm_every / DAY
    )


def _limit(maxima: NDArray[np.float64], budget: float) -> float:
    """The value that one block in ``budget`` exceeds."""
    count = len(maxima)
    if count >= budget - 1:
        place = max(1, math.floor((count + 1) / budget))
        return float(np.sort(maxima)[-place])
    logs = np.log(np.maximum(maxima, 1e-12))
    gumbel = (-math.log(-math.log(1 - 1 / budget)) - EULER) / (math.pi / math.sqrt(6))
    widened = float(stdtrit(count - 1, 1 - 1 / budget)) / float(ndtri(1 - 1 / budget)) * math.sqrt(1 + 1 / count)
    return math.exp(float(logs.mean()) + float(logs.std(ddof=1)) * gumbel * widened)


def _scales(means: NDArray[np.float64], all_means: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of each signal, shrunk to that of all; a signal that these blocks lack takes that of all blocks.

    A signal keeps half of its own mean at least, and more where signals differ by more than their days explain: the
    usual weight of a random effect, between / (between + within / days), with days that resemble their neighbours counted
    as fewer. A calm signal among restless ones is then held to its own habits.
    """
    own = _mean(means)
    own = np.where(np.isnan(own), _mean(all_means), own)
    scales: NDArray[np.float64] = np.maximum(own.mean() + _weights(means, own) * (own - own.mean()), 1e-9)
    return scales


def _weights(means: NDArray[np.float64], own: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each signal's own mean, at least `LEAST_WEIGHT`.

    What hardly moves on most days, a constant or a column of rare bursts, keeps the least: its own quiet days say
    nothing of how far it goes.
    """
    weights = np.full(len(own), LEAST_WEIGHT)
    steady = np.median(np.where(np.isnan(means), own, means), axis=0) > STEADY * own.mean()
    if steady.sum() < LEAST_SIGNALS:
        return weights
    table, usual = means[:, steady], own[steady]
    apart = np.where(np.isnan(table), 0.0, table - usual)
    squares = (apart**2).sum(axis=0)
    alike = float(np.clip((apart[1:] * apart[:-1]).sum() / max(squares.sum(), 1e-18), 0.0, 0.9))
    days = np.maximum((~np.isnan(table)).sum(axis=0), 2)
    within = squares / (days - 1) / (days * (1 - alike) / (1 + alike))
    between = max(0.0, float(usual.var(ddof=1) - within.mean()))
    weights[steady] = np.maximum(LEAST_WEIGHT, between / np.maximum(between + within, 1e-18))
    return weights


def _mean(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column, of what is known; NaN where nothing is."""
    known = ~np.isnan(table)
    count = known.sum(axis=0)
    sums = np.where(known, table, 0.0).sum(axis=0)
    return np.where(count > 0, sums / np.maximum(count, 1), np.nan)
