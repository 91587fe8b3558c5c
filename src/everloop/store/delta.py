"""Which Parquet files a Delta table consists of, and what its partitions say of them. Knows nothing of what a row means.

Deletion vectors and column mapping make a file say something else than it holds: tables with them are refused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import polars as pl

from everloop.errors import DataError

LOG = "_delta_log"
CHANGES = "_change_data"
"""The table's own folder of what was changed, where it keeps that."""
BEYOND = {"deletionVectors", "columnMapping"}
EARLIER = 10
"""So many versions back a file is known that was replaced while it was to be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFile:
    path: Path
    relative: PurePosixPath
    """To the table's folder."""
    partition: Mapping[str, pl.Series]
    """What the table's log says of all its rows: column → one value of the column's type. Folders' names say nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaFiles:
    """Of one version of a table, sorted by path."""

    version: int
    files: tuple[DeltaFile, ...]


def is_table(folder: str | os.PathLike[str]) -> bool:
    return os.path.isdir(os.path.join(folder, LOG))  # noqa: PTH112, PTH118 — asked at each look of a source


def files(folder: Path, version: int | None = None) -> DeltaFiles:
    """The files of a table, of its newest version unless one is named. Raises DataError for one that cannot be read."""
    listed = _listing(folder, version)
    listed.refuse_beyond()
    for name in listed.rows:
        if "://" in name or not (folder / name).is_file():
            raise DataError(
                f"The Delta table {folder} names {name}, which is no file in its folder. Restore it, or rewrite the "
                "table without it; a shallow clone must be copied whole."
            )
    found = [
        DeltaFile(path=folder / name, relative=PurePosixPath(name), partition=listed.partition(name))
        for name in listed.rows
    ]
    found.sort(key=lambda each: each.relative)
    return DeltaFiles(version=listed.version, files=tuple(found))


def partition(path: Path) -> Mapping[str, pl.Series]:
    """`DeltaFile.partition` of one file. Empty for a file of no table, also where its folder lies in a table's.

    A file that was replaced a little while ago is known, too. Raises DataError for one that may be the table's, long
    replaced, so that nobody knows any more what its partition was.
    """
    folder = next((each for each in path.parents if is_table(each)), None)
    if folder is None:
        return {}
    name = path.relative_to(folder).as_posix()
    listed = _remembered(folder, None, (folder / LOG).stat().st_mtime_ns)
    if listed.foreign(name):
        return {}
    if name not in listed.rows:
        listed = _listing(folder, None)  # two commits may stand at one tick of the disk's clock
    listed.refuse_beyond()
    if not listed.parted:
        return {}
    if name in listed.rows:
        return listed.partition(name)
    for version in range(listed.version - 1, max(0, listed.version - EARLIER) - 1, -1):
        try:
            earlier = _remembered(folder, version, 0)
            earlier.refuse_beyond()
        except DataError:
            break  # its log was cleaned up
        if name in earlier.rows:
            return earlier.partition(name)
    raise DataError(
        f"{path} lies in the Delta table {folder}, whose log does not name it, so its partition is not known. Name the "
        "table as the source, or move the file elsewhere."
    )


@dataclass(frozen=True, slots=True)
class _Listing:
    folder: Path
    version: int
    beyond: tuple[str, ...]
    """What it uses of `BEYOND`."""
    parted: bool
    rows: Mapping[str, int]
    """Relative path → its row of ``partitions``."""
    partitions: pl.DataFrame
    named_so: bool
    """Whether all its files lie in folders that are named after their partition: ``day=2024-01-01``."""

    def foreign(self, name: str) -> bool:
        """Whether it is a file of somebody else, or one whose partition says nothing.

        Where a table's files lie in folders of partitions, those that it no longer names do so, too. Some writers
        spread them over folders of any name: there a file that is not named may have been the table's.
        """
        above = PurePosixPath(name).parts[:-1]
        if not self.parted:
            return name not in self.rows
        return self.named_so and bool(above) and "=" not in above[0] and above[0] != CHANGES

    def refuse_beyond(self) -> None:
        if self.beyond:
            raise DataError(
                f"The Delta table {self.folder} uses {', '.join(self.beyond)}, so its files cannot be read one by one. "
                "Purge or rewrite it, or read a copy in Parquet."
            )

    def partition(self, name: str) -> dict[str, pl.Series]:
        return {each.name: each[self.rows[name] : self.rows[name] + 1] for each in self.partitions.get_columns()}


def _listing(folder: Path, version: int | None) -> _Listing:
    from deltalake import DeltaTable  # only for those who have such a table
    from deltalake.exceptions import DeltaError

    try:
        table = DeltaTable(folder, version=version)
        beyond = tuple(sorted(BEYOND & set(table.protocol().reader_features or ())))
        added = table.get_add_actions(flatten=False)
        parted = bool(table.metadata().partition_columns)
    except DeltaError as error:
        raise DataError(f"The Delta table {folder} cannot be read: {str(error).splitlines()[0]}") from error
    found = pl.DataFrame(added)
    told = "partition" if "partition" in found.columns else "partition_values"  # as deltalake called it before
    partitions = found[told].struct.unnest() if parted and len(found) else pl.DataFrame()
    rows = {unquote(path): place for place, path in enumerate(found["path"].to_list())}
    named_so = bool(rows) and all("=" in name.partition("/")[0] and "/" in name for name in rows)
    return _Listing(folder, int(table.version()), beyond, parted, rows, partitions, named_so)


@lru_cache(maxsize=4)
def _remembered(folder: Path, version: int | None, changed: int) -> _Listing:
    """``changed``: when the table's log did, where its newest version is meant."""
    return _listing(folder, version)
