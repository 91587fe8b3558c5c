"""Where one window of requests ends and the next begins: a stretch of time, or a number of rows. Knows no columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch.recent import newest

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
    return full(_times(lake, opened, now), opened, length, now)


def full(times: pl.Series, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
    """The same of rows with these times, from ``opened`` to ``now``, oldest first."""
    if isinstance(length, int):
        return _of_rows(times, opened, length)
    found: list[Window] = []
    step = min(STEP, length)
    while now - opened >= length and len(found) < MOST_AT_ONCE:
        until = opened + length
        before = _before(times, opened)
        while _before(times, until) - before < LEAST_ROWS and until + step <= now:
            until += step
        if _before(times, until) - before < LEAST_ROWS:
            break
        found.append(Window(since=opened, until=until))
        opened = until
    return found


def _of_rows(times: pl.Series, opened: datetime, count: int) -> list[Window]:
    found: list[Window] = []
    place = 0
    while place + count <= len(times) and len(found) < MOST_AT_ONCE:
        until = times[place + count - 1] + timedelta(microseconds=1)
        found.append(Window(since=opened, until=until))
        opened, place = until, _before(times, until)
    return found


def _times(lake: Lake, since: datetime, until: datetime) -> pl.Series:
    rows = newest(lake, PREDICTIONS, since=since, columns=["at"], where=inside(since, until))
    return rows.select("at").sort("at").collect()["at"]


def _before(times: pl.Series, instant: datetime) -> int:
    return int(times.search_sorted(instant, side="left")) if len(times) else 0
