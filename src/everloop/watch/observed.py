"""One window of requests in its reference's bins. Rows are read once: a window that fits into memory is described exactly,
a longer one is read a day at a time and kept as a sketch. Knows no limits and no triggers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure import season, space
from everloop.measure.coded import Coded, Values
from everloop.measure.profile import PREDICTION as PREDICTION
from everloop.measure.profile import ColumnProfile, Profile, build, counted, kind_of, places
from everloop.measure.sketch import CategorySketch, Sketch, newcomers
from everloop.records import MISSING_INTEGER, ColumnType, Signature
from everloop.store.lake import PREDICTIONS, Lake
from everloop.watch import fold
from everloop.watch.recent import newest
from everloop.watch.windows import Window, inside

AT_ONCE = 200_000
"""A window with more rows than this is read a day at a time."""
DAY_US = 86_400_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A window's requests in the reference's bins, and how much each column clumps by day (1: not at all)."""

    profile: Profile
    values: dict[str, float]
    missing: dict[str, float]
    weights: npt.NDArray[np.float64]
    """Rows in each slot of the reference's season."""
    newcomers: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    """Of a category column the most frequent values that the reference does not list, and their rows."""
    notes: tuple[str, ...] = ()
    """What is to be said of how it was read."""


@dataclass(slots=True)
class Days:
    """Of one column: day → rows that miss it, then rows in each bin."""

    found: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)

    def count(self, day: int, row: npt.NDArray[np.float64]) -> None:
        """Of one day."""
        self.found[day] = row if day not in self.found else self.found[day] + row

    def add(self, days: npt.NDArray[np.int64], values: Values, column: ColumnProfile) -> None:
        width = 2 + (len(column.edges) if column.kind == "number" else len(column.values))
        known, place = np.unique(days, return_inverse=True)
        table = np.bincount(place * width + places(values, column) + 1, minlength=len(known) * width)
        for day, row in zip(known.tolist(), table.reshape(-1, width).astype(np.float64), strict=True):
            self.count(day, row)

    def clumping(self) -> tuple[float, float]:
        """Of the values that are there, and of whether they are there."""
        table = np.stack(list(self.found.values()))
        return clumping(table[:, 1:]), clumping(np.stack([table[:, 0], table[:, 1:].sum(axis=1)], axis=1))


def clumping(table: npt.NDArray[np.float64]) -> float:
    """How many rows count as one: Pearson's χ² of days against bins over its degrees of freedom, at least 1.

    ``table``: rows of each day in each bin. The dispersion factor of overdispersed counts (McCullagh and Nelder,
    Generalized linear models, 1989, §4.5).
    """
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if table.size == 0 or min(table.shape) < 2:
        return 1.0
    freedom = float((table.shape[0] - 1) * (table.shape[1] - 1))
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return max(1.0, float(np.sum((table - expected) ** 2 / expected)) / freedom)


def observe(
    lake: Lake, window: Window, signature: Signature, reference: Profile, *, champion: int | None = None
) -> Observed:
    """Read a window. With ``champion`` its answers too, where the reference holds some."""
    types: dict[str, ColumnType] = {each.name: each.type for each in signature.inputs}
    answer = "value" if signature.task == "regression" else f"p_{signature.positive or 0}"
    days: dict[str, Days] = {}
    weights = season.weights(np.zeros(0, np.int64), reference.season)

    def by_day(columns: Mapping[str, Values], which: npt.NDArray[np.int64]) -> None:
        for name, values in columns.items():
            known = reference.columns.get(name)
            if known is not None and known.kind == kind_of(values, types.get(name)):
                days.setdefault(name, Days()).add(which, values, known)

    whole, parts = _slices(lake, window)
    gathered = _Exact(types, reference) if whole else _Sketched(types, reference)
    for rows in parts:
        columns: dict[str, Values] = {
            name: values_of(series) for name, series in fold.inputs(rows, signature.inputs).items()
        }
        if reference.spaces:
            columns = space.replaced({**columns, **fold.summaries(rows, reference.spaces)}, reference.spaces)
        own: dict[str, Values] = {}
        if champion is not None and PREDICTION in reference.columns and answer in rows.columns:
            # What a route gave it was chosen for what it is: its answers would move with no change of the world.
            mine = ((rows["version"] == champion) & ~rows["error"] & (rows["arm"] != "route")).to_numpy()
            own = {PREDICTION: array_of(rows[answer])[mine]}
        gathered.add(len(rows), columns, own)
        which = _microseconds(rows["at"]) // DAY_US
        if not whole or (len(which) and which.min() < which.max()):  # rows of one day do not clump by day
            by_day(columns, which)
            if own:
                by_day(own, which[mine])
        times = _microseconds(rows["event_time" if "event_time" in rows.columns else "at"])
        weights = weights + season.weights(times, reference.season)
    clumped = {name: each.clumping() for name, each in days.items() if each.found}
    return Observed(
        profile=Profile(rows=gathered.rows, columns=gathered.columns()),
        values={name: each[0] for name, each in clumped.items()},
        missing={name: each[1] for name, each in clumped.items()},
        weights=weights,
        newcomers=gathered.newcomers(),
    )


