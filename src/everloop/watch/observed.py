"""One window of requests, read slice by slice and kept as a sketch: memory is that of a day, rows are read once.

Knows no limits and no triggers.
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
from everloop.measure.profile import ColumnProfile, Profile, kind_of, places
from everloop.measure.sketch import CategorySketch, Sketch
from everloop.records import MISSING_INTEGER, ColumnType, Signature
from everloop.store.lake import PREDICTIONS, Lake
from everloop.watch import fold
from everloop.watch.recent import newest
from everloop.watch.windows import Window, inside

AT_ONCE = 200_000
"""A window with more rows than this is read a day at a time."""
DAY_US = 86_400_000_000
PREDICTION = "(prediction)"
"""The name under which a profile may hold the model's own answers: the positive class's probability or the value."""


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


@dataclass(slots=True)
class _Days:
    """Of one column: day → rows that miss it, then rows in each bin."""

    found: dict[int, npt.NDArray[np.float64]] = field(default_factory=dict)

    def add(self, days: npt.NDArray[np.int64], values: npt.NDArray[Any], column: ColumnProfile) -> None:
        width = 2 + (len(column.edges) if column.kind == "number" else len(column.values))
        known, place = np.unique(days, return_inverse=True)
        table = np.bincount(place * width + places(values, column) + 1, minlength=len(known) * width)
        for day, row in zip(known.tolist(), table.reshape(-1, width).astype(np.float64), strict=True):
            self.found[day] = row if day not in self.found else self.found[day] + row

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
    sketch, said = Sketch(), Sketch()
    days: dict[str, _Days] = {}
    weights = season.weights(np.zeros(0, np.int64), reference.season)

    def counted(columns: Mapping[str, npt.NDArray[Any]], which: npt.NDArray[np.int64]) -> None:
        for name, values in columns.items():
            known = reference.columns.get(name)
            if known is not None and known.kind == kind_of(values, types.get(name)):
                days.setdefault(name, _Days()).add(which, values, known)

    for rows in _slices(lake, window):
        columns = {name: array_of(series) for name, series in fold.inputs(rows, signature.inputs).items()}
        columns = space.replaced({**columns, **fold.summaries(rows, reference.spaces)}, reference.spaces)
        sketch.update(columns, types=types, like=reference)
        sketch.rows += 0 if columns else len(rows)
        which = _microseconds(rows["at"]) // DAY_US
        counted(columns, which)
        times = _microseconds(rows["event_time" if "event_time" in rows.columns else "at"])
        weights = weights + season.weights(times, reference.season)
        if champion is not None and PREDICTION in reference.columns and answer in rows.columns:
            # What a route gave it was chosen for what it is: its answers would move with no change of the world.
            own = ((rows["version"] == champion) & ~rows["error"] & (rows["arm"] != "route")).to_numpy()
            answers = {PREDICTION: array_of(rows[answer])[own]}
            said.update(answers, like=reference)
            counted(answers, which[own])
    made = {**sketch.profile(like=reference).columns, **said.profile(like=reference).columns}
    clumped = {name: each.clumping() for name, each in days.items() if each.found}
    return Observed(
        profile=Profile(rows=sketch.rows, columns=made),
        values={name: each[0] for name, each in clumped.items()},
        missing={name: each[1] for name, each in clumped.items()},
        weights=weights,
        newcomers={
            name: each.newcomers(reference.columns[name].values)
            for name, each in sketch.columns.items()
            if isinstance(each, CategorySketch) and name in reference.columns
        },
    )


def _slices(lake: Lake, window: Window) -> Iterator[pl.DataFrame]:
    columns = list(lake.schema(PREDICTIONS))
    whole = inside(window.since, window.until)
    # Each query costs as much as hundreds of rows: one, where one is enough.
    first = newest(lake, PREDICTIONS, since=window.since, columns=columns, where=whole).head(AT_ONCE + 1).collect()
    if len(first) <= AT_ONCE:
        yield first
        return
    del first
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
