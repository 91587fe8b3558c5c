"""Where time comes from. Knows nothing of schedules or of what is timed.

Pure functions take ``now``; only the outermost loop holds a clock. The simulated one lives in ``everloop.testing``.
"""

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
