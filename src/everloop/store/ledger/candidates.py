"""What was fitted, by the digest of snapshot, code and parameters. Knows nothing of the files."""

from sqlalchemy import Connection, insert, select

from everloop.errors import NotFound
from everloop.records import Candidate, decode, encode
from everloop.store.ledger.tables import candidates


def add(connection: Connection, candidate: Candidate) -> bool:
    """Record a candidate; False when it is there already."""
    if find(connection, candidate.digest) is not None:
        return False
    connection.execute(
        insert(candidates).values(digest=candidate.digest, loop=candidate.loop, record=encode(candidate).decode())
    )
    return True


def find(connection: Connection, digest: str) -> Candidate | None:
    record = connection.execute(select(candidates.c.record).where(candidates.c.digest == digest)).scalar_one_or_none()
    return None if record is None else decode(record, Candidate)


def get(connection: Connection, digest: str) -> Candidate:
    """Raises NotFound for an unknown digest."""
    found = find(connection, digest)
    if found is None:
        raise NotFound(f"There is no candidate {digest!r} in the ledger.")
    return found


def of(connection: Connection, loop: str) -> tuple[Candidate, ...]:
    """All candidates of a loop, oldest first."""
    query = select(candidates.c.record).where(candidates.c.loop == loop).order_by(candidates.c.sequence)
    return tuple(decode(record, Candidate) for record in connection.execute(query).scalars())
