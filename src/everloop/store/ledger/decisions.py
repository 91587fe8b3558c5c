"""What was decided, and why, for ever. Knows nothing of how."""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, insert, select

from everloop.clock import microseconds
from everloop.records import Decision, decode, encode
from everloop.store.ledger.tables import decisions


def add(connection: Connection, decision: Decision, *, revision: int | None = None) -> Decision:
    """Record a decision; ``revision`` is filled in by the release change that it belongs to."""
    if revision is not None and decision.revision != revision:
        decision = replace(decision, revision=revision)
    connection.execute(
        insert(decisions).values(
            loop=decision.loop,
            at=microseconds(decision.at),
            action=decision.action,
            version=decision.version,
            revision=decision.revision,
            run=decision.run,
            record=encode(decision).decode(),
        )
    )
    return decision


def of(
    connection: Connection,
    loop: str,
    *,
    version: int | None = None,
    run: str | None = None,
    since: datetime | None = None,
    newest: int | None = None,
) -> tuple[Decision, ...]:
    """Decisions of a loop in the order they were taken: all, or those of a version or run, or the newest few."""
    query = select(decisions.c.record).where(decisions.c.loop == loop).order_by(decisions.c.sequence.desc())
    if version is not None:
        query = query.where(decisions.c.version == version)
    if run is not None:
        query = query.where(decisions.c.run == run)
    if since is not None:
        query = query.where(decisions.c.at >= microseconds(since))
    if newest is not None:
        query = query.limit(newest)
    found = [decode(record, Decision) for record in connection.execute(query).scalars()]
    return tuple(reversed(found))
