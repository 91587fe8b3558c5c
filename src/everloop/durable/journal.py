"""Runs and their finished steps, as rows. Knows nothing of the functions that are run.

Every write of a worker names the fence it was given when it claimed the run. Whoever claims it later gets a higher
one, so that a worker that only seemed dead can write nothing more.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    Text,
    and_,
    bindparam,
    delete,
    insert,
    or_,
    select,
    update,
)

from everloop.durable.stops import Lost
from everloop.records import encode
from everloop.store.ledger.tables import runs, signals, steps

OPEN = ("ready", "running", "sleeping", "waiting")
"""What may still go on by itself."""
ENDED = ("done", "failed", "cancelled")

_HELD = update(runs).where(runs.c.id == bindparam("b_id"), runs.c.fence == bindparam("b_fence"))
_HELD = _HELD.where(runs.c.status == "running")
# The fence is asked in the same statement; elsewhere than on SQLite the row is locked, so that nobody claims meanwhile.
_HOLDER = (
    select(
        runs.c.id,
        bindparam("position", type_=Integer),
        bindparam("name", type_=Text),
        bindparam("result", type_=Text),
        bindparam("started", type_=BigInteger),
        bindparam("ended", type_=BigInteger),
        runs.c.fence,
    )
    .where(runs.c.id == bindparam("run"), runs.c.fence == bindparam("fence"), runs.c.status == "running")
    .with_for_update()
)
RECORD = insert(steps).from_select(["run", "position", "name", "result", "started", "ended", "fence"], _HOLDER)


def text(value: Any) -> str:
    return encode(value).decode()


def value(stored: str | None) -> Any:
    return None if stored is None else msgspec.json.decode(stored)


def held(connection: Connection, run: str, fence: int, **changes: Any) -> None:
    """Change a run that this worker holds. Raises Lost when it does not hold it any more."""
    if connection.execute(_HELD, {"b_id": run, "b_fence": fence, **changes}).rowcount != 1:
        raise Lost(run)


def record(
    connection: Connection, run: str, fence: int, position: int, name: str, result: str, span: tuple[int, int]
) -> None:
    """Write a finished step of a run that this worker holds. Raises Lost when it does not hold it any more."""
    row = {"run": run, "position": position, "name": name, "result": result, "fence": fence}
    if connection.execute(RECORD, {**row, "started": span[0], "ended": span[1]}).rowcount != 1:
        raise Lost(run)


def recorded(connection: Connection, run: str) -> list[tuple[str, str]]:
    """Name and result, as JSON text, of each finished step, in order."""
    query = select(steps.c.name, steps.c.result).where(steps.c.run == run).order_by(steps.c.position)
    return [(name, result) for name, result in connection.execute(query)]


def forget(connection: Connection, run: str, position: int) -> None:
    """Forget the steps from ``position`` on; signals that they took can be taken again."""
    connection.execute(delete(steps).where(steps.c.run == run, steps.c.position >= position))
    taken = update(signals).where(signals.c.run == run, signals.c.taken_by >= position)
    connection.execute(taken.values(taken_by=None))


def take_signal(connection: Connection, run: str, name: str, position: int) -> str | None:
    """The payload, as JSON text, of the oldest signal that no step has taken; None if there is none."""
    free = and_(signals.c.run == run, signals.c.name == name, signals.c.taken_by.is_(None))
    found = connection.execute(select(signals).where(free).order_by(signals.c.sequence).limit(1)).one_or_none()
    if found is None:
        return None
    taken = update(signals).where(signals.c.sequence == found.sequence)
    connection.execute(taken.values(taken_by=position))
    payload: str = found.payload
    return payload


def _status(*values: str) -> ColumnElement[bool]:
    return or_(*(runs.c.status == value for value in values))


def _workable(of_one_loop: bool) -> Select[Any]:
    # Written out, because SQLAlchemy renders an IN anew each time.
    due = and_(_status("ready", "sleeping", "waiting"), runs.c.due <= bindparam("now"))
    changed = and_(_status(*OPEN), runs.c.fence > 0, runs.c.code != bindparam("code"), runs.c.code != "")
    query = select(runs).where(or_(due, changed, runs.c.status == "running"))
    if of_one_loop:
        query = query.where(runs.c.loop == bindparam("loop"))
    return query.order_by(runs.c.due, runs.c.submitted, runs.c.id)


WORKABLE, WORKABLE_OF_LOOP = _workable(False), _workable(True)
"""Runs that are due, that must be parked because their code changed, or that somebody holds; earliest first."""
_CLAIM = update(runs).where(
    runs.c.id == bindparam("b_id"),
    runs.c.fence == bindparam("b_fence"),
    runs.c.status == bindparam("b_status"),
    # Whoever held it may have renewed its lease meanwhile.
    or_(runs.c.status != "running", runs.c.lease == bindparam("b_lease")),
)


def claim(connection: Connection, row: Row[Any], **changes: Any) -> bool:
    """Change a run as it was when ``row`` was read; False when somebody else was first. Its fence rises by one."""
    seen = {"b_id": row.id, "b_fence": row.fence, "b_status": row.status, "b_lease": row.lease}
    return connection.execute(_CLAIM, {**seen, "fence": row.fence + 1, **changes}).rowcount == 1


def takeable(
    found: Iterable[Row[Any]], names: Container[str], real: int, gone: Callable[[str], bool]
) -> Iterator[Row[Any]]:
    """Runs of these functions that nobody living holds. ``real`` is the time now, ``gone`` says that an owner is dead."""
    for row in found:
        if row.name in names and (row.status != "running" or row.lease <= real or gone(row.owner)):
            yield row