class _Exact:
    """A window whose rows are in memory at once."""

    def __init__(self, types: Mapping[str, ColumnType], reference: Profile) -> None:
        self._types, self._reference = types, reference
        self.rows = 0
        self._columns: dict[str, ColumnProfile] = {}
        self._newcomers: dict[str, tuple[tuple[str, int], ...]] = {}

    def add(self, rows: int, columns: Mapping[str, Values], own: Mapping[str, Values]) -> None:
        self.rows = rows
        made = build(columns, types=self._types, like=self._reference)
        self._columns = {**made.columns, **build(own, like=self._reference).columns}
        for name, values in columns.items():
            known = self._reference.columns.get(name)
            if known is not None and known.kind == "category" and self._columns[name].other:
                found, _ = counted(values, self._types.get(name))
                self._newcomers[name] = newcomers(found.items(), known.values)

    def columns(self) -> dict[str, ColumnProfile]:
        return self._columns

    def newcomers(self) -> dict[str, tuple[tuple[str, int], ...]]:
        return self._newcomers


class _Sketched:
    """A window that is read slice by slice."""

    def __init__(self, types: Mapping[str, ColumnType], reference: Profile) -> None:
        self._types, self._reference = types, reference
        self._sketch, self._said = Sketch(), Sketch()

    @property
    def rows(self) -> int:
        return self._sketch.rows

    def add(self, rows: int, columns: Mapping[str, Values], own: Mapping[str, Values]) -> None:
        self._sketch.update(columns, types=self._types, like=self._reference)
        self._sketch.rows += 0 if columns else rows
        if own:
            self._said.update(own, like=self._reference)

    def columns(self) -> dict[str, ColumnProfile]:
        both = (self._sketch, self._said)
        return {name: each for one in both for name, each in one.profile(like=self._reference).columns.items()}

    def newcomers(self) -> dict[str, tuple[tuple[str, int], ...]]:
        return {
            name: each.newcomers(self._reference.columns[name].values)
            for name, each in self._sketch.columns.items()
            if isinstance(each, CategorySketch) and name in self._reference.columns
        }


def _slices(lake: Lake, window: Window) -> tuple[bool, Iterator[pl.DataFrame]]:
    """The window's rows, and whether they come at once."""
    columns = list(lake.schema(PREDICTIONS))
    whole = inside(window.since, window.until)
    # Each query costs as much as hundreds of rows: one, where one is enough.
    first = newest(lake, PREDICTIONS, since=window.since, columns=columns, where=whole).head(AT_ONCE + 1).collect()
    if len(first) <= AT_ONCE:
        return True, iter([first])
    return False, _by_day(lake, window, columns)


def _by_day(lake: Lake, window: Window, columns: list[str]) -> Iterator[pl.DataFrame]:
    since = window.since
    while since < window.until:
        until = min(since + timedelta(days=1), window.until)
        rows = newest(lake, PREDICTIONS, since=since, columns=columns, where=inside(since, until)).collect()
        if len(rows):
            yield rows
        since = until


def _microseconds(series: pl.Series) -> npt.NDArray[np.int64]:
    return series.to_physical().to_numpy().astype(np.int64)


def array_of(series: pl.Series) -> npt.NDArray[Any]:
    """A column as `profile.build` takes it."""
    # Each fill is a query of its own in polars, a tenth of a millisecond: only where something is missing.
    if series.dtype == pl.Boolean:
        series = series.cast(pl.Int64)
    if series.dtype == pl.Int64:
        return (series.fill_null(MISSING_INTEGER) if series.null_count() else series).to_numpy()
    if series.dtype == pl.Float64:
        return series.to_numpy()  # what is missing becomes NaN
    if series.dtype.is_temporal():
        return series.dt.epoch("us").fill_null(MISSING_INTEGER).to_numpy().astype("datetime64[us]")
    return np.array(series.to_list(), dtype=object)


def values_of(series: pl.Series) -> Values:
    """A column as `profile.build` takes it, texts by their different values."""
    if series.dtype != pl.String:
        return array_of(series)
    found = series.to_arrow().dictionary_encode()
    return Coded(values=tuple(found.dictionary.to_pylist()), codes=found.indices.fill_null(-1).to_numpy())
