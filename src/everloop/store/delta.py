"""Which Parquet files a Delta table consists of, and what its partitions say of them. Knows nothing of what a row means.

Deletion vectors and column mapping make a file say something else than it holds: tables with them are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import polars as pl

from everloop.errors import DataError

LOG = "_delta_log"
BEYOND = {"deletionVectors", "columnMapping"}
NO_VALUES = ("__HIVE_DEFAULT_PARTITION__", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFile:
    path: Path
    relative: PurePosixPath
    """To the table's folder."""
    partition: Mapping[str, str | None]
    """Column → value as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFiles:
    """Of one version of a table, sorted by path."""

    version: int
    files: tuple[DeltaFile, ...]


def is_table(folder: str | os.PathLike[str]) -> bool:
    return os.path.isdir(os.path.join(folder, LOG))  # noqa: PTH112, PTH118 — asked at each look of a source


def files(folder: Path, version: int | None = None) -> DeltaFiles:
    """The files of a table, of its newest version unless one is named. Raises DataError for one that cannot be read."""
    from deltalake import DeltaTable  # only for those who have such a table
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(folder, version=version)
        beyond = BEYOND & set(table.protocol().reader_features or ())
        added = table.get_add_actions(flatten=False)
    except DeltaError as error:
        raise DataError(f"The Delta table {folder} cannot be read: {str(error).splitlines()[0]}") from error
    if beyond:
        raise DataError(
            f"The Delta table {folder} uses {', '.join(sorted(beyond))}, so its files cannot be read one by one. "
            "Purge or rewrite it, or read a copy in Parquet."
        )
    found = []
    for row in pl.DataFrame(added).to_dicts():
        relative = PurePosixPath(unquote(row["path"]))
        if "://" in row["path"] or not (folder / relative).is_file():
            raise DataError(
                f"The Delta table {folder} names {row['path']}, which is no file in its folder. Restore it, or rewrite the "
                "table without it; a shallow clone must be copied whole."
            )
        given = row.get("partition") or row.get("partition_values") or {}
        partition = {name: None if value is None else str(value) for name, value in given.items()}
        found.append(DeltaFile(path=folder / relative, relative=relative, partition=partition))
    found.sort(key=lambda each: each.relative)
    return DeltaFiles(version=int(table.version()), files=tuple(found))


def partition(path: Path) -> dict[str, pl.Series]:
    """What the folders between a table and one of its files say, one value a column, typed as the table declares them.

    Empty for a file that is in no partition, or of no table.
    """
    named: dict[str, str] = {}
    folder = path.parent
    while "=" in folder.name:
        name, _, value = folder.name.partition("=")
        named[unquote(name)] = unquote(value)
        folder = folder.parent
    if not named or not is_table(folder):
        return {}
    types = _types(folder, (folder / LOG).stat().st_mtime_ns)
    return {name: _typed(folder, name, value, types[name]) for name, value in named.items() if name in types}


def _typed(folder: Path, name: str, value: str, dtype: pl.DataType) -> pl.Series:
    """One value. Raises DataError for one that its column's type does not have."""
    if value in NO_VALUES:
        return pl.Series(name, [None], dtype=dtype)
    try:
        if dtype == pl.Boolean():
            return pl.Series(name, [{"true": True, "false": False}[value.lower()]], dtype=dtype)
        if dtype == pl.Date():
            return pl.Series(name, [date.fromisoformat(value)], dtype=dtype)
        if isinstance(dtype, pl.Datetime):
            instant = datetime.fromisoformat(value)
            if dtype.time_zone is not None and instant.tzinfo is None:
                instant = instant.replace(tzinfo=UTC)
            return pl.Series(name, [instant], dtype=dtype)
        return pl.Series(name, [value], dtype=pl.String).cast(dtype)
    except (ValueError, KeyError, pl.exceptions.PolarsError):
        raise DataError(
            f"The Delta table {folder} has the partition {name}={value}, which is no {dtype}; rewrite it with such values."
        ) from None


@lru_cache(maxsize=32)
def _types(folder: Path, changed: int) -> pl.Schema:
    """Columns of a table and their types; ``changed``: when its log did."""
    return pl.scan_delta(folder).collect_schema()
