"""Opens the ledger and hands out transactions. Knows nothing of what is in the tables.

SQLite: write-ahead log, every commit on disk before it returns, writers queue for up to thirty seconds. Another
database is given as an SQLAlchemy address, for example ``postgresql+psycopg://…``.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from everloop.errors import StoreError, StoreFull
from everloop.store.ledger import migrate
from everloop.store.ledger.begin import begin
from everloop.store.ledger.mounts import refuse_network

LEAST_BYTES = 1 << 16
BUSY_SECONDS = 30


class Ledger:
    """One database. Safe to use from several threads; each transaction has a connection of its own."""

    def __init__(self, engine: Engine, place: str) -> None:
        self._engine = engine
        self._place = place

    @classmethod
    def open(cls, place: str | Path) -> "Ledger":
        """Open the ledger at a path or an SQLAlchemy address, making or migrating it where needed.

        Raises StoreError for a network file system, a file that is no ledger, or one made by a newer everloop;
        StoreFull when there is no space.
        """
        path, url = _where(place)
        if path is not None:
            refuse_network(path)
            path.parent.mkdir(parents=True, exist_ok=True)
        shown = str(path) if path is not None else url.render_as_string()
        engine = _engine(url)
        try:
            with _translated(shown):
                migrate.bring_up(engine, path)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, shown)

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the ledger throughout. Writing in it is a mistake."""
        with _translated(self._place), self._engine.connect() as connection, connection.begin():
            begin(connection, "BEGIN")
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is committed, on disk, when the block ends, and undone when it raises.

        On SQLite it holds the one write lock from its first line on: what is read in it stays true.
        """
        with _translated(self._place), self._engine.begin() as connection:
            begin(connection, "BEGIN IMMEDIATE")
            yield connection

    def close(self) -> None:
        self._engine.dispose()


def _where(place: str | Path) -> tuple[Path | None, URL]:
    if isinstance(place, Path) or "://" not in place:
        path = Path(place).absolute()
        return path, URL.create("sqlite", database=str(path))
    url = make_url(place)
    if url.get_backend_name() == "sqlite":
        if not url.database or url.database == ":memory:":
            raise StoreError(
                f"The ledger's address is {place!r}, which is lost when the process ends; write the path of a file."
            )
        return Path(url.database).absolute(), url
    return None, url


def _engine(url: URL) -> Engine:
    if url.get_backend_name() != "sqlite":
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(
        url,
        poolclass=QueuePool,
        pool_size=4,
        max_overflow=64,
        connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def connected(connection: sqlite3.Connection, record: Any) -> None:
        # The driver would begin transactions by itself, late and without the write lock.
        connection.isolation_level = None
        connection.execute("PRAGMA synchronous=FULL")

    return engine


@contextmanager
def _translated(place: str) -> Iterator[None]:
    """Turn what the driver says into what a person can act on."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DBAPIError) else error
        said = str(cause).lower()
        full = "full" in said or "no space" in said or getattr(cause, "sqlstate", None) == "53100"
        if full or ("disk i/o" in said and _has_no_room(place)):
            raise StoreFull(f"There is no space left for the ledger {place}; nothing was half written.") from error
        if "database is locked" in said:
            raise StoreError(
                f"The ledger {place} has been locked by another writer for {BUSY_SECONDS} s; end that process."
            ) from error
        if "not a database" in said or "malformed" in said:
            raise StoreError(f"{place} is not a ledger ({cause}); name another file or restore a copy.") from error
        if "unable to open" in said or "readonly" in said or "disk i/o" in said:
            raise StoreError(f"The ledger {place} cannot be used: {cause}.") from error
        raise


def _has_no_room(place: str) -> bool:
    """Whether the disk has less left than SQLite asks for at once: then it speaks of input and output, not of space."""
    try:
        return shutil.disk_usage(Path(place).parent).free < LEAST_BYTES
    except OSError:
        return False
