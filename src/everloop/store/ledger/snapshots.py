"""Which rows each fit saw. Knows nothing of the rows."""

from sqlalchemy import Connection, insert, select

from everloop.errors import NotFound
from everloop.records import Snapshot, decode, encode
from everloop.store.ledger.tables import snapshots


def add(connection: Connection, snapshot: Snapshot) -> bool:
    """Record a snapshot; False when it is there already."""
    if find(connection, snapshot.digest) is not None:
        return False
    connection.execute(
        insert(snapshots).values(digest=snapshot.digest, loop=snapshot.loop, record=encode(snapshot).decode())
    )
    return True


def find(connection: Connection, digest: str) -> Snapshot | None:
    record = connection.execute(select(snapshots.c.record).where(snapshots.c.digest == digest)).scalar_one_or_none()
    return None if record is None else decode(record, Snapshot)


def get(connection: Connection, digest: str) -> Snapshot:
    """Raises NotFound for an unknown digest."""
    found = find(connection, digest)
    if found is None:
        raise NotFound(f"There is no snapshot {digest!r} in the ledger.")
    return found


def of(connection: Connection, loop: str) -> tuple[Snapshot, ...]:
    """All snapshots of a loop, oldest first."""
    query = select(snapshots.c.record).where(snapshots.c.loop == loop).order_by(snapshots.c.sequence)
    return tuple(decode(record, Snapshot) for record in connection.execute(query).scalars())
