"""Batches requests. Knows nothing of models, HTTP or versions.

A batch is whatever arrived while the last one ran, as far as it is of use (everloop.serve.admission): there is no
timer. What takes less than a millisecond runs where it is, between two looks at the sockets; what takes longer runs
in one worker thread while the loop goes on accepting, and the next batch is handed over before the answers of the
last are written. Deferred work (shadow) runs only when nothing waits.
"""

import asyncio
import threading
from collections import deque
from queue import SimpleQueue
from time import perf_counter
from typing import Generic, Protocol, TypeVar

from everloop.serve.admission import Queue
from everloop.serve.waiting import Group, Job

INLINE_SECONDS = 0.001
DEFERRED_ROWS = 20_000
DEFERRED_SECONDS = 10.0
"""Above this deferred work is left out, or where it must be done no longer waits for a quiet moment (the rows)."""

J = TypeVar("J", bound=Job)
B = TypeVar("B")


class Work(Protocol[J, B]):
    """What is done with a batch. Only ``execute`` may run outside the loop's thread; it must not raise."""

    def prepare(self, jobs: list[J]) -> B: ...

    def seconds(self, batch: B) -> float:
        """How long ``execute`` will take."""
        ...

    def execute(self, batch: B) -> None: ...

    def complete(self, batch: B) -> None: ...

    def drop(self, jobs: list[J], seconds: float) -> None:
        """These came to wait for too long: they are not run. ``seconds``: how long what waits now will take."""
        ...

    def fail(self, jobs: list[J], error: Exception) -> None:
        """``prepare`` raised: answer all the same."""
        ...


class Batcher(Generic[J, B]):
    """``deferred`` are the rows of deferred work."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Work[J, B]) -> None:
        self.queue: Queue[J] = Queue()
        self.deferred = 0
        self._loop = loop
        self._work = work
        self._later: deque[tuple[B, int, bool]] = deque()
        self._owed = 0
        """Rows of deferred work that must be done."""
        self._scheduled = False
        self._busy = False
        self._began = 0.0
        self._ran: tuple[Group, int] | None = None
        """What the batch that runs is of, and how many rows it has; None for deferred work."""
        self._handed: SimpleQueue[B | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """The rows that wait."""
        return self.queue.rows

    @property
    def waiting_seconds(self) -> float:
        """How long until they all have run, as predicted."""
        return self.queue.seconds(perf_counter())

    def submit(self, job: J) -> None:
        """Raises RequestError (503) when it would be late or too much waits."""
        self.queue.push(job, perf_counter())
        if not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def submit_all(self, pieces: list[J]) -> None:
        """The pieces of one large request, all or none; raises as `submit` does."""
        self.queue.push_all(pieces, perf_counter())
        self._schedule()

    def largest(self, group: Group) -> int:
        """The most rows that go together now."""
        return self.queue.largest(group, perf_counter())

    def defer(self, batch: B, rows: int, *, owed: bool = False) -> None:
        """Run ``batch`` when nothing waits; one that is ``owed`` not too late even if something always does."""
        self._later.append((batch, rows, owed))
        self.deferred += rows
        if owed:
            self._owed += rows
        self._schedule()

    @property
    def idle(self) -> bool:
        return not (self.queue or self._later or self._busy)

    def close(self) -> None:
        if self._thread is not None:
            self._handed.put(None)
            self._thread.join()

    def _schedule(self) -> None:
        if (self.queue or self._later) and not self._scheduled and not self._busy:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        batch = None if self._busy else self._next()
        if batch is None:
            return
        seconds = self._work.seconds(batch)
        if seconds > INLINE_SECONDS:
            self._busy = True
            self.queue.until = self._began + seconds * self.queue.stretch
            self._hand_over(batch)
            return
        self._work.execute(batch)
        self._work.complete(batch)
        self._account()
        self._schedule()

    def _next(self) -> B | None:
        queue = self.queue
        while queue and self._owed <= DEFERRED_ROWS:
            self._began = perf_counter()
            jobs, late = queue.take(self._began)
            if late:
                self._work.drop(late, queue.seconds(self._began))
            if not jobs:
                continue
            self._ran = jobs[0].group, queue.taken
            try:
                return self._work.prepare(jobs)
            except Exception as error:
                self._work.fail(jobs, error)
        if self._later:
            batch, rows, owed = self._later.popleft()
            self.deferred -= rows
            if owed:
                self._owed -= rows
            self._began = perf_counter()
            self._ran = None
            return batch
        return None

    def _account(self) -> None:
        if self._ran is not None:
            self.queue.ran(*self._ran, perf_counter() - self._began)
            self._ran = None

    def _hand_over(self, batch: B) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work_on, name="models", daemon=True)
            self._thread.start()
        self._handed.put(batch)

    def _work_on(self) -> None:
        while (batch := self._handed.get()) is not None:
            self._work.execute(batch)
            self._loop.call_soon_threadsafe(self._done, batch)
            del batch  # until the next one comes it would keep a version in memory that may be gone by then

    def _done(self, batch: B) -> None:
        self._busy = False
        self._account()
        self._turn()
        self._work.complete(batch)
