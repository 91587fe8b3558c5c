"""Which loops this ledger knows, with their declarations as canonical JSON. Knows nothing of what those mean."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from everloop.clock import instant, microseconds
from everloop.errors import NotFound
from everloop.store.ledger.tables import loops


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A loop as it was last declared."""

    name: str
    spec: bytes
    digest: str
    folder: str
    at: datetime


def put(connection: Connection, name: str, spec: bytes, digest: str, folder: str, *, at: datetime) -> None:
    """Record the declaration of a loop in place of the one before. ``at`` moves only when something changed."""
    present = find(connection, name)
    if present is None:
        row = {"name": name, "spec": spec, "digest": digest, "folder": folder, "at": microseconds(at)}
        connection.execute(insert(loops).values(**row))
    elif (present.spec, present.digest, present.folder) != (spec, digest, folder):
        changed = update(loops).where(loops.c.name == name)
        connection.execute(changed.values(spec=spec, digest=digest, folder=folder, at=microseconds(at)))


def find(connection: Connection, name: str) -> Known | None:
    row = connection.execute(select(loops).where(loops.c.name == name)).one_or_none()
    if row is None:
        return None
    return Known(name=row.name, spec=row.spec, digest=row.digest, folder=row.folder, at=instant(row.at))


def get(connection: Connection, name: str) -> Known:
    """Raises NotFound for a loop that was never declared here."""
    found = find(connection, name)
    if found is None:
        others = ", ".join(names(connection)) or "none"
        raise NotFound(f"The ledger knows no loop named {name!r}; it knows: {others}.")
    return found


def names(connection: Connection) -> tuple[str, ...]:
    """All loops, in alphabetical order."""
    return tuple(connection.execute(select(loops.c.name).order_by(loops.c.name)).scalars())
