"""Packages under their numbers. Knows nothing of what is in a package."""

from datetime import datetime

from sqlalchemy import Connection, func, insert, select

from everloop.errors import NotFound
from everloop.records import Verdict, Version, decode, encode
from everloop.store.ledger.tables import versions


def add(
    connection: Connection,
    *,
    loop: str,
    package: str,
    snapshot: str,
    created_at: datetime,
    score: float,
    verdict: Verdict,
    trigger: str,
) -> Version:
    """Give a package the loop's next number. The same package again keeps the version it has."""
    existing = by_package(connection, package, loop=loop)
    if existing is not None:
        return existing
    last = connection.execute(select(func.max(versions.c.number)).where(versions.c.loop == loop)).scalar_one()
    version = Version(
        loop=loop,
        number=(last or 0) + 1,
        package=package,
        snapshot=snapshot,
        created_at=created_at,
        score=score,
        verdict=verdict,
        trigger=trigger,
    )
    connection.execute(
        insert(versions).values(loop=loop, number=version.number, package=package, record=encode(version).decode())
    )
    return version


def get(connection: Connection, loop: str, number: int) -> Version:
    """Raises NotFound for a number that was never given."""
    query = select(versions.c.record).where(versions.c.loop == loop, versions.c.number == number)
    # A number that no column can hold was never given either.
    record = connection.execute(query).scalar_one_or_none() if abs(number) < 1 << 31 else None
    if record is None:
        raise NotFound(f"{loop} has no version {number}; `everloop versions` lists them.")
    return decode(record, Version)


def of(connection: Connection, loop: str) -> tuple[Version, ...]:
    """All versions of a loop, oldest first."""
    query = select(versions.c.record).where(versions.c.loop == loop).order_by(versions.c.number)
    return tuple(decode(record, Version) for record in connection.execute(query).scalars())


def by_package(connection: Connection, package: str, *, loop: str | None = None) -> Version | None:
    """The version of a package; of the first loop that has it unless ``loop`` is named."""
    query = select(versions.c.record).where(versions.c.package == package).order_by(versions.c.loop)
    if loop is not None:
        query = query.where(versions.c.loop == loop)
    record = connection.execute(query.limit(1)).scalar_one_or_none()
    return None if record is None else decode(record, Version)
