"""One Delta table as last seen: version, columns, history, and its newest rows. Knows no names and no meaning.

Not for several threads at once: whoever holds it sees to that.
"""

from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
from deltalake import DeltaTable

from everloop.errors import DataError
from everloop.store import commits
from everloop.store.commits import Commit

FRESH_COMMITS, FRESH_ROWS = 64, 100_000
"""The newest rows stay in memory as they were appended: who asks for what is new asks for these."""


@dataclass(slots=True)
class Opened:
    """``table`` may lag behind ``version``: it is brought up to date when it is read."""

    folder: Path
    table: DeltaTable
    version: int
    schema: pl.Schema
    plain: bool
    """An append needs no more than a file and a commit."""
    history: list[Commit] = field(default_factory=list)
    """From version 0 on without a gap, as far as somebody has asked for it."""
    batches: dict[str, Commit] = field(default_factory=dict)
    """Of ``history``: by the digest in its note."""
    fresh: dict[int, pl.DataFrame] = field(default_factory=dict)
    """Rows of versions made here, with the columns of then; oldest first."""
    _known: dict[int, Commit] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, table: DeltaTable) -> "Opened":
        return cls(folder, table, int(table.version()), schema_of(table), _plain(table))

    def catch_up(self) -> None:
        """Take in the commits of others. Versions are dense: where the next file is not there, nothing is newer."""
        shape = False
        while (found := commits.read(self.folder, self.version + 1)) is not None:
            self.version = found.version
            self._known[found.version] = found
            shape = shape or found.shape
        if shape:
            current = self.current()
            self.schema, self.plain = schema_of(current), _plain(current)

    def current(self) -> DeltaTable:
        if self.table.version() < self.version:
            self.table.update_incremental()
        return self.table

    def made(self, commit: Commit, rows: pl.DataFrame) -> None:
        """The next version was made here, with these rows."""
        self.version = commit.version
        self._known[commit.version] = commit
        self.fresh[commit.version] = rows
        while len(self.fresh) > FRESH_COMMITS or sum(len(each) for each in self.fresh.values()) > FRESH_ROWS:
            del self.fresh[next(iter(self.fresh))]

    def commit(self, version: int) -> Commit:
        """Raises DataError when its file is gone."""
        known = self._known.get(version)
        if known is None:
            known = commits.read(self.folder, version)
            if known is None:
                raise DataError(
                    f"{commits.place(self.folder, version)} is missing, so the history of table {self.folder.name} is "
                    f"not whole. Restore the folder from a copy."
                )
            self._known[version] = known
        return known

    def tell(self) -> None:
        """Read the history that was not read yet."""
        for version in range(len(self.history), self.version + 1):
            commit = self.commit(version)
            self.history.append(commit)
            if "batch" in commit.note:
                self.batches[commit.note["batch"]] = commit


def schema_of(table: DeltaTable) -> pl.Schema:
    return pl.Schema(pl.scan_delta(table).collect_schema())


def _plain(table: DeltaTable) -> bool:
    return table.protocol().min_writer_version <= commits.WRITER and not table.metadata().partition_columns
