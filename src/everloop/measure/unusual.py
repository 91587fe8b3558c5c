"""How unusual each value of a series is, given all that came before it: for rates, latencies, loads. Knows no limits.

A value is held against what the days before had at the same time (their median), and its distance from that against how
far values usually are from it: in standard deviations of the newest `REMEMBERED`. Both as it is and on a logarithmic
scale, and the mean of the two: what is counted or waits varies by factors. Scored beside others by ``bench.watch nab``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

DAYS = 7
"""So many days before give the usual value of a time of day."""
REMEMBERED = 6_400
LEAST = 10
"""Values before the first that can be unusual."""
QUIET = 150


def surprise(values: Floats, *, period: int | None = None) -> Floats:
    """Standard deviations [n] between each value and what was usual before it; 0 for the first `LEAST`.

    ``values``: float64 [n], equally spaced, oldest first; NaN where nothing was measured (never unusual). ``period``:
    values a day, None where there is no daily cycle to allow for. Value k depends on values up to k alone.

    >>> surprise(np.array([5.0, 6.0] * 10 + [50.0])).round(0).tolist()[-2:]
    [1.0, 58.0]
    """
    x = np.asarray(values, dtype=np.float64)
    plain = _apart(x, period)
    return (plain + _apart(np.sign(x) * np.log1p(np.abs(x)), period)) / 2


def beginnings(surprises: Floats, *, quiet: int = QUIET) -> Floats:
    """Surprises [n] that exceed all of the ``quiet`` before them, else 0: an episode is told once, when it begins."""
    before = np.full(len(surprises), -np.inf)
    for back in range(1, min(quiet, len(surprises) - 1) + 1):
        np.maximum(before[back:], surprises[:-back], out=before[back:])
    return np.where(surprises > before, surprises, 0.0)


def _apart(x: Floats, period: int | None) -> Floats:
    off = x - _usual(x, period)
    known = np.isfinite(off)
    filled = np.where(known, off, 0.0)
    # Sums of what came before, shifted by the first values against rounding; that changes no distance.
    centre = float(np.median(filled[known][:LEAST])) if known.any() else 0.0
    count, total, squares = (
        _before(each) for each in (known.astype(np.float64), np.where(known, off - centre, 0), np.where(known, (off - centre) ** 2, 0))
    )  # fmt: skip
    enough = np.maximum(count, 1)
    mean = total / enough
    spread = np.sqrt(np.maximum(squares / enough - mean**2, 0))
    least = 1e-9 + 1e-6 * np.abs(np.where(np.isfinite(x), x, 0))
    far = np.abs(filled - centre - mean) / np.maximum(spread, least)
    return np.where(known & (count >= LEAST), far, 0.0)


def _before(values: Floats) -> Floats:
    """The sum of the `REMEMBERED` values before each."""
    cumulated = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    found: Floats = cumulated[places] - cumulated[np.maximum(places - REMEMBERED, 0)]
    return found


def _usual(x: Floats, period: int | None) -> Floats:
    """The median of the same time of the days before; NaN until a day is over, 0 where there is no period."""
    if period is None or period < 2 or 2 * period > len(x):
        return np.zeros(len(x))
    days = np.full((DAYS, len(x)), np.nan)
    for day in range(1, DAYS + 1):
        if day * period < len(x):
            days[day - 1, day * period :] = x[: -day * period]
    usual = np.zeros(len(x))
    some = np.isfinite(days).any(axis=0)
    usual[some] = np.nanmedian(days[:, some], axis=0)
    usual[~some] = np.nan
    return usual
