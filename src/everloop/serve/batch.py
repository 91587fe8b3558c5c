"""Batches requests. Knows nothing of models, HTTP or versions.

A batch is whatever arrived while the last one ran: there is no timer. What takes less than a millisecond runs where it
is, between two looks at the sockets; what takes longer runs in one worker thread while the loop goes on accepting,
and the next batch is handed over before the answers of the last are written. Deferred work (shadow) runs only when
nothing waits.
"""

import asyncio
import threading
from collections import deque
from queue import SimpleQueue
from typing import Generic, Protocol, TypeVar

INLINE_SECONDS = 0.001
BATCH_ROWS = 4096
DEFERRED_ROWS = 20_000
"""Above this deferred work no longer waits for a quiet moment."""

J = TypeVar("J", bound="Job")
B = TypeVar("B")


class Job(Protocol):
    @property
    def size(self) -> int:
        """Rows."""
        ...

    @property
    def group(self) -> object:
        """Only jobs of one group go together."""
        ...


class Work(Protocol[J, B]):
    """What is done with a batch. Only ``execute`` may run outside the loop's thread; it must not raise."""

    def prepare(self, jobs: list[J]) -> B: ...

    def seconds(self, batch: B) -> float:
        """How long ``execute`` will take."""
        ...

    def execute(self, batch: B) -> None: ...

    def complete(self, batch: B) -> None: ...

    def fail(self, jobs: list[J], error: Exception) -> None:
        """``prepare`` raised: answer all the same."""
        ...


class Batcher(Generic[J, B]):
    """``waiting`` are the rows that wait, ``deferred`` the rows of deferred work."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work[J, B]) -> None:
        self.waiting = 0
        self.deferred = 0
        self._loop = loop
        self._work = work
        self._pending: deque[J] = deque()
        self._later: deque[tuple[B, int]] = deque()
        self._scheduled = False
        self._busy = False
        self._handed: SimpleQueue[B | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def submit(self, job: J) -> None:
        self._pending.append(job)
        self.waiting += job.size
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def defer(self, batch: B, rows: int) -> None:
        """Run ``batch`` when nothing waits."""
        self._later.append((batch, rows))
        self.deferred += rows
        self._schedule()

    @property
    def idle(self) -> bool:
        return not (self._pending or self._later or self._busy)

    def close(self) -> None:
        if self._thread is not None:
            self._handed.put(None)
            self._thread.join()

    def _schedule(self) -> None:
        if (self._pending or self._later) and not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        batch = None if self._busy else self._next()
        if batch is None:
            return
        if self._work.seconds(batch) > INLINE_SECONDS:
            self._busy = True
            self._hand_over(batch)
            return
        self._work.execute(batch)
        self._work.complete(batch)
        self._schedule()

    def _next(self) -> B | None:
        while self._pending and self.deferred <= DEFERRED_ROWS:
            jobs = self._take()
            try:
                return self._work.prepare(jobs)
            except Exception as error:
                self._work.fail(jobs, error)
        if self._later:
            batch, rows = self._later.popleft()
            self.deferred -= rows
            return batch
        return None

    def _take(self) -> list[J]:
        pending = self._pending
        first = pending.popleft()
        jobs, rows, group = [first], first.size, first.group
        while pending:
            job = pending[0]
            if job.group is not group or rows + job.size > BATCH_ROWS:
                break
            rows += job.size
            jobs.append(pending.popleft())
        self.waiting -= rows
        return jobs

    def _hand_over(self, batch: B) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work_on, name="models", daemon=True)
            self._thread.start()
        self._handed.put(batch)

    def _work_on(self) -> None:
        while (batch := self._handed.get()) is not None:
            self._work.execute(batch)
            self._loop.call_soon_threadsafe(self._done, batch)

    def _done(self, batch: B) -> None:
        self._busy = False
        self._turn()
        self._work.complete(batch)
