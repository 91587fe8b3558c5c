"""Alerts by episode, and silences. Knows neither rules nor receivers."""

from datetime import datetime

from sqlalchemy import Connection, delete, insert, select, update

from everloop.clock import microseconds
from everloop.errors import NotFound
from everloop.records import Alert, Silence, decode, encode
from everloop.store.ledger.tables import alerts, silences


def put(connection: Connection, alert: Alert) -> None:
    """Write an episode as it now is; it is the one of its fingerprint and beginning."""
    kept = {"settled": alert.settled, "record": encode(alert).decode()}
    named = {"loop": alert.loop, "fingerprint": alert.fingerprint, "began": microseconds(alert.began)}
    where = [getattr(alerts.c, name) == value for name, value in named.items()]
    if not connection.execute(update(alerts).where(*where).values(kept)).rowcount:
        connection.execute(insert(alerts).values(named | kept))


def unsettled(connection: Connection, loop: str) -> tuple[Alert, ...]:
    """Those that fire, and those of whose end nobody was told yet; oldest first."""
    return _read(connection, loop, settled=False)


def of(connection: Connection, loop: str, *, newest: int = 50) -> tuple[Alert, ...]:
    """The newest episodes, oldest first, ended or not."""
    return _read(connection, loop, newest=newest)


def _read(
    connection: Connection, loop: str, *, settled: bool | None = None, newest: int | None = None
) -> tuple[Alert, ...]:
    query = select(alerts.c.record).where(alerts.c.loop == loop)
    if settled is not None:
        query = query.where(alerts.c.settled == settled)
    query = query.order_by(alerts.c.began.desc(), alerts.c.fingerprint)
    if newest is not None:
        query = query.limit(newest)
    return tuple(decode(row.record, Alert) for row in reversed(connection.execute(query).all()))


def silence(connection: Connection, silence: Silence) -> None:
    connection.execute(
        insert(silences).values(
            loop=silence.loop, id=silence.id, until=microseconds(silence.until), record=encode(silence).decode()
        )
    )


def unsilence(connection: Connection, loop: str, id: str) -> Silence:
    """End a silence now. Raises NotFound for one that there is not."""
    where = (silences.c.loop == loop, silences.c.id == id)
    row = connection.execute(select(silences).where(*where)).one_or_none()
    if row is None:
        raise NotFound(f"{loop} has no silence {id!r}; `everloop alerts list` names those that hold.")
    connection.execute(delete(silences).where(*where))
    return decode(row.record, Silence)


def silenced(connection: Connection, loop: str, *, now: datetime) -> tuple[Silence, ...]:
    """The silences that hold at ``now``."""
    query = select(silences.c.record).where(silences.c.loop == loop, silences.c.until > microseconds(now))
    return tuple(decode(row.record, Silence) for row in connection.execute(query.order_by(silences.c.id)))
