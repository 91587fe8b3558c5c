"""How restless columns were from day to day in the rows a model learned from: what a loop knows before its own days do.

Days differ, and all rows of a day share its mood: thousands of rows are one draw of it. A profile keeps how the rows of
its newest days fell into its bins; from them windows are drawn again, day by day, each held against the other days.
Those are blocks like the loop's own quiet days (`measure.calibration`). Knows no windows of requests and no limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from everloop.measure.comparison import LEAST_PER_BIN, MOST_CATEGORY_BINS, group_of
from everloop.measure.profile import ColumnProfile, Profile, places
from everloop.measure.season import DAY, width_of

Floats = NDArray[np.float64]
MOST_DAYS = 112
"""Sixteen weeks: enough blocks where a window is a week."""
LEAST_ROWS = 300
"""A block with fewer rows says more of chance than of its day."""
MOST_WINDOWS = 24
"""Windows drawn of each day at most: more hardly raise the largest of them, for all of them share the day."""
MOST_MORE = 10.0
SEED = 20_240_101


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocks:
    """``means`` and ``peaks`` [blocks, signals] as `calibration.calibrate_blocks` takes them; ``days`` since 1970 on
    which each block began, oldest first.
    """

    signals: tuple[str, ...]
    days: tuple[int, ...]
    means: Floats
    peaks: Floats


def daily(profile: Profile, columns: Mapping[str, NDArray[Any]], times: NDArray[np.int64]) -> Profile:
    """The profile with its newest days, of the rows it was built from. ``times``: microseconds since the epoch.

    Not of what follows from texts and arrays: older rows made the space in which newer ones are seen.
    """
    day = times // DAY
    kept = np.unique(day)[-MOST_DAYS:]
    if len(kept) < 2:
        return profile
    which = np.searchsorted(kept, day, side="right") - 1
    inside = which >= 0
    found = dict(profile.columns)
    for name, column in profile.columns.items():
        if name not in columns or column.of:
            continue
        count = width_of(column) + 1  # missing first
        place = np.minimum(places(columns[name], column), count - 2) + 1
        table = np.bincount(which[inside] * count + place[inside], minlength=len(kept) * count)
        found[name] = replace(column, days=tuple(map(tuple, table.reshape(-1, count).tolist())))
    return replace(profile, columns=found, days=tuple(kept.tolist()))


def blocks(profile: Profile, *, rows: int, a_day: float, until: int) -> Blocks | None:
    """What windows of ``rows``, so many a day, would have shown on the profile's days before day ``until``.

    None where it keeps too few days. Windows longer than a day are made of days that follow one another.
    """
    length = max(1, round(1 / max(a_day, 1e-6)))
    days = np.array(profile.days, dtype=np.int64)
    if not len(days):
        return None
    block = (days - days[-1] - 1) // length  # counted from the end, so that the newest one is whole
    whole = np.flatnonzero(days < until)
    tables: dict[str, Floats] = {}
    for name, column in profile.columns.items():
        if column.days:
            tables |= _signals(name, column, np.array(column.days, dtype=np.float64), rows)
    if not len(whole) or not tables:
        return None
    known, which, spread = np.unique(block[whole], return_inverse=True, return_counts=True)
    starts = [int(days[whole][which == place].min()) for place in range(len(known))]
    total = np.zeros(len(known))
    np.add.at(total, which, next(iter(tables.values()))[whole].sum(axis=1))
    kept = (total >= LEAST_ROWS) & (spread * 2 > length)
    if kept.sum() < 2:
        return None
    summed = {}
    for name, table in tables.items():
        both = np.zeros((len(known), table.shape[1]))
        np.add.at(both, which, table[whole])
        summed[name] = both[kept]
    means, peaks = drawn(summed, rows=rows, a_day=a_day)
    return Blocks(
        signals=tuple(tables),
        days=tuple(start for start, good in zip(starts, kept.tolist(), strict=True) if good),
        means=means,
        peaks=peaks,
    )


def drawn(tables: Mapping[str, Floats], *, rows: int, a_day: float) -> tuple[Floats, Floats]:
    """Means and peaks [blocks, signals] in the order of ``tables``: of each signal rows [blocks, bins].

    A window is drawn from the rows of its day, so that it has their mood and noise of its own; where it is the whole
    day it is those rows. It is held against all other blocks: held against rows that it is among, a day would look
    quieter than it was.
    """
    random = np.random.default_rng(SEED)
    count = max(1, min(MOST_WINDOWS, round(a_day)))
    most = max(table.sum() for table in tables.values())
    means: list[Floats] = []
    peaks: list[Floats] = []
    for name, table in tables.items():
        others = table.sum(axis=0) - table
        now = table[:, None, :]
        if count > 1:
            there = np.maximum(table.sum(axis=1), 1.0)
            wanted = max(rows * table.sum() / most, 1.0)  # without the rows that miss it
            # What is drawn has the noise of the day's rows besides its own: so many more are drawn that both together
            # are the noise of a window, 1/drawn + 1/day = 1/window.
            size = wanted * there / np.maximum(there - wanted, there / MOST_MORE)
            size = np.broadcast_to(np.round(size).astype(np.int64)[:, None], (len(table), count))
            now = random.multinomial(size, (table / there[:, None])[:, None, :]).astype(np.float64)
        found = psi(others[:, None, :], now)
        if name.endswith(")") and table.shape[1] == 2:  # a share that falls is no alarm
            risen = now[..., 0] * others[:, None].sum(axis=-1) > others[:, None, 0] * now.sum(axis=-1)
            found = np.where(risen, found, 0.0)
        # The window before the first of a day is of the day before.
        before = np.concatenate([np.concatenate([found[:1, :1], found[:-1, -1:]]), found[:, :-1]], axis=1)
        means.append(found.mean(axis=1))
        peaks.append(np.minimum(found, before).max(axis=1))
    return np.stack(means, axis=1), np.stack(peaks, axis=1)


def psi(then: Floats, now: Floats) -> Floats:
    """`measure.distance.psi` of counts [..., bins], [...]."""
    p, q = (each + 0.5 for each in (then, now))
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    found: Floats = np.sum((q - p) * np.log(q / p), axis=-1)
    return found


def _signals(name: str, column: ColumnProfile, table: Floats, rows: int) -> dict[str, Floats]:
    """Signal → rows [days, bins], in the bins that a window of ``rows`` is judged in; names as `drift.Signal.name`."""
    values = table[:, 1:]
    if column.kind == "number":
        group = group_of(np.array(column.counts, dtype=np.float64), rows)
    else:
        wanted = max(1, min(len(column.values), MOST_CATEGORY_BINS, rows // LEAST_PER_BIN - 1))
        group = np.minimum(np.arange(values.shape[1]), wanted)
    merged = np.zeros((len(table), int(group.max()) + 1))
    for place, into in enumerate(group.tolist()):
        merged[:, into] += values[:, place]
    found = {name: merged} if merged.shape[1] > 1 else {}
    found[f"{name} (missing)"] = np.stack([table[:, 0], values.sum(axis=1)], axis=1)
    if column.kind == "category" and len(column.values) < values.shape[1]:
        found[f"{name} (new values)"] = np.stack([values[:, -1], values[:, :-1].sum(axis=1)], axis=1)
    return found
