"""Experiments under their names, running or ended. Knows nothing of assignment, nor of who may start one.

Whether one runs is said by the release, which changes by compare-and-swap: `add` belongs into the transaction of the
release change that names it, and that of the change that no longer does sets ``stopped`` (`releases.change`).
"""

from dataclasses import replace
from datetime import datetime

from sqlalchemy import Connection, insert, select, update

from everloop.clock import instant, microseconds
from everloop.errors import NotFound, ReleaseError
from everloop.records import Experiment, decode, encode
from everloop.store.ledger.tables import experiments


def add(connection: Connection, experiment: Experiment) -> None:
    """Record an experiment. Raises ReleaseError for a name that was used before: ids were assigned under it."""
    if find(connection, experiment.loop, experiment.name) is not None:
        raise ReleaseError(
            f"{experiment.loop} has had an experiment {experiment.name!r} already; its name stands for its salt and its "
            "shares: give the new one another name."
        )
    connection.execute(
        insert(experiments).values(
            loop=experiment.loop,
            name=experiment.name,
            started=microseconds(experiment.started),
            stopped=None if experiment.stopped is None else microseconds(experiment.stopped),
            record=encode(replace(experiment, stopped=None)).decode(),
        )
    )


def stop(connection: Connection, loop: str, name: str, *, at: datetime) -> None:
    """Write down when it ended; the first time counts."""
    where = (experiments.c.loop == loop, experiments.c.name == name, experiments.c.stopped.is_(None))
    connection.execute(update(experiments).where(*where).values(stopped=microseconds(at)))


def find(connection: Connection, loop: str, name: str) -> Experiment | None:
    query = select(experiments).where(experiments.c.loop == loop, experiments.c.name == name)
    row = connection.execute(query).one_or_none()
    return None if row is None else _read(row.record, row.stopped)


def get(connection: Connection, loop: str, name: str) -> Experiment:
    """Raises NotFound for a name that was never used."""
    found = find(connection, loop, name)
    if found is None:
        known = ", ".join(each.name for each in of(connection, loop)) or "none"
        raise NotFound(f"{loop} has no experiment {name!r}; it has: {known}.")
    return found


def of(connection: Connection, loop: str) -> tuple[Experiment, ...]:
    """All experiments of a loop, oldest first."""
    query = select(experiments).where(experiments.c.loop == loop).order_by(experiments.c.started, experiments.c.name)
    return tuple(_read(row.record, row.stopped) for row in connection.execute(query))


def _read(record: str, stopped: int | None) -> Experiment:
    return replace(decode(record, Experiment), stopped=None if stopped is None else instant(stopped))
