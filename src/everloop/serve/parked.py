"""Requests that wait until they can go on, and then go through their handler again. Knows nothing of what they wait for.

Each waits no longer than its own deadline; no more wait than is good for the memory that was just made.
"""

import asyncio
import dataclasses
from collections.abc import Callable
from time import perf_counter

from everloop.errors import RequestError
from everloop.serve.exchange import Exchange
from everloop.serve.urgency import NEVER

BYTES = 64 * 2**20


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """What requests wait for."""

    now: str
    """A clause: "The model is being loaded"."""
    at_deadline: str
    """A sentence: "The model was still being loaded at the deadline."."""
    reason: str
    """What a refusal is counted under when too many wait or the wait was for nothing."""
    requests: int
    """So many wait at most."""


@dataclasses.dataclass(slots=True)
class _Waiting:
    size: int
    again: Callable[[], None]
    timer: asyncio.TimerHandle | None = None


class Parked:
    """Used in one event loop, the running one."""

    def __init__(self, cause: Cause) -> None:
        self._cause = cause
        self._waiting: dict[Exchange, _Waiting] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, exchange: Exchange, size: int, again: Callable[[], None]) -> None:
        """``again`` is called when it can go on. Raises RequestError (503) when too many wait, or it comes too late.

        ``size`` in bytes. Whoever comes alone is never too much.
        """
        cause = self._cause
        if self._waiting and (len(self._waiting) >= cause.requests or self._bytes + size > BYTES):
            raise RequestError(
                f"{cause.now} and too many wait for it already; ask again.", status=503, reason=cause.reason
            )
        waiting = _Waiting(size, again)
        if exchange.deadline != NEVER:
            left = exchange.deadline - perf_counter()
            if left <= 0:
                raise RequestError(f"{cause.now}; the answer would be late.", status=503, reason="deadline")
            waiting.timer = asyncio.get_running_loop().call_later(left, self._late, exchange)
        self._waiting[exchange] = waiting
        self._bytes += size

    def go_on(self) -> None:
        """All of them."""
        for exchange in list(self._waiting):
            self.go_on_with(exchange)

    def go_on_with(self, exchange: Exchange) -> None:
        """Only this one, if it still waits."""
        waiting = self._leave(exchange)
        if waiting is not None:
            waiting.again()

    def refuse(self, because: str) -> None:
        """None of them can go on."""
        for exchange in list(self._waiting):
            self._leave(exchange)
            exchange.refuse(503, because, reason=self._cause.reason, retry_after=1)

    def _leave(self, exchange: Exchange) -> _Waiting | None:
        waiting = self._waiting.pop(exchange, None)
        if waiting is not None:
            self._bytes -= waiting.size
            if waiting.timer is not None:
                waiting.timer.cancel()
        return waiting

    def _late(self, exchange: Exchange) -> None:
        if self._leave(exchange) is not None:
            exchange.refuse(503, self._cause.at_deadline, reason="deadline", retry_after=1)
