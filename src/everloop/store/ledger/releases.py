"""Who serves what, now and before. Changed only by compare-and-swap, together with the decision behind it."""

from datetime import datetime

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import IntegrityError

from everloop.clock import microseconds
from everloop.errors import ReleaseConflict, ReleaseError
from everloop.records import Decision, Release, decode, encode
from everloop.store.ledger import decisions, experiments
from everloop.store.ledger.tables import releases


def get(connection: Connection, loop: str) -> Release:
    """The release as it is; an empty one, revision 0, before the first."""
    query = select(releases.c.record).where(releases.c.loop == loop).order_by(releases.c.revision.desc()).limit(1)
    record = connection.execute(query).scalar_one_or_none()
    return Release(loop=loop) if record is None else decode(record, Release)


def change(connection: Connection, expected_revision: int, release: Release, decision: Decision) -> Release:
    """Put ``release`` in force if the one in force has ``expected_revision``, and record the decision with it.

    ``release.revision`` is ``expected_revision`` + 1; the change counts from ``decision.at``. Raises ReleaseConflict,
    and records nothing, when somebody else changed it first.
    """
    if release.revision != expected_revision + 1 or decision.loop != release.loop:
        raise ReleaseError(
            f"A change of {release.loop} from revision {expected_revision} leads to {expected_revision + 1}, "
            f"not to {release.revision} of {decision.loop}."
        )
    present = get(connection, release.loop)
    if present.revision != expected_revision:
        raise _conflict(release.loop, expected_revision, present.revision)
    row = insert(releases).values(
        loop=release.loop,
        revision=release.revision,
        at=microseconds(decision.at),
        record=encode(release).decode(),
    )
    try:
        connection.execute(row)
    except IntegrityError:  # Where readers do not wait for writers, the key decides who was first.
        raise _conflict(release.loop, expected_revision, release.revision) from None
    if present.experiment is not None and present.experiment != release.experiment:
        experiments.stop(connection, release.loop, present.experiment, at=decision.at)
    decisions.add(connection, decision, revision=release.revision)
    return release


def at(connection: Connection, loop: str, time: datetime) -> Release | None:
    """The release that was in force at that time; None before the first."""
    query = (
        select(releases.c.record)
        .where(releases.c.loop == loop, releases.c.at <= microseconds(time))
        .order_by(releases.c.revision.desc())
        .limit(1)
    )
    record = connection.execute(query).scalar_one_or_none()
    return None if record is None else decode(record, Release)


def history(connection: Connection, loop: str) -> tuple[Release, ...]:
    """Every release, oldest first, one a revision; the decision of the same revision says when and why."""
    query = select(releases.c.record).where(releases.c.loop == loop).order_by(releases.c.revision)
    return tuple(decode(record, Release) for record in connection.execute(query).scalars())


def _conflict(loop: str, expected: int, present: int) -> ReleaseConflict:
    return ReleaseConflict(
        f"The release of {loop} is at revision {present}, not {expected}: somebody else changed it first; "
        "look at it again and decide anew."
    )
