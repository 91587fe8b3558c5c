"""Reads and writes instants as requests bring them. Knows nothing of columns or requests.

Inside, an instant is int64 microseconds since 1970 in UTC.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

from everloop.clock import instant, microseconds


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


def reader(time_zone: str | None) -> Callable[[str], int]:
    """A function from ISO 8601 text to microseconds; it raises ValueError with what was expected.

    Naive text is read in ``time_zone``: of the hour that happens twice, the first; an hour that never was is read
    with the offset before it. Without a zone naive text is refused.
    """
    zone = _zone(time_zone) if time_zone else None

    def read(text: str) -> int:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError("an instant as ISO 8601 text or as integer microseconds since 1970 in UTC") from None
        if moment.tzinfo is None:
            if zone is None:
                raise ValueError("an instant with its offset from UTC, for example 2026-01-31T08:00:00Z")
            moment = moment.replace(tzinfo=zone)
        return microseconds(moment)

    return read


def text(value: int) -> str:
    """ISO 8601 in UTC, as keys are written.

    >>> text(86400000000)
    '1970-01-02T00:00:00+00:00'
    """
    return instant(value).astimezone(UTC).isoformat()
