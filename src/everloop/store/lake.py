"""The lake of one loop: append-only Delta tables with time travel. Knows nothing of what a row means.

Every append is one atomic commit that may carry a note; what was committed stays readable at its version for ever:
small files are merged by and by, but nothing that an old version needs is ever removed.
"""

import json
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from everloop.clock import microseconds
from everloop.errors import DataError, NotFound, SchemaChanged, StoreError, StoreFull
from everloop.records import Outcome
from everloop.store import commits
from everloop.store.commits import Commit
from everloop.store.opened import Opened, schema_of

RAW = "raw"
QUARANTINE = "quarantine"
OUTCOMES = "outcomes"
PREDICTIONS = "predictions"

INSTANT = pl.Datetime("us", "UTC")
OUTCOME_SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "name": pl.String(),
        "value_text": pl.String(),
        "value_number": pl.Float64(),
        "at": INSTANT,
        "_batch": pl.String(),
    }
)
"""A number or boolean (1, 0) stands in value_number, a text in value_text, an integer beyond 2**53 in both."""

COMPACT_EVERY = 50
"""Commits between two merges of small files: an append costs more the more files a table has."""
FILE_SIZE = 16 << 20
"""Files of this size are left alone by a merge, so that a big table is not rewritten again and again."""
ATTEMPTS = 100
"""Each lost attempt means that somebody else's commit went through."""
OLD_TABLES = 8
"""Old versions that stay open: what a turn reads, it reads more than once."""

# Old versions must stay readable for ever, so the log is never cleaned. It holds no statistics of columns: long texts
# would bloat it, each commit would cost more, and the files carry their own.
_CONFIGURATION = {
    "delta.logRetentionDuration": "interval 36500 days",
    "delta.enableExpiredLogCleanup": "false",
    "delta.checkpointInterval": str(COMPACT_EVERY),
    "delta.dataSkippingNumIndexedCols": "0",
}
_FULL = (
    *("No space left", "os error 28", "StorageFull", "os error 122", "Disk quota", "os error 27"),
    *("File too large", "FileTooLarge"),
)

T = TypeVar("T")


