"""When a schedule ticks, and which of the ticks that nobody was there for are followed. Pure; knows no runs.

Whole days are counted on the calendar of the schedule's time zone, from Monday, 5 January 1970, at midnight: a daily
tick stays at midnight when the clocks change, a weekly one on Monday. Shorter periods are counted in UTC.
"""

from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from zoneinfo import ZoneInfo

CatchUp = Literal["last", "all", "skip"]

_DAY = timedelta(days=1)
_ANCHOR = datetime(1970, 1, 5)
_MOST = 100_000


class Schedule(Protocol):
    """What ``everloop.spec`` calls Every."""

    @property
    def period(self) -> timedelta: ...
    @property
    def time_zone(self) -> str: ...
    @property
    def catch_up(self) -> CatchUp: ...


def due(schedule: Schedule, last: datetime | None, now: datetime, *, grace: timedelta | None = None) -> list[datetime]:
    """The ticks in (last, now] that are to be followed, oldest first.

    ``last`` is when ticks were last asked for; None, the first time, follows nothing. ``catch_up`` says what becomes
    of several: the ``last`` one, ``all`` of them, or (``skip``) only one that is not later than ``grace``, by default
    a tenth of the period.
    """
    if last is None:
        return []
    passed = ticks(schedule, last, now)
    match schedule.catch_up:
        case "all":
            return passed
        case "last":
            return passed[-1:]
        case "skip":
            limit = schedule.period / 10 if grace is None else grace
            return [tick for tick in passed[-1:] if now - tick <= limit]


def ticks(schedule: Schedule, after: datetime, until: datetime) -> list[datetime]:
    """Every tick in (after, until], in UTC; the newest hundred thousand if there are more."""
    if until <= after:
        return []
    zone = ZoneInfo(schedule.time_zone) if schedule.period % _DAY == timedelta(0) else UTC
    # One period more on each side: a local day may be an hour shorter or longer.
    first = (after.astimezone(zone).replace(tzinfo=None) - _ANCHOR) // schedule.period - 1
    final = (until.astimezone(zone).replace(tzinfo=None) - _ANCHOR) // schedule.period + 1
    first = max(first, final - _MOST)
    found = (
        (_ANCHOR + number * schedule.period).replace(tzinfo=zone).astimezone(UTC) for number in range(first, final + 1)
    )
    # A day that a place has skipped (Samoa, 30 December 2011) begins when the next one does: one tick.
    return sorted({tick for tick in found if after < tick <= until})
