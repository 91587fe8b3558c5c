"""What a function sees of its run: steps, sleeps, signals, progress. Knows nothing of who starts or resumes it.

The function is called again from its beginning after every interruption; what it did before is answered from the
journal, by position and name. So it must ask for the same steps in the same order, and do its work inside them.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from everloop.clock import Clock, instant, microseconds
from everloop.durable import crash, journal
from everloop.durable.stops import Changed, Parked
from everloop.errors import DurableError
from everloop.store.ledger import Ledger

LARGEST_RESULT = 1 << 20
PROGRESS_SECONDS = 0.5


class Run:
    """One execution. Its methods are for the thread that executes it; only ``stopped`` may be looked at by others."""

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        renewed: Callable[[], int],
        row: Any,
        finished: list[tuple[str, str]],
        fence: int,
    ) -> None:
        self.id: str = row.id
        self.name: str = row.name
        self.loop: str = row.loop
        self.arguments: Any = journal.value(row.arguments)
        self.submitted: datetime = instant(row.submitted)
        self.stopped = threading.Event()
        """Set when the run is cancelled or lost: a step that works for long may end early."""
        self._ledger, self._clock, self._renewed = ledger, clock, renewed
        self._fence = fence
        self._finished = finished
        self._accepts: bool = row.accepts
        self.position = 0
        self._inside: str | None = None
        self._told = float("-inf")

    def step(self, name: str, function: Callable[[], Any]) -> Any:
        """The function's result, which must be JSON: from the journal if it finished before, else by calling it now.

        It is called again if the process dies between its effect and the journal. So its effects must be such that
        the second time changes nothing: files named by content and renamed into place, changes under a key.
        """

        def body() -> str:
            result = journal.text(function())
            crash.reached(f"{self.name}.{name}.inside")
            return result

        return self._step(name, body, None)

    def commit(self, name: str, function: Callable[[Connection], Any]) -> Any:
        """A step that changes the ledger and nothing else: in one transaction with the journal, so exactly once."""

        def body(connection: Connection) -> str:
            result = journal.text(function(connection))
            crash.reached(f"{self.name}.{name}.inside")
            return result

        return self._step(name, None, body)

    def sleep(self, until: datetime, *, name: str = "sleep") -> None:
        """Go on at ``until`` or later. The worker is free meanwhile; the instant asked for first is the one kept."""

        def end() -> int:
            return microseconds(until)

        wake: int = self.step(name, end)
        if microseconds(self._clock.now()) < wake:
            self._park("sleeping", wake, None)

    def wait(self, signal: str, *, until: datetime | None = None) -> Any:
        """The payload of the next signal of that name, or None when ``until`` has come first. The worker is free."""
        deadline: int | None = None
        if until is not None:
            deadline = self.step(f"{signal}.until", lambda: microseconds(until))
        answered = self._answered(signal)
        if answered is not None:
            return journal.value(answered)
        now = microseconds(self._clock.now())
        with self._ledger.write() as connection:
            payload = journal.take_signal(connection, self.id, signal, self.position)
            if payload is None and (deadline is None or now < deadline):
                parking = {"status": "waiting", "due": deadline, "waiting": signal, "owner": None, "updated": now}
                journal.held(connection, self.id, self._fence, **parking)
            else:
                payload = payload or "null"
                journal.record(connection, self.id, self._fence, self.position, signal, payload, (now, now))
        if payload is None:
            raise Parked(self.id)
        self.position += 1
        return journal.value(payload)

    def progress(self, detail: Any) -> None:
        """Show how far the run is, any JSON; twice a second at most is written."""
        if time.monotonic() - self._told < PROGRESS_SECONDS:
            return
        self._told = time.monotonic()
        with self._ledger.write() as connection:
            journal.held(connection, self.id, self._fence, lease=self._renewed(), progress=journal.text(detail))

    def _step(self, name: str, body: Callable[[], str] | None, inside: Callable[[Connection], str] | None) -> Any:
        answered = self._answered(name)
        if answered is not None:
            return journal.value(answered)
        if self._inside is not None:
            raise DurableError(
                f"The step {name!r} was begun inside the step {self._inside!r}; begin it after that one."
            )
        self._inside = name
        try:
            crash.reached(f"{self.name}.{name}.before")
            started = microseconds(self._clock.now())
            result = _fitting(name, body()) if body is not None else ""
            ended = microseconds(self._clock.now())
            with self._ledger.write() as connection:
                if inside is not None:
                    journal.held(connection, self.id, self._fence, updated=ended)
                    result = _fitting(name, inside(connection))
                journal.record(connection, self.id, self._fence, self.position, name, result, (started, ended))
        finally:
            self._inside = None
        self.position += 1
        crash.reached(f"{self.name}.{name}.after")
        return journal.value(result)

    def _answered(self, name: str) -> str | None:
        """The result in the journal for the step at this position, as JSON text; None if it is still to be done."""
        if self.position >= len(self._finished):
            return None
        known, result = self._finished[self.position]
        if known == name:
            self.position += 1
            return result
        if not self._accepts:
            raise Changed(f"step {self.position + 1} was {known!r} when it ran and is {name!r} in the code now")
        # Somebody decided to continue: what was finished up to here stays, the rest is done by the new code.
        with self._ledger.write() as connection:
            journal.held(connection, self.id, self._fence, accepts=False)
            journal.forget(connection, self.id, self.position)
        del self._finished[self.position :]
        self._accepts = False
        return None

    def _park(self, status: str, due: int | None, waiting: str | None) -> None:
        now = microseconds(self._clock.now())
        with self._ledger.write() as connection:
            parking = {"status": status, "due": due, "waiting": waiting, "owner": None, "updated": now}
            journal.held(connection, self.id, self._fence, **parking)
        raise Parked(self.id)


def _fitting(name: str, result: str) -> str:
    if len(result) > LARGEST_RESULT:
        raise DurableError(
            f"The result of the step {name!r} has {len(result):,} bytes, more than {LARGEST_RESULT:,}; "
            "write it to a file named by its digest and return the digest."
        )
    return result
