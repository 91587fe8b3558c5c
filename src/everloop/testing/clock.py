"""A clock that goes when it is told to. Knows nothing of who reads it."""

import threading
from datetime import UTC, datetime, timedelta


class SimulatedClock:
    """Starts at ``start`` and moves only by `advance`, `set` and `sleep`, which returns at once.

    >>> clock = SimulatedClock(datetime(2024, 2, 28, tzinfo=UTC))
    >>> clock.sleep(timedelta(days=1))
    >>> clock.now().isoformat()
    '2024-02-29T00:00:00+00:00'
    """

    def __init__(self, start: datetime = datetime(2024, 1, 1, tzinfo=UTC)) -> None:
        if start.tzinfo is None:
            raise ValueError(f"The clock starts at {start.isoformat()}, which names no zone; write tzinfo=UTC.")
        self._now = start.astimezone(UTC)
        self._lock = threading.Lock()

    def now(self) -> datetime:
        return self._now

    def sleep(self, duration: timedelta) -> None:
        """Let ``duration`` pass without waiting for it."""
        self.advance(max(duration, timedelta(0)))

    def advance(self, duration: timedelta) -> datetime:
        """Move on by ``duration``; the instant it is then."""
        if duration < timedelta(0):
            raise ValueError(f"Time moves by {duration}, which is backwards; give a duration of zero or more.")
        with self._lock:
            self._now += duration
            return self._now

    def set(self, instant: datetime) -> datetime:
        """Move on to ``instant``; nothing happens if it has passed already."""
        with self._lock:
            self._now = max(self._now, instant.astimezone(UTC))
            return self._now
