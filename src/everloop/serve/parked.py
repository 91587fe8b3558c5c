"""Requests that wait for a model to come back into memory. Knows nothing of models or of what the requests ask.

Each waits no longer than its own deadline; no more wait than is good for the memory that was just made.
"""

import asyncio
from collections.abc import Callable
from time import perf_counter

from everloop.errors import RequestError
from everloop.serve.exchange import Exchange
from everloop.serve.urgency import NEVER

REQUESTS = 1000
BYTES = 64 * 2**20


class Parked:
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Exchange, tuple[Callable[[], None], asyncio.TimerHandle | None]] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, exchange: Exchange, size: int, again: Callable[[], None]) -> None:
        """``again`` is called when it can go on. Raises RequestError (503) when too many wait, or it comes too late."""
        if len(self._waiting) >= REQUESTS or self._bytes + size > BYTES:
            raise RequestError(
                "The model is being loaded and too many wait for it already; ask again.", status=503, reason="loading"
            )
        timer = None
        if exchange.deadline != NEVER:
            left = exchange.deadline - perf_counter()
            if left <= 0:
                raise RequestError(
                    "The model is being loaded; the answer would be late.", status=503, reason="deadline"
                )
            timer = self._loop.call_later(left, self._late, exchange)
        self._waiting[exchange] = again, timer
        self._bytes += size

    def go_on(self) -> None:
        for again in self._leave():
            again()

    def refuse(self, because: str) -> None:
        """None of them can go on."""
        waiting = list(self._waiting)
        self._leave()
        for exchange in waiting:
            exchange.refuse(503, because, reason="loading", retry_after=1)

    def _leave(self) -> list[Callable[[], None]]:
        waiting, self._waiting, self._bytes = self._waiting, {}, 0
        for _, timer in waiting.values():
            if timer is not None:
                timer.cancel()
        return [again for again, _ in waiting.values()]

    def _late(self, exchange: Exchange) -> None:
        if self._waiting.pop(exchange, None) is not None:
            exchange.refuse(503, "The model was still being loaded at the deadline.", reason="deadline", retry_after=1)