class Lake:
    """Delta tables under one folder. May be shared by threads; other processes may append at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._open: dict[str, Opened] = {}
        self._old: dict[tuple[str, int], DeltaTable] = {}
        self._lock = threading.RLock()

    def exists(self, table: str) -> bool:
        return self._opened(table) is not None

    def tables(self) -> list[str]:
        """The names of all tables, sorted."""
        return sorted(log.parent.name for log in self.root.glob("*/_delta_log") if self.exists(log.parent.name))

    def version(self, table: str) -> int:
        """The newest version; -1 where there is no table yet."""
        seen = self._opened(table)
        return -1 if seen is None else seen.version

    def schema(self, table: str, *, version: int | None = None) -> pl.Schema:
        """Column types at a version; empty where there is no table yet."""
        seen = self._opened(table)
        if version is not None and version >= 0 and (seen is None or version != seen.version):
            return schema_of(self._at(table, version))
        return pl.Schema() if seen is None or (version is not None and version < 0) else seen.schema

    def append(self, table: str, frame: pl.DataFrame, *, note: Mapping[str, str] | None = None) -> int:
        """Add rows in one commit and return the new version. New columns widen the table; missing ones become null.

        An empty frame makes a commit too, for its note. A column of another type raises SchemaChanged, a full disk
        StoreFull; in both cases the table is as it was.
        """
        with self._lock:
            version = self._appended(table, frame, dict(note or {}))
            if version > 0 and version % COMPACT_EVERY == 0:
                self._compact_quietly(table)
            return version

    def read(
        self,
        table: str,
        *,
        version: int | None = None,
        columns: Sequence[str] | None = None,
        where: pl.Expr | None = None,
    ) -> pl.DataFrame:
        """Rows at a version (the newest by default); an empty frame where there is no table. In no order."""
        if version is not None and version < 0:
            return pl.DataFrame()
        if version is None:
            seen = self._opened(table)
            if seen is None:
                return pl.DataFrame()
            with self._lock:
                rows = pl.scan_delta(seen.current())
        else:
            rows = pl.scan_delta(self._at(table, version))
        if where is not None:
            rows = rows.filter(where)
        if columns is not None:
            rows = rows.select(columns)
        try:
            return rows.collect()
        except (FileNotFoundError, pl.exceptions.ComputeError) as error:
            raise DataError(
                f"Table {table} at version {version} cannot be read: {_first_line(error)}. A file of the lake at "
                f"{self._path(table)} is missing or damaged; restore it from a copy."
            ) from error

    def history(self, table: str) -> list[dict[str, Any]]:
        """Every commit, oldest first: version, at (wall clock), operation, rows (added), note."""
        with self._lock:
            seen = self._told(table)
            return [] if seen is None else [each.entry() for each in seen.history]

    def last_note(self, table: str, name: str) -> str | None:
        """What the newest commit whose note has that name says under it; None where none has."""
        with self._lock:
            seen = self._opened(table)
            for version in range(-1 if seen is None else seen.version, -1, -1):
                assert seen is not None
                note = seen.commit(version).note
                if name in note:
                    return note[name]
        return None

    def batch(self, digest: str, table: str = RAW) -> dict[str, Any] | None:
        """The history entry of the commit that brought a batch; None when none has."""
        with self._lock:
            seen = self._told(table)
            found = None if seen is None else seen.batches.get(digest)
        return None if found is None else found.entry()

    def batches(self, table: str = RAW) -> dict[str, dict[str, Any]]:
        """Digest of each batch that was committed to a table → its history entry."""
        with self._lock:
            seen = self._told(table)
            return {} if seen is None else {digest: each.entry() for digest, each in seen.batches.items()}

    def contains_batch(self, digest: str, table: str = RAW) -> bool:
        with self._lock:
            seen = self._told(table)
            return seen is not None and digest in seen.batches

    def diff(self, table: str, from_version: int, to_version: int) -> pl.DataFrame:
        """The rows added after ``from_version`` up to and with ``to_version``. Merging of files adds none."""
        if not -1 <= from_version <= to_version <= self.version(table):
            raise NotFound(
                f"Table {table} has versions 0 to {self.version(table)}; a difference from {from_version} to "
                f"{to_version} asks for others. Give an older and a newer version among them."
            )
        seen = self._opened(table)
        if seen is None or from_version == to_version:
            return self.schema(table, version=to_version).to_frame()
        schema = self.schema(table, version=to_version)
        parts: list[pl.DataFrame] = []
        paths: list[Path] = []
        with self._lock:
            for version in range(from_version + 1, to_version + 1):
                if version in seen.fresh:
                    parts.append(_aligned(seen.fresh[version], schema, table))
                else:
                    paths += [self._path(table) / file for file in seen.commit(version).added]
        if paths:
            found = pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore")
            parts.insert(0, found.collect())
        return pl.concat(parts, rechunk=False) if parts else schema.to_frame()

    def compact(self, table: str) -> None:
        """Merge small files. Rows, their old versions and differences stay as they are."""
        seen = self._opened(table)
        if seen is not None:
            with self._lock:
                current = seen.current()
                self._written(table, lambda: current.optimize.compact(target_size=FILE_SIZE))
                # Whoever opens the table reads the log from here.
                self._written(table, current.create_checkpoint)

    def _appended(self, table: str, frame: pl.DataFrame, note: dict[str, str]) -> int:
        for _ in range(ATTEMPTS):
            seen = self._opened(table)
            aligned = _aligned(frame, pl.Schema() if seen is None else seen.schema, table)
            if seen is None or not seen.plain or aligned.width > len(seen.schema):
                try:
                    self._widened(table, seen, aligned, note)
                except CommitFailedError:
                    # Somebody else widened or made the table first: look again and repeat.
                    self._open.pop(table, None)
                    continue
                return self.version(table)
            version = self._written(table, partial(self._added, table, seen, aligned, note))
            if version is not None:
                return version
        raise StoreError(
            f"Table {table} at {self._path(table)} was changed by others {ATTEMPTS} times while a commit was tried. "
            f"Nothing was added; repeat it when fewer write at once."
        )

    def _widened(self, table: str, seen: Opened | None, rows: pl.DataFrame, note: dict[str, str]) -> None:
        """Make a table, or append rows that bring new columns."""
        self._written(
            table,
            lambda: write_deltalake(
                self._path(table) if seen is None else seen.current(),
                rows,
                mode="append",
                schema_mode="merge",
                configuration=_CONFIGURATION if seen is None else None,
                commit_properties=CommitProperties(custom_metadata={"note": json.dumps(note)} if note else None),
            ),
        )

    def _added(self, table: str, seen: Opened, rows: pl.DataFrame, note: dict[str, str]) -> int | None:
        """Append rows of the table's own columns; None when somebody else changed the columns meanwhile."""
        folder = self._path(table)
        file = f"part-{uuid.uuid4()}.parquet" if len(rows) else None
        done: Commit | None = None
        try:
            if file is not None:
                rows.write_parquet(folder / file, compression="snappy")
            schema = seen.schema
            while done is None and seen.plain and seen.schema == schema:
                done = commits.append(folder, seen.version + 1, file=file, rows=len(rows), note=note)
                if done is None:
                    seen.catch_up()
        finally:
            if done is None and file is not None:
                with suppress(OSError):
                    (folder / file).unlink()
        if done is None:
            return None
        seen.made(done, rows)
        return done.version

    def _compact_quietly(self, table: str) -> None:
        # The rows are committed already; a merge that lost a race or found no space is simply tried later.
        try:
            self.compact(table)
        except (CommitFailedError, StoreError):
            self._open.pop(table, None)

    def _path(self, table: str) -> Path:
        return self.root / table

    def _opened(self, table: str) -> Opened | None:
        with self._lock:
            seen = self._open.get(table)
            if seen is not None:
                seen.catch_up()
                return seen
            try:
                fresh = DeltaTable(self._path(table))
            except TableNotFoundError:
                return None
            except DeltaError as error:
                raise StoreError(
                    f"The log of table {table} at {self._path(table)} cannot be read: {_first_line(error)}. "
                    f"Restore the folder from a copy."
                ) from error
            seen = self._open[table] = Opened.of(self._path(table), fresh)
            return seen

    def _told(self, table: str) -> Opened | None:
        """The table with its whole history."""
        seen = self._opened(table)
        if seen is not None:
            seen.tell()
        return seen

    def _at(self, table: str, version: int) -> DeltaTable:
        old = self._old.get((table, version))
        if old is not None:
            return old
        newest = self.version(table)
        if not 0 <= version <= newest:
            raise NotFound(
                f"Table {table} at {self._path(table)} has no version {version}; the newest is {newest}. "
                f"`everloop data log` lists them."
            )
        with self._lock:
            while len(self._old) >= OLD_TABLES:
                self._old.pop(next(iter(self._old)))
            old = self._old[table, version] = DeltaTable(self._path(table), version=version)
        return old

    def _written(self, table: str, write: Callable[[], T]) -> T:
        try:
            return write()
        except CommitFailedError:
            raise
        except (DeltaError, OSError, pl.exceptions.PolarsError) as error:
            self._open.pop(table, None)
            if any(sign in str(error) for sign in _FULL):
                raise StoreFull(
                    f"No space is left for table {table} at {self._path(table)}: {_first_line(error)}. Nothing was "
                    f"added; free some space and repeat."
                ) from error
            raise StoreError(
                f"Table {table} at {self._path(table)} could not be written: {_first_line(error)}. Nothing was added."
            ) from error


