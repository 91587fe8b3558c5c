"""What rows look like at this hour, on this weekday: a reference that allows for the habits of days and weeks.

Knows nothing of windows or alarms. Slots are hours of the day or of the week, in UTC: where clocks change, a habit
moves by an hour for half of the year. Columns that follow no season are referred to by their slots just the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everloop.measure.profile import ColumnProfile, Profile, places

Season = Literal["", "day", "week"]
Floats = NDArray[np.float64]
SLOTS: dict[Season, int] = {"": 1, "day": 24, "week": 168}
LEAST_DAYS: dict[Season, int] = {"": 0, "day": 14, "week": 28}
"""Different days that a profile needs before it can know a season."""
LEAST_EFFECT = 0.02
"""The mean PSI-like distance between slots and all rows from which a season is worth its noise."""
LEAST_ROWS = 200
"""A slot with fewer rows borrows from the hours beside it, then from all days at its hour."""
MOST_VALUES = 19
"""Categories whose slots are kept; all others share one place."""
HOUR, DAY = 3_600_000_000, 86_400_000_000
MONDAY = 4 * DAY
"""The first Monday after the epoch, in microseconds."""


def slot_of(times: NDArray[np.int64], season: Season) -> NDArray[np.int64]:
    """The slot of each instant (microseconds since the epoch, UTC)."""
    if season == "":
        return np.zeros(len(times), dtype=np.int64)
    found: NDArray[np.int64] = ((times - MONDAY) // HOUR) % SLOTS[season]
    return found


def weights(times: NDArray[np.int64], season: Season) -> Floats:
    """How many rows fall into each slot."""
    return np.bincount(slot_of(times, season), minlength=SLOTS[season]).astype(np.float64)


def seasonal(
    profile: Profile,
    columns: Mapping[str, NDArray[Any]],
    times: NDArray[np.int64],
    *,
    season: Season | Literal["detect"] = "detect",
) -> Profile:
    """The profile with slots for a season, of the rows it was built from.

    ``times``: event times in microseconds since the epoch. "detect" takes the week if weekdays differ, else the day if
    hours do, else none. With fewer days than `LEAST_DAYS` there is none to know.
    """
    bins = {name: places(columns[name], column) for name, column in profile.columns.items() if name in columns}
    days = len(np.unique(times // DAY))
    if season == "detect":
        season = _detected(profile, bins, times) if days >= LEAST_DAYS["day"] else ""
    if season == "" or days < LEAST_DAYS[season]:
        return profile
    slot = slot_of(times, season)
    found = dict(profile.columns)
    for name, place in bins.items():
        count = width_of(profile.columns[name])
        here = place >= 0
        table = np.bincount(slot[here] * count + np.minimum(place[here], count - 1), minlength=SLOTS[season] * count)
        found[name] = replace(found[name], slots=tuple(tuple(row) for row in table.reshape(-1, count).tolist()))
    return replace(profile, columns=found, season=season)


def expected(profile: Profile, weight: Floats) -> Profile:
    """The reference for rows that fall into the slots as ``weight`` says: the profile, its counts as they would be.

    ``rows`` become what the mixture is worth, (Σw)²/Σ(w²/n): the fewer rows a slot has, the more its noise counts.
    """
    if profile.season == "" or not weight.sum():
        return profile
    return replace(
        profile,
        columns={
            name: _expected(column, weight / weight.sum()) if column.slots else column
            for name, column in profile.columns.items()
        },
    )


def _expected(column: ColumnProfile, weight: Floats) -> ColumnProfile:
    table = _table(column.slots)
    rows = table.sum(axis=1)
    if not rows.sum():
        return column
    used = (weight > 0) & (rows > 0)
    if not used.any():
        return column
    share = weight[used] / weight[used].sum()
    mixed = (share[:, None] * table[used] / rows[used, None]).sum(axis=0)
    worth = min(1.0 / float(np.sum(share**2 / rows[used])), float(column.present))
    present = max(round(worth), 1)
    counts = mixed * present
    missing = round(column.missing / max(column.present, 1) * present)
    if column.kind == "number":
        whole = _rounded(counts, present)
        grid = column.quantiles
        ends = (*grid[:2], *grid[-2:]) if len(grid) > 3 else ()
        return replace(column, counts=whole, quantiles=(), ends=ends, rows=present + missing, missing=missing)
    kept = min(len(column.values), MOST_VALUES)
    rest = np.array([*column.value_counts[kept:], column.other], dtype=np.float64)
    rest = counts[-1] * (rest / rest.sum() if rest.sum() else np.append(np.zeros(len(rest) - 1), 1.0))
    whole = _rounded(np.concatenate([counts[:kept], rest]), present)
    return replace(column, value_counts=whole[:-1], other=whole[-1], rows=present + missing, missing=missing)


def _rounded(counts: Floats, total: int) -> tuple[int, ...]:
    """Whole counts with the same sum: the largest remainders are rounded up."""
    whole = np.floor(counts).astype(np.int64)
    missing = max(0, total - int(whole.sum()))
    whole[np.argsort(whole - counts, kind="stable")[:missing]] += 1
    return tuple(whole.tolist())


def width_of(column: ColumnProfile) -> int:
    """Bins, or listed values with one place for all others."""
    if column.kind == "number":
        return len(column.edges) + 1
    return min(len(column.values), MOST_VALUES) + 1


@lru_cache(maxsize=512)
def _table(slots: tuple[tuple[int, ...], ...]) -> Floats:
    """Smoothed; a reference is asked for again at every window."""
    made = _smoothed(np.array(slots, dtype=np.float64))
    made.setflags(write=False)
    return made


def _smoothed(table: Floats) -> Floats:
    """Slots [slots, bins] with too few rows borrow."""
    made = table.copy()
    for reach in (1, 2):
        poor = made.sum(axis=1) < LEAST_ROWS
        wide = sum((np.roll(table, shift, axis=0) for shift in range(-reach, reach + 1)), np.zeros_like(table))
        made[poor] = wide[poor]
    if len(table) == SLOTS["week"]:
        hours = table.reshape(7, 24, -1).sum(axis=0)
        poor = made.sum(axis=1) < LEAST_ROWS
        made[poor] = np.tile(hours, (7, 1))[poor]
    poor = made.sum(axis=1) < LEAST_ROWS
    made[poor] = table.sum(axis=0)
    return made


def _detected(profile: Profile, bins: Mapping[str, NDArray[np.int64]], times: NDArray[np.int64]) -> Season:
    """Whether hours or weekdays differ, from two halves of the days: what the days of one slot have in common."""
    day = times // DAY
    weekday, hour = ((times - MONDAY) // DAY) % 7, (times // HOUR) % 24
    weeks = ((times - MONDAY) // (7 * DAY)) % 2 == 0
    found: Season = ""
    for season, slot, slots, first in (("day", hour, 24, day % 2 == 0), ("week", weekday, 7, weeks)):
        if len(np.unique(day)) < LEAST_DAYS[season]:  # type: ignore[index]
            continue
        for name, place in bins.items():
            if _effect(slot, slots, first, place, width_of(profile.columns[name])):
                found = season  # type: ignore[assignment]
                break
    return found


def _effect(
    slot: NDArray[np.int64], slots: int, first: NDArray[np.bool_], place: NDArray[np.int64], width: int
) -> bool:
    """Σ over slots and bins of (p₁ − p)(p₂ − p)/p with p₁ and p₂ from different days: noise of rows and of days has
    mean 0 there, a habit adds up.
    """
    here = place >= 0
    tables = []
    for part in (first & here, ~first & here):
        code = slot[part] * width + np.minimum(place[part], width - 1)
        tables.append(np.bincount(code, minlength=slots * width).reshape(slots, width).astype(np.float64))
    both = tables[0] + tables[1]
    kept = (tables[0].sum(axis=1) >= 30) & (tables[1].sum(axis=1) >= 30)
    bins = both.sum(axis=0) > 0
    if kept.sum() < 2 or bins.sum() < 2:
        return False
    overall = both[:, bins].sum(axis=0) / both.sum()
    moved = [each[kept][:, bins] / each[kept].sum(axis=1, keepdims=True) - overall for each in tables]
    rows = both[kept].sum(axis=1)
    share = rows / rows.sum()
    size = float(np.sum(share * (moved[0] * moved[1] / overall).sum(axis=1)))
    noise = float(np.sqrt(np.sum((share * 2 / rows) ** 2) * (bins.sum() - 1)))
    return size > max(LEAST_EFFECT, 5 * noise)
