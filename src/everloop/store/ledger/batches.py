"""Which files were taken in. Knows nothing of their rows."""

from sqlalchemy import Connection, delete, insert, select

from everloop.records import Batch, decode, encode
from everloop.store.ledger.tables import batches


def add(connection: Connection, batch: Batch) -> bool:
    """Record a batch; False when the same content was taken in before. A refused one may be tried again."""
    known = connection.execute(
        select(batches.c.refused).where(batches.c.loop == batch.loop, batches.c.digest == batch.digest)
    ).scalar_one_or_none()
    if known is False:
        return False
    if known is True:
        connection.execute(delete(batches).where(batches.c.loop == batch.loop, batches.c.digest == batch.digest))
    connection.execute(
        insert(batches).values(
            loop=batch.loop, digest=batch.digest, refused=batch.refused is not None, record=encode(batch).decode()
        )
    )
    return True


def known(connection: Connection, loop: str, *, refused: bool = True) -> frozenset[str]:
    """Digests of the contents that need no second look; without the refused ones if ``refused`` is False."""
    query = select(batches.c.digest).where(batches.c.loop == loop)
    if not refused:
        query = query.where(batches.c.refused.is_(False))
    return frozenset(connection.execute(query).scalars())


def of(connection: Connection, loop: str) -> tuple[Batch, ...]:
    """All batches of a loop, oldest first."""
    query = select(batches.c.record).where(batches.c.loop == loop).order_by(batches.c.sequence)
    return tuple(decode(record, Batch) for record in connection.execute(query).scalars())
