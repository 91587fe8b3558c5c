"""Where time comes from. Knows nothing of schedules or of what is timed.

Pure functions take ``now``; only the outermost loop holds a clock. The simulated one is the clock of a replay.
"""

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    def now(self) -> datetime:
        """The instant, aware and in UTC."""
        ...

    def sleep(self, duration: timedelta) -> None:
        """Return when ``duration`` has passed on this clock."""
        ...


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def sleep(self, duration: timedelta) -> None:
        time.sleep(max(0.0, duration.total_seconds()))


class SimulatedClock:
    """A clock that stands still until it is moved; sleeping moves it. For replays and tests. Safe between threads.

    >>> clock = SimulatedClock(EPOCH)
    >>> clock.sleep(timedelta(hours=1)); clock.now().isoformat()
    '1970-01-01T01:00:00+00:00'
    """

    def __init__(self, start: datetime) -> None:
        self._now = start.astimezone(UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._now

    def sleep(self, duration: timedelta) -> None:
        with self._lock:
            self._now += max(timedelta(0), duration)

    def advance_to(self, instant: datetime) -> None:
        """Never backwards: an earlier instant changes nothing."""
        with self._lock:
            self._now = max(self._now, instant.astimezone(UTC))


def microseconds(instant: datetime) -> int:
    """Microseconds since 1970 in UTC, exactly.

    >>> microseconds(datetime(1970, 1, 2, tzinfo=UTC))
    86400000000
    """
    return (instant - EPOCH) // MICROSECOND


def instant(microseconds: int) -> datetime:
    """The reverse of `microseconds`.

    >>> instant(86400000000).isoformat()
    '1970-01-02T00:00:00+00:00'
    """
    return EPOCH + timedelta(microseconds=microseconds)
