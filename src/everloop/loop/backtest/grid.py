"""Where one scored window ends and the next begins. Knows rows by their times alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt

from everloop.clock import instant, microseconds
from everloop.errors import DataError
from everloop.loop.backtest.result import ScoredWindow
from everloop.spec.window import Everything, Last

Integers = npt.NDArray[np.int64]
Windows = timedelta | int | Literal["month"]
"""A stretch of time, a number of rows, or calendar months."""
DAY = timedelta(days=1)
LEAST_WINDOWS = 4
FEWEST_ROWS = 20
"""A last window with fewer rows than this is left out: it has no score worth showing."""
WISHED = (30, 200)
"""So many windows, when nobody says how long they are."""
USUAL: tuple[timedelta, ...] = (
    timedelta(days=28), timedelta(days=7), DAY, timedelta(hours=6), timedelta(hours=1), timedelta(minutes=10),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Windows and where they begin and end: window i is [edges[i], edges[i + 1]), rows [places[i], places[i + 1])."""

    windows: tuple[ScoredWindow, ...]
    edges: tuple[int, ...]
    """Microseconds since 1970 UTC, one more than there are windows."""
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.windows)


def grid(
    times: Integers, label_times: Integers, *, start: int, end: int, every: Windows, time_zone: str | None = None
) -> Grid:
    """Windows from ``start`` until ``end``, in microseconds. Raises DataError for fewer than four."""
    first, last = np.searchsorted(times, [start, end], side="left")
    if isinstance(every, int):
        edges = _of_rows(times, int(first), int(last), every)
    elif every == "month":
        edges = _months(start, end, time_zone)
    else:
        step = every // timedelta(microseconds=1)
        edges = [*range(start, end, step), end]
    edges = sorted(set(edges))
    if len(edges) > 2 and np.diff(np.searchsorted(label_times, edges[-2:]))[0] < FEWEST_ROWS:
        edges.pop()
    places = [int(each) for each in np.searchsorted(times, edges, side="left")]
    labelled = np.diff(np.searchsorted(label_times, edges, side="left"))
    if len(edges) - 1 < LEAST_WINDOWS:
        raise DataError(
            f"From {instant(start):%Y-%m-%d %H:%M} to {instant(end):%Y-%m-%d %H:%M} there are {len(edges) - 1} windows; a "
            f"backtest needs at least {LEAST_WINDOWS}. Write shorter --windows, an earlier --from, or bring more history."
        )
    windows = tuple(
        ScoredWindow(
            index=index, since=instant(edges[index]), until=instant(edges[index + 1]), rows=int(labelled[index])
        )
        for index in range(len(edges) - 1)
    )
    return Grid(windows=windows, edges=tuple(edges), places=tuple(places))


def usual(span: timedelta) -> timedelta:
    """How long windows are when nobody says: the longest usual stretch of which the history holds thirty."""
    return next((each for each in USUAL if span / each >= WISHED[0]), USUAL[-1])


def first_full(window: Last | Everything, label_times: Integers, delay: timedelta) -> int:
    """When a first whole training window has passed and its labels are known, in microseconds."""
    late = delay // timedelta(microseconds=1)
    if isinstance(window, Last) and isinstance(window.length, timedelta):
        return int(label_times[0]) + window.length // timedelta(microseconds=1) + late
    count = window.length if isinstance(window, Last) and isinstance(window.length, int) else 0
    count = count or max(200, len(label_times) // 10)
    return int(label_times[min(count, len(label_times) - 1)]) + late


def begin(
    windows: Sequence[Last | Everything],
    label_times: Integers,
    delay: timedelta,
    *,
    every: Windows,
    time_zone: str | None = None,
) -> tuple[int, str | None]:
    """Where all policies begin: when the longest training window is full, at most in the middle; why it is not, if so.

    Whole days begin at midnight.
    """
    wanted = max(first_full(each, label_times, delay) for each in windows)
    middle = int(label_times[len(label_times) // 2])
    note = None
    if wanted > middle:
        note = (
            f"The longest training window is full on {instant(wanted):%Y-%m-%d}, past the middle of the history; the first "
            "models learn from what there was."
        )
        wanted = middle
    if isinstance(every, int):
        return wanted, note
    return _midnight(wanted, time_zone) if every == "month" or every % DAY == timedelta(0) else wanted, note


def _midnight(moment: int, time_zone: str | None) -> int:
    """The first midnight at or after an instant."""
    local = instant(moment).astimezone(ZoneInfo(time_zone or "UTC"))
    floor = local.replace(hour=0, minute=0, second=0, microsecond=0)
    return microseconds(floor if floor == local else floor + DAY)


def _months(start: int, end: int, time_zone: str | None) -> list[int]:
    """The start, every first of a month in between, the end."""
    zone = ZoneInfo(time_zone or "UTC")
    local = instant(start).astimezone(zone)
    year, month = local.year, local.month
    edges = [start]
    while True:
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)
        edge = microseconds(datetime(year, month, 1, tzinfo=zone))
        if edge >= end:
            return [*edges, end]
        edges.append(edge)


def _of_rows(times: Integers, first: int, last: int, count: int) -> list[int]:
    """Edges so many rows apart; rows of one instant stay together."""
    edges = [int(times[place]) for place in range(first, last, count)]
    return [*edges, int(times[last - 1]) + 1] if last > first else edges
