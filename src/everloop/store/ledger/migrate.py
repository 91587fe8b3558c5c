"""Brings a ledger to the present tables with Alembic. Knows nothing of their meaning.

A ledger that is up to date is recognised by one SELECT; Alembic is imported only for one that is not.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine

from everloop.errors import StoreError
from everloop.store.ledger.begin import begin

HEAD = "0003"
"""The newest revision in ``migrations/versions``."""
SCRIPTS = Path(__file__).parent / "migrations"
_ADVISORY = 6_012_331_071  # Any number, but always the same: it names our lock in Postgres.


def bring_up(engine: Engine, path: Path | None) -> None:
    """Migrate to `HEAD` unless already there; of several processes at once, one does it and the others wait."""
    if _revision(engine) == HEAD:
        return
    with _alone(engine, path):
        revision = _revision(engine)
        if revision == HEAD:
            return
        if path is not None:
            with engine.connect() as connection:
                _into_write_ahead_log(connection, path)
        _upgrade(engine, revision)


def _revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            tables = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'")
            if not tables.scalar_one():
                return None
        elif not engine.dialect.has_table(connection, "alembic_version"):
            return None
        found = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one_or_none()
        return None if found is None else str(found)


def _into_write_ahead_log(connection: Connection, path: Path) -> None:
    # Kept in the file for ever, so it is done once, before there are other users; not inside a transaction.
    driver = connection.connection.driver_connection
    assert driver is not None
    mode = driver.execute("PRAGMA journal_mode=WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(f"The ledger {path} cannot use a write-ahead log here (SQLite says {mode}); use a local disk.")


def _upgrade(engine: Engine, revision: str | None) -> None:
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.script.revision import ResolutionError
    from alembic.util import CommandError

    from everloop.store.ledger.tables import metadata

    config = Config()
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    try:
        if revision is not None:
            scripts.get_revision(revision)
    except (CommandError, ResolutionError):
        raise StoreError(
            f"The ledger is at revision {revision!r}, which this everloop does not know (it knows up to {HEAD!r}); "
            "a newer everloop has used it: install that one."
        ) from None

    def steps(current: str | tuple[str, ...], context: MigrationContext) -> list[object]:
        return list(scripts._upgrade_revs(HEAD, current))  # type: ignore[arg-type]

    # One transaction for all of it: a kill in between leaves the ledger as it was.
    with EnvironmentContext(config, scripts, fn=steps) as environment, engine.begin() as connection:
        begin(connection, "BEGIN IMMEDIATE")
        environment.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)
        environment.run_migrations()


@contextmanager
def _alone(engine: Engine, path: Path | None) -> Iterator[None]:
    if path is not None:
        with path.with_name(path.name + ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        return
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({_ADVISORY})")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"SELECT pg_advisory_unlock({_ADVISORY})")
