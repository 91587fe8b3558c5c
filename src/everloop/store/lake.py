"""The lake of one loop: append-only Delta tables with time travel. Knows nothing of what a row means.

Every append is one atomic commit that may carry a note; what was committed stays readable at its version for ever:
small files are merged by and by, but nothing that an old version needs is ever removed.
"""

import json
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote

import polars as pl
from deltalake import CommitProperties, DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError

from everloop.errors import DataError, NotFound, SchemaChanged, StoreError, StoreFull
from everloop.records import Outcome

RAW = "raw"
QUARANTINE = "quarantine"
OUTCOMES = "outcomes"
PREDICTIONS = "predictions"

OUTCOME_SCHEMA = pl.Schema(
    {
        "id": pl.String(),
        "name": pl.String(),
        "value_text": pl.String(),
        "value_number": pl.Float64(),
        "at": pl.Datetime("us", "UTC"),
        "_batch": pl.String(),
    }
)
"""A number or boolean (1, 0) stands in value_number, a text in value_text, an integer beyond 2**53 in both."""

COMPACT_EVERY = 50
"""Commits between two merges of small files: an append costs more the more files a table has."""
FILE_SIZE = 16 << 20
"""Files of this size are left alone by a merge, so that a big table is not rewritten again and again."""
ATTEMPTS = 8
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
_FULL = ("No space left", "os error 28", "StorageFull", "os error 122", "os error 27", "File too large", "FileTooLarge")

T = TypeVar("T")


@dataclass(slots=True)
class _Open:
    """One table as last seen."""

    table: DeltaTable
    schema: pl.Schema
    history: list[dict[str, Any]] = field(default_factory=list)


