"""Starts runs, executes those that are due, and changes their course. Knows nothing of what they do.

Several engines, in several processes, may work on one ledger. Recovery is nothing special: a run whose worker died
is due again.
"""

import secrets
import time
import traceback
from collections.abc import Callable, Container, Mapping
from contextlib import nullcontext
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import Connection, func, insert, select, update

from everloop.clock import Clock, instant, microseconds
from everloop.durable import journal, lease, schedules
from everloop.durable.run import Run
from everloop.durable.stops import Changed, Stop
from everloop.errors import DurableError, NotFound, StoreFull
from everloop.store.ledger import Ledger
from everloop.store.ledger.tables import runs, signals, steps
from everloop.store.ledger.tables import schedules as schedule_rows

Way = Literal["continue", "restart", "cancel"]
Function = Callable[[Run], Any]
WAYS: tuple[Way, ...] = ("continue", "restart", "cancel")


class Engine:
    """One worker. ``work`` may be called from several threads, each executing one run at a time."""

    def __init__(self, ledger: Ledger, clock: Clock, *, term: timedelta = timedelta(seconds=30)) -> None:
        """``term`` is how long a worker that hangs may hold a run; living ones renew at each third of it."""
        self._ledger, self._clock = ledger, clock
        self._owner = lease.owner()
        self._term = term // timedelta(microseconds=1)
        self._fences: dict[str, int] = {}
        self._keeper = lease.Keeper(self._renew, term.total_seconds() / 3)

    def close(self) -> None:
        """Stop renewing leases. Runs under way are for others to take."""
        self._keeper.close()

    def submit(
        self,
        name: str,
        loop: str,
        arguments: Any,
        code: str,
        *,
        key: str | None = None,
        due: datetime | None = None,
        connection: Connection | None = None,
    ) -> str:
        """Have the function ``name`` run, at ``due`` or at once; its id. The same ``key`` again is the same run.

        With ``connection`` it is submitted when that transaction commits.
        """
        with nullcontext(connection) if connection is not None else self._ledger.write() as within:
            return self._submit(within, name, loop, journal.text(arguments), code, key=key, due=due)

    def _submit(
        self, connection: Connection, name: str, loop: str, arguments: str, code: str,
        *, key: str | None = None, due: datetime | None = None, forked_from: str | None = None,
    ) -> str:  # fmt: skip
        if key is not None:
            known: str | None = connection.execute(select(runs.c.id).where(runs.c.key == key)).scalar_one_or_none()
            if known is not None:
                return known
        now = self._clock.now()
        run = f"{name}-{now:%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"
        row: dict[str, Any] = {"id": run, "name": name, "loop": loop, "key": key, "arguments": arguments, "code": code}
        row |= {"status": "ready", "submitted": microseconds(now), "due": microseconds(due or now)}
        row |= {"updated": microseconds(now), "fence": 0, "accepts": False, "forked_from": forked_from}
        connection.execute(insert(runs), row)
        return run

    def schedule(
        self, name: str, schedule: schedules.Schedule, function: str, loop: str, arguments: Any, code: str
    ) -> list[str]:
        """Submit a run for each tick of the schedule ``name`` that is due; their ids. The first time it only begins.

        A tick is one run, however many controllers ask. Ticks count from the last time this was asked.
        """
        now = self._clock.now()
        with self._ledger.write() as connection:
            last = connection.execute(
                select(schedule_rows.c.last).where(schedule_rows.c.name == name).with_for_update()
            ).scalar_one_or_none()
            ticks = schedules.due(schedule, None if last is None else instant(last), now)
            if last is None:
                connection.execute(insert(schedule_rows).values(name=name, last=microseconds(now)))
            elif microseconds(now) > last:
                asked = update(schedule_rows).where(schedule_rows.c.name == name)
                connection.execute(asked.values(last=microseconds(now)))
            return [
                self._submit(
                    connection, function, loop, journal.text({**arguments, "tick": tick.isoformat()}), code,
                    key=f"{name}@{tick.isoformat()}", due=tick,
                )
                for tick in ticks
            ]  # fmt: skip

    def work(
        self, functions: Mapping[str, Function], code: str, *, loop: str | None = None, limit: int | None = None
    ) -> int:
        """Execute the runs of these functions that are due, one after another, until none is; how many.

        A run that began under another code digest is set aside as ``needs-decision``. A run whose function raises
        has failed; StoreFull, and an exception that is no Exception (an interrupt), give the run back and pass.
        """
        executed = 0
        while limit is None or executed < limit:
            claimed = self._claim(functions, code, loop)
            if claimed is None:
                break
            self._execute(claimed, functions[claimed.name])
            executed += 1
        return executed

    def next_due(self, *, loop: str | None = None) -> datetime | None:
        """When the next run that waits for nothing but time is due; None if there is none."""
        query = select(func.min(runs.c.due)).where(runs.c.status.in_(("ready", "sleeping", "waiting")))
        with self._ledger.read() as connection:
            found = connection.execute(query if loop is None else query.where(runs.c.loop == loop)).scalar_one()
        return None if found is None else instant(found)

    def signal(self, run: str, name: str, payload: Any = None) -> None:
        """Send a run something that it waits for, or will wait for. Kept until a step takes it."""
        now = microseconds(self._clock.now())
        with self._ledger.write() as connection:
            row = self._open(connection, run)
            connection.execute(insert(signals).values(run=run, name=name, payload=journal.text(payload), at=now))
            if row.status == "waiting" and row.waiting == name:
                connection.execute(update(runs).where(runs.c.id == run).values(status="ready", due=now, updated=now))

    def cancel(self, run: str, because: str = "cancelled by command") -> None:
        """End a run. A worker that is in it loses it: it can write nothing more, and its ``stopped`` is set."""
        now = microseconds(self._clock.now())
        with self._ledger.write() as connection:
            self._open(connection, run)
            ended = {"status": "cancelled", "because": because, "owner": None, "updated": now}
            connection.execute(update(runs).where(runs.c.id == run).values(fence=runs.c.fence + 1, **ended))
        self._keeper.lose(run)

    def fork(self, run: str, step: str | int) -> str:
        """A new run of the same function that keeps what ``run`` finished before ``step`` (name or position from 0)."""
        with self._ledger.write() as connection:
            origin = self._row(connection, run)
            done = journal.recorded(connection, run)
            names = [name for name, _ in done]
            if isinstance(step, str) and step not in names:
                raise NotFound(f"The run {run} has finished no step {step!r}; it has finished: {', '.join(names)}.")
            position = names.index(step) if isinstance(step, str) else min(step, len(done))
            new = self._submit(connection, origin.name, origin.loop, origin.arguments, "", forked_from=run)
            for number, (name, result) in enumerate(done[:position]):
                at = microseconds(self._clock.now())
                copied = {"run": new, "position": number, "name": name, "result": result, "fence": 0}
                connection.execute(insert(steps), {**copied, "started": at, "ended": at})
            for each in connection.execute(select(signals).where(signals.c.run == run).order_by(signals.c.sequence)):
                taken = each.taken_by if each.taken_by is not None and each.taken_by < position else None
                copy = {"run": new, "name": each.name, "payload": each.payload, "at": each.at, "taken_by": taken}
                connection.execute(insert(signals).values(**copy))
        return new

    def decide(self, run: str, way: Way) -> None:
        """Let a run that ``needs-decision`` go on: ``continue`` with the new code after the steps that it finished,
        ``restart`` from the first step, or ``cancel``.
        """
        if way not in WAYS:
            raise DurableError(f"The way on is {way!r}; choose {', '.join(WAYS)}.")
        now = microseconds(self._clock.now())
        with self._ledger.write() as connection:
            row = self._row(connection, run)
            if row.status != "needs-decision":
                raise DurableError(f"The run {run} is {row.status}; only one that needs a decision can be decided.")
            changes: dict[str, Any] = {"status": "ready", "due": now, "code": "", "because": None, "updated": now}
            if way == "cancel":
                changes = {"status": "cancelled", "updated": now}
            elif way == "restart":
                journal.forget(connection, run, 0)
            else:
                changes["accepts"] = True
            connection.execute(update(runs).where(runs.c.id == run).values(fence=runs.c.fence + 1, **changes))

    def _claim(self, names: Container[str], code: str, loop: str | None) -> Run | None:
        now, real = microseconds(self._clock.now()), _real()
        query = journal.WORKABLE if loop is None else journal.WORKABLE_OF_LOOP
        asked = {"code": code, "loop": loop, "now": now}
        while True:
            with self._ledger.read() as connection:  # An idle worker takes no write lock.
                found = connection.execute(query, asked)
                row = next(journal.takeable(found, names, real, lease.surely_dead), None)
                found.close()
                if row is None:
                    return None
            with self._ledger.write() as connection:
                if row.fence > 0 and row.code not in (code, ""):
                    kept = len(journal.recorded(connection, row.id))
                    because = _parked(f"its code changed from {row.code[:12]} to {code[:12]}", kept)
                    parking = {"status": "needs-decision", "because": because, "owner": None, "updated": now}
                    journal.claim(connection, row, accepts=False, **parking)
                    continue
                claim = {"status": "running", "owner": self._owner, "lease": real + self._term, "code": code}
                if journal.claim(connection, row, waiting=None, updated=now, **claim):
                    finished = journal.recorded(connection, row.id) if row.fence or row.forked_from else []
                    self._fences[row.id] = row.fence + 1
                    return Run(self._ledger, self._clock, self._until, row, finished, row.fence + 1)

    def _execute(self, run: Run, function: Function) -> None:
        fence = self._fences[run.id]

        def leave(status: str, **changes: Any) -> None:
            at = microseconds(self._clock.now())
            with self._ledger.write() as connection:
                journal.held(connection, run.id, fence, status=status, owner=None, updated=at, **changes)

        with self._keeper.holding(run.id, run.stopped):
            try:
                try:
                    leave("done", result=journal.text(function(run)), because=None)
                except Changed as change:
                    leave("needs-decision", because=_parked(str(change), run.position), accepts=False)
                except StoreFull:
                    raise  # Nothing is wrong with the run: it is given back, and goes on when there is space.
                except Exception as error:
                    leave("failed", because=_reason(error))
            except Stop:
                return  # Parked in the journal, or somebody else's by now.
            except BaseException:
                leave("ready")
                raise
            finally:
                self._fences.pop(run.id, None)

    def _renew(self, run: str) -> bool:
        fence = self._fences.get(run)
        if fence is None:
            return True
        try:
            with self._ledger.write() as connection:
                journal.held(connection, run, fence, lease=self._until())
        except Stop:
            return False
        return True

    def _until(self) -> int:
        return _real() + self._term

    def _row(self, connection: Connection, run: str) -> Any:
        row = connection.execute(select(runs).where(runs.c.id == run)).one_or_none()
        if row is None:
            raise NotFound(f"There is no run {run!r}.")
        return row

    def _open(self, connection: Connection, run: str) -> Any:
        row = self._row(connection, run)
        if row.status in journal.ENDED:
            raise DurableError(f"The run {run} is {row.status} and takes nothing more; fork it to go on from a step.")
        return row


def _real() -> int:
    return time.time_ns() // 1_000


def _parked(why: str, finished: int) -> str:
    return (
        f"{why}; {finished} finished steps are kept. Decide: continue after them with the code as it is now, "
        "restart from the first step, or cancel."
    )


def _reason(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(frame.filename).name}:{frame.lineno})"
