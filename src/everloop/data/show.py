"""What a person asks of the lake: its batches, the difference of two versions, some rows. Writes nothing."""

from dataclasses import dataclass
from datetime import datetime

import polars as pl

from everloop.data.sources import EVENT_TIME, KEY, RESERVED
from everloop.errors import NotFound
from everloop.records import Batch, decode
from everloop.store.lake import RAW, Lake


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One version of the raw table. ``batch`` is None for a version that only merged files."""

    version: int
    at: datetime
    operation: str
    rows: int
    batch: Batch | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What came between two versions of the raw table."""

    from_version: int
    to_version: int
    rows: pl.DataFrame
    """The rows that were added, by event time and key."""
    batches: tuple[Batch, ...]
    new_columns: tuple[str, ...]

    @property
    def added(self) -> int:
        return self.rows.height

    @property
    def copies(self) -> int:
        return sum(each.copies for each in self.batches)

    @property
    def outcomes(self) -> int:
        return sum(each.outcomes for each in self.batches)

    @property
    def quarantined(self) -> int:
        return sum(each.quarantined for each in self.batches)


def log(lake: Lake) -> list[LogEntry]:
    """Every version of the raw table, newest first."""
    entries = []
    for each in reversed(lake.history(RAW)):
        record = each["note"].get("record")
        batch = None if record is None else decode(record, Batch)
        entries.append(
            LogEntry(
                version=each["version"], at=each["at"], operation=each["operation"], rows=each["rows"], batch=batch
            )
        )
    return entries


def diff(lake: Lake, from_version: int, to_version: int) -> Difference:
    """What came after one version up to and with the other. Raises NotFound for a version that never was."""
    rows = lake.diff(RAW, from_version, to_version).sort(EVENT_TIME, KEY)
    between = [each for each in reversed(log(lake)) if from_version < each.version <= to_version]
    before = lake.schema(RAW, version=from_version)
    return Difference(
        from_version=from_version,
        to_version=to_version,
        rows=rows,
        batches=tuple(each.batch for each in between if each.batch is not None),
        new_columns=tuple(name for name in rows.columns if name not in before and name not in RESERVED),
    )


def show(lake: Lake, table: str = RAW, *, version: int | None = None, limit: int | None = 20) -> pl.DataFrame:
    """The newest rows of a table at a version. Raises NotFound for a table or version that is not there."""
    if not lake.exists(table):
        tables = ", ".join(lake.tables()) or "none yet"
        raise NotFound(f"There is no table {table!r} in {lake.root}. There are: {tables}.")
    rows = lake.read(table, version=version)
    order = [name for name in (EVENT_TIME, "at", "_at", KEY, "id") if name in rows.columns]
    rows = rows.sort(order, descending=True, nulls_last=True) if order else rows
    return rows if limit is None else rows.head(limit)
