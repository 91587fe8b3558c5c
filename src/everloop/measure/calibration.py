"""What quiet history says about how restless columns are, and the limit that follows for a budget of false alarms.

Knows neither windows nor profiles: history comes as blocks (a day, or a window where that is longer), because windows
of one day resemble each other and the budget counts days with an alarm. Docs: docs/statistics.md, "Drift alarms".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri, stdtrit

LEAST_BLOCKS = 14
"""Blocks of quiet history below which nothing can be said of their largest values."""
DAY = timedelta(days=1)
EULER = 0.5772156649015329


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What quiet history says about each signal's restlessness. JSON through `everloop.records.encode`."""

    scales: dict[str, float]
    """Mean PSI of each signal on quiet days, shrunk halfway to the mean of all."""
    threshold: float
    """Alarm when PSI / scale is above it in both of two consecutive windows."""
    days: int
    """The blocks it rests on: days, or windows where those are longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A day of windows, or one longer window: of each signal the mean PSI, and the largest that two windows running
    both reached.
    """

    mean: Mapping[str, float]
    peak: Mapping[str, float]


def calibrate_blocks(blocks: Sequence[Block], *, budget: float) -> Calibration | None:
    """The limit that one block in ``budget`` exceeds on average. None below `LEAST_BLOCKS`.

    The two halves of the history scale each other: a scale and the maxima that it scales from the same days give many
    times the budget. With ``budget`` − 1 blocks or more the limit is the ⌊(N + 1)/budget⌋-th largest maximum
    (exchangeable blocks); with fewer a Gumbel quantile of the logarithms of the maxima, widened by Student's t.
    """
    seen: dict[str, int] = {}
    for block in blocks:
        for name in block.mean:
            seen[name] = seen.get(name, 0) + 1
    names = [name for name, count in seen.items() if count >= LEAST_BLOCKS]
    if len(blocks) < LEAST_BLOCKS or not names:
        return None
    means, peaks = (
        np.array([[each.get(name, np.nan) for name in names] for each in side])
        for side in ([block.mean for block in blocks], [block.peak for block in blocks])
    )
    half = len(blocks) // 2
    first = np.arange(len(blocks)) < half
    maxima = np.zeros(len(blocks))
    for fold in (first, ~first):
        ratios = np.where(np.isnan(peaks[fold]), 0.0, peaks[fold]) / _scales(means[~fold], means)
        maxima[fold] = ratios.max(axis=1)
    scales = _scales(means, means)
    return Calibration(
        scales=dict(zip(names, scales.tolist(), strict=True)), threshold=_limit(maxima, budget), days=len(blocks)
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
    # Two consecutive windows must both be over, so the smaller of the two is what is calibrated.
    pairs = np.minimum(x, np.vstack([x[:1], x[:-1]])) if len(x) else x
    blocks = [
        Block(
            mean=dict(zip(columns, x[at : at + windows_per_day].mean(axis=0).tolist(), strict=True)),
            peak=dict(zip(columns, pairs[at : at + windows_per_day].max(axis=0).tolist(), strict=True)),
        )
        for at in range(0, len(x), windows_per_day)
    ]
    return calibrate_blocks(blocks, budget=false_alarm_every / DAY)


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
    """Mean of each signal, shrunk halfway to that of all; a signal that these blocks lack takes that of all blocks."""
    own = np.array(
        [
            np.mean(part[~np.isnan(part)]) if (~np.isnan(part)).any() else np.mean(whole[~np.isnan(whole)])
            for part, whole in zip(means.T, all_means.T, strict=True)
        ]
    )
    scales: NDArray[np.float64] = np.maximum((own + own.mean()) / 2, 1e-9)
    return scales