def moment(at: datetime) -> pl.Expr:
    """An instant as an expression. `pl.lit` of a datetime costs thirty times as much, and a look has many."""
    return pl.lit(microseconds(at)).cast(INSTANT)


def outcome_rows(outcomes: Iterable[Outcome], *, batch: str | None = None) -> pl.DataFrame:
    """Outcomes as rows of the outcomes table (`OUTCOME_SCHEMA`)."""
    rows = [(o.id, o.name, *value_columns(o.value), o.at, batch) for o in outcomes]
    return pl.DataFrame(rows, schema=OUTCOME_SCHEMA, orient="row")


def value_columns(value: str | int | float | bool | None) -> tuple[str | None, float | None]:
    """(value_text, value_number) of one outcome value."""
    if value is None:
        return None, None
    if isinstance(value, str):
        return value, None
    exact = not isinstance(value, int) or abs(value) <= 2**53
    return None if exact else str(value), float(value)


def _aligned(frame: pl.DataFrame, known: pl.Schema, table: str) -> pl.DataFrame:
    """The table's columns first and in its order, then new ones; columns without any type are left out."""
    if frame.schema == known:
        return frame
    given = {each.name: each for each in frame.get_columns()}
    columns: list[pl.Series] = []
    for name, expected in known.items():
        found = given.pop(name, None)
        if found is not None and found.dtype == expected:
            columns.append(found)
        elif found is None or found.dtype == pl.Null():
            columns.append(pl.Series(name, [None], dtype=expected).new_from_index(0, len(frame)))
        else:
            raise SchemaChanged(
                f"Column {name} of table {table} has type {expected}; the new rows have {found.dtype}. "
                f"Bring them with the same type, or under another column name."
            )
    return pl.DataFrame([*columns, *(each for each in given.values() if each.dtype != pl.Null())])


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