class Lake:
    """Delta tables under one folder. May be shared by threads; other processes may append at the same time."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        self._open: dict[str, _Open] = {}
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
        return -1 if seen is None else int(seen.table.version())

    def schema(self, table: str, *, version: int | None = None) -> pl.Schema:
        """Column types at a version; empty where there is no table yet."""
        if version is not None and version >= 0:
            return _schema_of(self._at(table, version))
        seen = self._opened(table)
        return pl.Schema() if seen is None or version is not None else seen.schema

    def append(self, table: str, frame: pl.DataFrame, *, note: Mapping[str, str] | None = None) -> int:
        """Add rows in one commit and return the new version. New columns widen the table; missing ones become null.

        An empty frame makes a commit too, for its note. A column of another type raises SchemaChanged, a full disk
        StoreFull; in both cases the table is as it was.
        """
        properties = CommitProperties(custom_metadata={"note": json.dumps(dict(note))} if note else None)
        with self._lock:
            for attempt in range(ATTEMPTS):
                try:
                    self._append_once(table, frame, properties)
                    break
                except CommitFailedError:
                    # Somebody else widened or made the table first: look again and repeat.
                    self._open.pop(table, None)
                    if attempt == ATTEMPTS - 1:
                        raise
            self._open_again_if_widened(table, frame)
            version = self.version(table)
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
                rows = pl.scan_delta(seen.table)
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
        seen = self._opened(table)
        if seen is None:
            return []
        with self._lock:
            new = int(seen.table.version()) + 1 - len(seen.history)
            if new > 0:
                entries = [_entry(raw) for raw in seen.table.history(new)]
                seen.history.extend(sorted(entries, key=lambda each: each["version"]))
            return list(seen.history)

    def batches(self, table: str = RAW) -> dict[str, dict[str, Any]]:
        """Digest of each batch that was committed to a table → its history entry."""
        return {each["note"]["batch"]: each for each in self.history(table) if "batch" in each["note"]}

    def contains_batch(self, digest: str, table: str = RAW) -> bool:
        return digest in self.batches(table)

    def diff(self, table: str, from_version: int, to_version: int) -> pl.DataFrame:
        """The rows added after ``from_version`` up to and with ``to_version``. Merging of files adds none."""
        if not -1 <= from_version <= to_version <= self.version(table):
            raise NotFound(
                f"Table {table} has versions 0 to {self.version(table)}; a difference from {from_version} to "
                f"{to_version} asks for others. Give an older and a newer version among them."
            )
        schema = self.schema(table, version=to_version)
        log = self._path(table) / "_delta_log"
        paths: list[Path] = []
        for version in range(from_version + 1, to_version + 1):
            for line in (log / f"{version:020d}.json").read_text().splitlines():
                added = json.loads(line).get("add")
                if added is not None and added["dataChange"]:
                    paths.append(self._path(table) / unquote(added["path"]))
        if not paths:
            return schema.to_frame()
        return pl.scan_parquet(paths, schema=schema, missing_columns="insert", extra_columns="ignore").collect()

    def compact(self, table: str) -> None:
        """Merge small files. Rows, their old versions and differences stay as they are."""
        seen = self._opened(table)
        if seen is not None:
            with self._lock:
                self._written(table, lambda: seen.table.optimize.compact(target_size=FILE_SIZE))

    def _append_once(self, table: str, frame: pl.DataFrame, properties: CommitProperties) -> None:
        seen = self._opened(table)
        known = pl.Schema() if seen is None else seen.schema
        aligned = _aligned(frame, known, table)
        self._written(
            table,
            lambda: write_deltalake(
                self._path(table) if seen is None else seen.table,
                aligned,
                mode="append",
                schema_mode="merge" if seen is None or aligned.width > len(known) else None,
                configuration=_CONFIGURATION if seen is None else None,
                commit_properties=properties,
            ),
        )

    def _compact_quietly(self, table: str) -> None:
        # The rows are committed already; a merge that lost a race or found no space is simply tried later.
        try:
            self.compact(table)
        except (CommitFailedError, StoreError):
            self._open.pop(table, None)

    def _path(self, table: str) -> Path:
        return self.root / table

    def _opened(self, table: str) -> _Open | None:
        with self._lock:
            seen = self._open.get(table)
            if seen is None:
                try:
                    fresh = DeltaTable(self._path(table))
                except TableNotFoundError:
                    return None
                except DeltaError as error:
                    raise StoreError(
                        f"The log of table {table} at {self._path(table)} cannot be read: {_first_line(error)}. "
                        f"Restore the folder from a copy."
                    ) from error
                seen = self._open[table] = _Open(fresh, _schema_of(fresh))
                return seen
            # Versions are dense: where the next log file is not there, nothing is newer.
            if (self._path(table) / "_delta_log" / f"{seen.table.version() + 1:020d}.json").exists():
                seen.table.update_incremental()
                seen.schema = _schema_of(seen.table)
            return seen

    def _open_again_if_widened(self, table: str, frame: pl.DataFrame) -> None:
        seen = self._open.get(table)
        if seen is not None and any(name not in seen.schema for name in frame.columns):
            seen.schema = _schema_of(seen.table)

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
        except (DeltaError, OSError) as error:
            self._open.pop(table, None)
            if any(sign in str(error) for sign in _FULL):
                raise StoreFull(
                    f"No space is left for table {table} at {self._path(table)}: {_first_line(error)}. Nothing was "
                    f"added; free some space and repeat."
                ) from error
            raise StoreError(
                f"Table {table} at {self._path(table)} could not be written: {_first_line(error)}. Nothing was added."
            ) from error


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
    columns: list[pl.Expr] = []
    for name, expected in known.items():
        found = frame.schema.get(name, pl.Null())
        if found == expected:
            columns.append(pl.col(name))
        elif found == pl.Null():
            columns.append(pl.lit(None, dtype=expected).alias(name))
        else:
            raise SchemaChanged(
                f"Column {name} of table {table} has type {expected}; the new rows have {found}. "
                f"Bring them with the same type, or under another column name."
            )
    columns += [pl.col(name) for name, kind in frame.schema.items() if name not in known and kind != pl.Null()]
    return frame.select(columns)


def _schema_of(table: DeltaTable) -> pl.Schema:
    return pl.Schema(pl.scan_delta(table).collect_schema())


def _entry(raw: Mapping[str, Any]) -> dict[str, Any]:
    metrics = raw.get("operationMetrics") or {}
    operation = str(raw.get("operation", ""))
    return {
        "version": int(raw["version"]),
        "at": datetime.fromtimestamp(raw["timestamp"] / 1000, UTC),
        "operation": "merge files" if operation == "OPTIMIZE" else operation.lower(),
        "rows": int(metrics.get("num_added_rows", 0)) if operation != "OPTIMIZE" else 0,
        "note": json.loads(raw["note"]) if isinstance(raw.get("note"), str) else {},
    }


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
