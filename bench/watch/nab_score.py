"""The score of the Numenta anomaly benchmark (Lavin and Ahmad 2015), from its published formula. Detects nothing.

Each labelled window is found by the first record in it whose anomaly score reaches the threshold, and gives
σ(y)/σ(−1) with σ(y) = 2/(1 + e^{5y}) − 1 and y from −1 at its left end to 0 at its right; a window without gives −1. A
record outside gives .11·σ(y) (the standard profile), y from 0 by the width of the window before it, −.11 from three widths on
and before the first window. The first 15 % of a series (of at most 5,000 records) count nothing. One threshold for all
series, the best one; 0 is what a silent detector reaches, 100 is every window found at its left end and nothing else.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
FALSE_ALARM, MISSED, STEEPNESS = 0.11, 1.0, 5.0
PROBATION, LONGEST = 0.15, 5_000


@dataclass(frozen=True, kw_only=True)
class Scored:
    """``value``: 0 to 100 and beyond; ``found`` of ``windows`` and ``false`` records outside, at ``threshold``."""

    value: float
    threshold: float
    found: int
    windows: int
    false: int


def sigma(y: Floats) -> Floats:
    return np.where(y > 3, -1.0, 2 / (1 + np.exp(STEEPNESS * np.minimum(y, 3))) - 1)


def windows(inside: Flags) -> list[tuple[int, int]]:
    """First and last record of each labelled window."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], inside.astype(np.int8), [0]])))
    return [(int(first), int(last) - 1) for first, last in edges.reshape(-1, 2)]


def probation(records: int) -> int:
    return int(PROBATION * min(records, LONGEST))


def score(series: Sequence[tuple[Floats, Flags]]) -> Scored:
    """``series``: anomaly scores [n] and whether each record lies in a labelled window [n], for each."""
    levels: list[Floats] = []
    gains: list[Floats] = []
    hits: list[Floats] = []
    count = 0
    for scores, inside in series:
        places = np.arange(len(scores))
        labelled = windows(inside)
        count += len(labelled)
        past = np.full(len(scores), np.inf)
        for first, last in labelled:
            width = last - first + 1
            past[last + 1 :] = (places[last + 1 :] - last) / max(width - 1, 1)
            # Of each window its first record above the threshold counts: the running best as the threshold falls.
            within = places[max(first, probation(len(scores))) : last + 1]
            order = within[np.argsort(-scores[within], kind="stable")]
            worth = sigma(-(last - order + 1) / width) / float(sigma(np.array(-1.0)))
            best = np.maximum.accumulate(np.concatenate([[-MISSED], worth]))
            levels.append(scores[order])
            gains.append(np.diff(best))
            hits.append((np.arange(len(order)) == 0).astype(np.float64))
        outside = ~inside & (places >= probation(len(scores)))
        levels.append(scores[outside])
        gains.append(FALSE_ALARM * sigma(past[outside]))
        hits.append(np.zeros(int(outside.sum())))
    level, gain, hit = np.concatenate(levels), np.concatenate(gains), np.concatenate(hits)
    order = np.argsort(-level, kind="stable")
    level, total = level[order], np.cumsum(gain[order]) - MISSED * count
    # Records of one score are above a threshold together.
    ends = np.flatnonzero(np.append(level[1:] != level[:-1], True))
    best = ends[np.argmax(total[ends])]
    if total[best] <= -MISSED * count:
        return Scored(value=0.0, threshold=float("inf"), found=0, windows=count, false=0)
    found = int(np.cumsum(hit[order])[best])
    inside_above = sum(int((scores[inside] >= level[best]).sum()) for scores, inside in series)
    value = 100 * (float(total[best]) + MISSED * count) / (count + MISSED * count)
    false = sum(
        int((scores[probation(len(scores)) :][~inside[probation(len(scores)) :]] >= level[best]).sum())
        for scores, inside in series
    )
    assert inside_above >= found
    return Scored(value=value, threshold=float(level[best]), found=found, windows=count, false=false)
