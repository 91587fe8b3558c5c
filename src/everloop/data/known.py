"""The rows a lake holds, as fingerprints in memory: what an arriving row is measured against. Knows no files or checks.

One row is one key, one fingerprint of what may never change, and one fingerprint for each column that is known later
(the label and `after`). About 200 bytes a row.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everloop.data.columns import DTYPES
from everloop.data.sources import BATCH, EVENT_TIME, KEY
from everloop.records import ColumnType

Hashes = NDArray[np.uint64]
Instants = NDArray[np.int64]

NOTHING = np.uint64(0)
"""The fingerprint of a missing value, so that a column that comes later changes no fingerprint."""
_NOTHING = pl.lit(0, pl.UInt64())
BEGINNING = np.iinfo(np.int64).min


def fingerprint(column: pl.Series) -> Hashes:
    """64 bits for each value; equal values of one column have equal bits in this process (never kept)."""
    return fingerprints(column.to_frame())[column.name]


def fingerprints(rows: pl.DataFrame) -> dict[str, Hashes]:
    """`fingerprint` of each column, in one query: each column on its own costs more than the rows of a small file."""
    hashes = rows.select(
        # A null has a hash too: without the condition, which costs more than the hash, where there is none.
        pl.col(each.name).hash(_seed(each.name))
        if not each.null_count()
        else pl.when(pl.col(each.name).is_not_null()).then(pl.col(each.name).hash(_seed(each.name))).otherwise(_NOTHING)
        for each in rows.get_columns()
    )
    return {each.name: each.to_numpy() for each in hashes.get_columns()}


@cache
def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


@dataclass(slots=True)
class Prints:
    """The fingerprints of a frame: ``fixed`` [rows] and one [rows] for each late column that the frame has."""

    keys: list[str]
    fixed: Hashes
    late: dict[str, Hashes]

    @classmethod
    def of(cls, rows: pl.DataFrame, late: Sequence[str]) -> "Prints":
        columns = [each for each in rows.get_columns() if each.name not in (KEY, BATCH, EVENT_TIME)]
        hashes = fingerprints(pl.DataFrame(columns)) if columns else {}
        found = {name: hashes.pop(name) for name in late if name in hashes}
        fixed = np.zeros(len(rows), np.uint64)
        for each in hashes.values():
            fixed += each
        return cls(rows[KEY].to_list(), fixed, found)

    def take(self, rows: NDArray[np.int64]) -> "Prints":
        late = {name: values[rows] for name, values in self.late.items()}
        return Prints([self.keys[row] for row in rows], self.fixed[rows], late)


@dataclass(slots=True)
class Known:
    """All rows by key. ``late`` are the columns whose values may come or change later."""

    late: tuple[str, ...]
    places: dict[str, int] = field(default_factory=dict)
    _fixed: Hashes = field(default_factory=lambda: np.zeros(1024, np.uint64))
    _values: dict[str, Hashes] = field(default_factory=dict)
    _since: dict[str, Instants] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.late:
            self._values[name] = np.zeros(len(self._fixed), np.uint64)
            self._since[name] = np.full(len(self._fixed), BEGINNING, np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """The place of each key; -1 for one that is not known."""
        get = self.places.get
        return np.fromiter((get(key, -1) for key in keys), np.int64, len(keys))

    def fixed(self, places: NDArray[np.int64]) -> Hashes:
        return self._fixed[places]

    def value(self, name: str, places: NDArray[np.int64]) -> Hashes:
        """What a late column holds now: the row's own value or the newest outcome."""
        return self._values[name][places]

    def add(self, prints: Prints) -> None:
        """Rows with new keys. A key that is known already keeps its first row."""
        count = len(self.places)
        self._room(count + len(prints.keys))
        chosen: list[int] = []
        for index, key in enumerate(prints.keys):
            if self.places.setdefault(key, count) == count:
                chosen.append(index)
                count += 1
        part = slice(count - len(chosen), count)
        self._fixed[part] = prints.fixed[chosen]
        for name in self.late:
            self._values[name][part] = prints.late[name][chosen] if name in prints.late else NOTHING
            self._since[name][part] = BEGINNING

    def learn(self, name: str, places: NDArray[np.int64], values: Hashes, at: Instants | int) -> None:
        """Outcomes, oldest first: the newest wins, and of two at one time the later in the list."""
        newer = self._since[name][places] <= at
        self._values[name][places[newer]] = values[newer]
        self._since[name][places[newer]] = np.broadcast_to(np.asarray(at, np.int64), places.shape)[newer]

    def learn_outcomes(self, outcomes: pl.DataFrame, types: Mapping[str, ColumnType], label: str) -> None:
        """Rows of the outcomes table (see `store.lake.OUTCOME_SCHEMA`). Those of unknown keys change nothing."""
        names = set(outcomes["name"].to_list())
        for name in self.late:
            called = [name, "", None] if name == label else [name]
            if name not in types or not names.intersection(called):
                continue
            whose = pl.lit(True) if names.issubset(called) else pl.col("name").is_in(called, nulls_equal=True)
            mine = outcomes.lazy().filter(whose).sort("at", "_batch", "value_number", "value_text").collect()
            values = fingerprint(valued(mine, types[name]).alias(name))
            places = self.find(mine["id"].to_list())
            there = places >= 0
            self.learn(name, places[there], values[there], mine["at"].to_physical().to_numpy()[there])

    def _room(self, count: int) -> None:
        size = len(self._fixed)
        if count <= size:
            return
        more = max(count, 2 * size) - size
        self._fixed = np.concatenate([self._fixed, np.zeros(more, np.uint64)])
        for name in self.late:
            self._values[name] = np.concatenate([self._values[name], np.zeros(more, np.uint64)])
            self._since[name] = np.concatenate([self._since[name], np.full(more, BEGINNING, np.int64)])


def valued(outcomes: pl.DataFrame, kind: ColumnType) -> pl.Series:
    """The values of outcome rows as one column type; what cannot be read as that type is missing."""
    text, number = pl.col("value_text"), pl.col("value_number")
    if kind == "text":
        whole = pl.when(number == number.round()).then(number.cast(pl.Int64, strict=False)).cast(pl.String)
        value = pl.coalesce(text, whole, number.cast(pl.String))
    elif kind == "number":
        value = pl.coalesce(number, text.cast(pl.Float64, strict=False)).fill_nan(None)
    elif kind == "integer":
        whole = pl.when(number == number.round()).then(number.cast(pl.Int64, strict=False))
        value = pl.coalesce(text.cast(pl.Int64, strict=False), whole)
    elif kind == "boolean":
        written = text.str.to_lowercase()
        value = (
            pl.when(number.is_not_null())
            .then(number != 0)
            .when(written.is_in(["true", "false"]))
            .then(written == "true")
        )
    else:
        value = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f%:z", strict=False, time_unit="us", time_zone="UTC")
    return outcomes.select(value.cast(DTYPES[kind]).alias("value")).to_series()


def worded(values: pl.Series, kind: ColumnType) -> tuple[pl.Series, pl.Series]:
    """The reverse of `valued`: (value_text, value_number) of values of one column type."""
    nothing = pl.Series([None] * len(values), dtype=pl.String)
    if kind == "text":
        return values, pl.Series([None] * len(values), dtype=pl.Float64)
    if kind == "instant":
        return values.dt.strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00"), pl.Series([None] * len(values), dtype=pl.Float64)
    if kind == "integer":
        large = values.abs() > 2**53
        return nothing.zip_with(~large.fill_null(False), values.cast(pl.String)), values.cast(pl.Float64)
    return nothing, values.cast(pl.Float64)
