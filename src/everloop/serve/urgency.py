"""How urgent a request is: its class and its deadline, as its client says them. Knows nothing of queues or models."""

from math import isfinite
from typing import Any, Protocol

from everloop.errors import RequestError

NEVER = float("inf")
GONE = float("-inf")
"""The deadline of a request whose client has left: whatever is done for it now comes too late."""
HIGH, NORMAL, LOW = 0, 1, 2
"""Priorities: a lower number goes first."""
DEADLINE = b"x-everloop-deadline-ms"
PRIORITY = b"x-everloop-priority"
PRIORITIES = {b"high": HIGH, b"normal": NORMAL, b"low": LOW}


class Asked(Protocol):
    """A request that waits. ``arrived`` and ``deadline`` are on the clock of time.perf_counter."""

    arrived: float
    deadline: float
    priority: int
    caller: Any


_read: dict[bytes, float] = {}
"""Times that were read before: a client has a few."""
REMEMBERED = 1024
LONGEST = 32
"""Bytes of a time: a longer one is no time, and would be remembered whole."""


def read(exchange: Asked, headers: dict[bytes, bytes]) -> None:
    """Write to the exchange what the headers say. Raises RequestError (400) for a value that says nothing."""
    wanted = headers.get(PRIORITY)
    if wanted is not None:
        priority = PRIORITIES.get(wanted)
        if priority is None:
            priority = PRIORITIES.get(wanted.lower())
        if priority is None:
            raise RequestError(f"x-everloop-priority is {_shown(wanted)}; send high, normal or low.")
        if priority != NORMAL:  # whoever the gate put behind that stays there
            prefer(exchange, priority)
    given = headers.get(DEADLINE)
    if given is not None:
        seconds = _read.get(given)
        if seconds is None:
            seconds = _seconds(given)
            if len(_read) < REMEMBERED:
                _read[given] = seconds
        exchange.deadline = exchange.arrived + seconds


def prefer(exchange: Asked, priority: int) -> None:
    """Give a request the class that it asks for, but nobody one ahead of where the gate has put him.

    A priority that is `LOW` before stays; a caller may have a ``priority``, the best that he may ask for.
    """
    allowed = getattr(exchange.caller, "priority", HIGH)
    exchange.priority = LOW if exchange.priority == LOW else max(priority, allowed)


def _seconds(given: bytes) -> float:
    try:
        milliseconds = float(given) if len(given) <= LONGEST else -1.0
    except ValueError:
        milliseconds = -1.0
    if not (isfinite(milliseconds) and milliseconds > 0 and b"_" not in given):
        raise RequestError(
            f"x-everloop-deadline-ms is {_shown(given)}; send the milliseconds within which the answer is of use, "
            "counted from the arrival of the request, such as 250."
        )
    return milliseconds / 1e3


def _shown(value: bytes) -> str:
    return repr(value[:40].decode(errors="replace"))
