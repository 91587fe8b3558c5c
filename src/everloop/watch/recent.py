"""A lake whose newest rows stay in memory, so that a look reads only what is new. Knows nothing of what rows mean.

Memory is never trusted over the table: a version that somebody else committed is read from the table's own commits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl

from everloop.store.lake import OUTCOMES, PREDICTIONS, RAW, Lake, moment

MOST_ROWS = 2_000_000
"""A table with more recent rows than this is read from disk at every look."""
TIMES: dict[str, pl.Expr] = {
    PREDICTIONS: pl.max_horizontal("at", "event_time"),
    OUTCOMES: pl.col("at"),
    RAW: pl.col("_event_time"),
}
"""How new a row of each table is. A prediction counts by the later one of its times: either may be asked for."""
ASKED = 64
SLACK = timedelta(days=7)
"""Memory reaches this much further back than asked for, so that it is not trimmed at every look."""


@dataclass(slots=True)
class _Memory:
    version: int
    since: datetime
    """Every row that is as new as this is here."""
    rows: list[pl.DataFrame]
    """One after the other, each less than half as large as the one before: a merge at every look would copy all."""
    asked: deque[datetime] = field(default_factory=lambda: deque(maxlen=ASKED))
    """How far back the last questions went: what none of them wanted is forgotten."""

    def whole(self) -> pl.LazyFrame:
        return _joined(self.rows).lazy()


class Recent(Lake):
    """A `Lake` that answers `newest` from memory. May stand wherever a lake does."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._memories: dict[str, _Memory] = {}

    def newest(self, table: str, *, since: datetime, columns: Sequence[str], where: pl.Expr) -> pl.LazyFrame:
        """Rows as `read` gives them; ``where`` must ask for nothing older than ``since``."""
        memory = self._remembered(table, since)
        if memory is None:
            return self.read(table, columns=columns, where=where).lazy()
        return memory.whole().filter(where).select(columns)

    def _remembered(self, table: str, since: datetime) -> _Memory | None:
        version = self.version(table)
        if version < 0:
            return None
        memory = self._memories.get(table)
        if memory is None or since < memory.since:
            begin = since - SLACK
            rows = self.read(table, version=version, where=TIMES[table] >= moment(begin))
            memory = self._memories[table] = _Memory(version, begin, [rows])
        elif memory.version < version:
            self._grow(memory, self.diff(table, memory.version, version), version)
        memory.asked.append(since)
        if len(memory.asked) == ASKED and memory.since < min(memory.asked) - 2 * SLACK:
            memory.since = min(memory.asked) - SLACK
            memory.rows = [memory.whole().filter(TIMES[table] >= moment(memory.since)).collect()]
        if sum(len(each) for each in memory.rows) > MOST_ROWS:
            del self._memories[table]
            return None
        return memory

    @staticmethod
    def _grow(memory: _Memory, rows: pl.DataFrame, version: int) -> None:
        memory.version = version
        if len(rows):
            memory.rows.append(rows)
        while len(memory.rows) > 1 and len(memory.rows[-2]) < 2 * len(memory.rows[-1]):
            newer, older = memory.rows.pop(), memory.rows.pop()
            memory.rows.append(_joined([older, newer], rechunk=True))


def _joined(parts: Sequence[pl.DataFrame], *, rechunk: bool = False) -> pl.DataFrame:
    """Columns are only ever added to a table, so an older part may lack some."""
    if all(each.schema == parts[-1].schema for each in parts):
        return pl.concat(parts, rechunk=rechunk)
    return pl.concat(parts, how="diagonal", rechunk=rechunk)


def newest(lake: Lake, table: str, *, since: datetime | None, columns: Sequence[str], where: pl.Expr) -> pl.LazyFrame:
    """From memory where the lake has one, else from the table. ``since`` None: however old."""
    if isinstance(lake, Recent) and since is not None:
        return lake.newest(table, since=since, columns=columns, where=where)
    return lake.read(table, columns=columns, where=where).lazy()
