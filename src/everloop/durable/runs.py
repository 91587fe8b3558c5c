"""Runs as a person wants to see them. Changes nothing."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Connection, Row, select

from everloop.clock import instant
from everloop.durable.journal import OPEN, value
from everloop.errors import NotFound
from everloop.store.ledger.tables import runs, steps

Status = Literal["ready", "running", "sleeping", "waiting", "needs-decision", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    id: str
    name: str
    loop: str
    arguments: Any
    status: Status
    submitted: datetime
    updated: datetime
    """When its status last changed."""
    due: datetime | None
    waiting: str | None
    """The signal it waits for."""
    progress: Any
    result: Any
    because: str | None
    """Why it failed, was cancelled or needs a decision."""
    forked_from: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StepState:
    name: str
    result: Any
    started: datetime
    ended: datetime


def of(
    connection: Connection,
    loop: str | None = None,
    *,
    name: str | None = None,
    status: Status | None = None,
    newest: int | None = None,
) -> tuple[RunState, ...]:
    """Runs, oldest first: of a loop, of a function, in a status, or the newest few of them."""
    query = select(runs).order_by(runs.c.submitted.desc(), runs.c.id.desc())
    for column, wanted in ((runs.c.loop, loop), (runs.c.name, name), (runs.c.status, status)):
        if wanted is not None:
            query = query.where(column == wanted)
    found = connection.execute(query if newest is None else query.limit(newest)).all()
    return tuple(_state(row) for row in reversed(found))


def under_way(connection: Connection, loop: str, *, name: str | None = None) -> tuple[RunState, ...]:
    """Runs of a loop that have not come to an end, those that need a decision among them."""
    # Asked at every look: a loop that has turned for years has thousands that came to their end.
    query = select(runs).where(runs.c.loop == loop, runs.c.status.in_((*OPEN, "needs-decision")))
    query = query.order_by(runs.c.submitted, runs.c.id)
    found = connection.execute(query if name is None else query.where(runs.c.name == name)).all()
    return tuple(_state(row) for row in found)


def get(connection: Connection, run: str) -> RunState:
    """Raises NotFound for an unknown id."""
    row = connection.execute(select(runs).where(runs.c.id == run)).one_or_none()
    if row is None:
        raise NotFound(f"There is no run {run!r}.")
    return _state(row)


def steps_of(connection: Connection, run: str) -> tuple[StepState, ...]:
    """The finished steps of a run, in order."""
    query = select(steps).where(steps.c.run == run).order_by(steps.c.position)
    return tuple(
        StepState(name=row.name, result=value(row.result), started=instant(row.started), ended=instant(row.ended))
        for row in connection.execute(query)
    )


_READ: dict[str, Callable[[Any], Any]] = {
    "submitted": instant,
    "updated": instant,
    "due": instant,
    "arguments": value,
    "progress": value,
    "result": value,
}


def _state(row: Row[Any]) -> RunState:
    stored = {each.name: row._mapping[each.name] for each in fields(RunState)}
    read: dict[str, Any] = {}
    for name, each in stored.items():
        read[name] = _READ[name](each) if name in _READ and each is not None else each
    return RunState(**read)
