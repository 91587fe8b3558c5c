"""Where one window of requests ends and the next begins: a stretch of time, or a number of rows. Knows no columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.clock import EPOCH, microseconds
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch.recent import newest

Integers = npt.NDArray[np.int64]
WEEK = timedelta(days=7)
STEP = timedelta(days=1)
LEAST_ROWS = 300
"""Thirty rows for each of ten bins."""
LIVE = ["champion", "challenger", "experiment", "route"]
"""The arms of requests that came from the world, once each: not shadows, fallbacks or what testers sent."""
MOST_AT_ONCE = 512
"""Windows that one look closes; a longer backlog is worked off look by look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    since: datetime
    until: datetime


def inside(since: datetime, until: datetime) -> pl.Expr:
    # Each live request once: whoever failed, its request came.
    return pl.col("at").is_between(moment(since), moment(until), closed="left") & pl.col("arm").is_in(LIVE)


def closed(lake: Lake, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
    """Every window that is full by ``now``, oldest first; the last one's end opens the next.

    A stretch of time with fewer than `LEAST_ROWS` rows goes on by its own length, at most a day at a time, until it
    has them. A window of rows ends just after its last row.
    """
    if isinstance(length, timedelta) and now - opened < length:
        return []
    return full(Arrivals.of(_times(lake, opened, now)), opened, length, now)


@dataclass(frozen=True, slots=True)
class Arrivals:
    """When rows came: ``times`` in microseconds since 1970, rising, and how many rows had come after each."""

    times: Integers
    total: Integers

    @classmethod
    def of(cls, times: pl.Series) -> Arrivals:
        """Of one row at each of these instants, in order."""
        found = times.to_physical().to_numpy().astype(np.int64)
        return cls(found, np.arange(1, len(found) + 1))

    def before(self, instant: datetime) -> int:
        place = int(np.searchsorted(self.times, microseconds(instant), side="left"))
        return int(self.total[place - 1]) if place else 0

    def after(self, count: int) -> datetime | None:
        """Just after the instant at which so many rows had come; None while they have not."""
        place = int(np.searchsorted(self.total, count, side="left"))
        return None if place == len(self.times) else EPOCH + timedelta(microseconds=int(self.times[place]) + 1)


def full(arrivals: Arrivals, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
    """The same of rows that came then, from ``opened`` to ``now``, oldest first."""
    if isinstance(length, int):
        return _of_rows(arrivals, opened, length)
    found: list[Window] = []
    step = min(STEP, length)
    while now - opened >= length and len(found) < MOST_AT_ONCE:
        until = opened + length
        before = arrivals.before(opened)
        while arrivals.before(until) - before < LEAST_ROWS and until + step <= now:
            until += step
        if arrivals.before(until) - before < LEAST_ROWS:
            break
        found.append(Window(since=opened, until=until))
        opened = until
    return found


def _of_rows(arrivals: Arrivals, opened: datetime, count: int) -> list[Window]:
    found: list[Window] = []
    place = arrivals.before(opened)
    while (until := arrivals.after(place + count)) is not None and len(found) < MOST_AT_ONCE:
        found.append(Window(since=opened, until=until))
        opened, place = until, arrivals.before(until)
    return found


def _times(lake: Lake, since: datetime, until: datetime) -> pl.Series:
    rows = newest(lake, PREDICTIONS, since=since, columns=["at"], where=inside(since, until))
    return rows.select("at").sort("at").collect()["at"]
