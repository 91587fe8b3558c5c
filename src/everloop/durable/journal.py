"""Runs and their finished steps, as rows. Knows nothing of the functions that are run.

Every write of a worker names the fence it was given when it claimed the run. Whoever claims it later gets a higher
one, so that a worker that only seemed dead can write nothing more.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, and_, bindparam, delete, insert, or_, select, update

from everloop.durable.stops import Lost
from everloop.records import encode
from everloop.store.ledger.tables import runs, signals, steps

OPEN = ("ready", "running", "sleeping", "waiting")
"""What may still go on by itself."""
ENDED = ("done", "failed", "cancelled")

_HELD = update(runs).where(runs.c.id == bindparam("b_id"), runs.c.fence == bindparam("b_fence"))
_HELD = _HELD.where(runs.c.status == "running")
_RECORD = insert(steps)


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
    """Write a finished step; ``held`` comes before it in the same transaction."""
    row = {"run": run, "position": position, "name": name, "result": result, "fence": fence}
    connection.execute(_RECORD, {**row, "started": span[0], "ended": span[1]})


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


def _workable(of_one_loop: bool) -> Select[Any]:
    due = and_(runs.c.status.in_(("ready", "sleeping", "waiting")), runs.c.due <= bindparam("now"))
    changed = and_(runs.c.status.in_(OPEN), runs.c.fence > 0, runs.c.code.not_in((bindparam("code"), "")))
    names = runs.c.name.in_(bindparam("names", expanding=True))
    query = select(runs).where(names, or_(due, changed, runs.c.status == "running"))
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


def takeable(found: Iterable[Row[Any]], real: int, gone: Callable[[str], bool]) -> Iterator[Row[Any]]:
    """Those of them that nobody living holds. ``real`` is the time now, ``gone`` says that an owner is dead."""
    for row in found:
        if row.status != "running" or row.lease <= real or gone(row.owner):
            yield row
