"""What rows look like, kept so that it can be added up: over replicas, over hours, over slices of a large table.

Numbers: a KLL sketch (Karnin, Lang, Liberty 2016; Apache DataSketches, k = 400) and moments; texts: frequent items,
an estimate of how many differ (HLL). Held `like` a reference, rows are counted in its bins as well,
exactly, however often they are merged. Knows no thresholds and no clock.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from datasketches import frequent_items_error_type, frequent_strings_sketch, hll_sketch, hll_union, kll_doubles_sketch
from numpy.typing import NDArray

from everloop.measure import moments
from everloop.measure.coded import Coded, Values
from everloop.measure.profile import (
    BINS,
    LEVELS,
    MOST_CATEGORIES,
    MOST_TEXT,
    ColumnProfile,
    Profile,
    counted,
    kind_of,
    present_numbers,
)
from everloop.records import ColumnType, decode, encode

K = 400
"""KS within .005 and PSI within .01 of exact, about 8 KB a column."""
FREQUENT = 12
"""Binary logarithm of the places for frequent items: any value of more than about a thousandth is kept."""
DISTINCT = 11
"""Binary logarithm of the registers of HLL: the number of different values within about 2 %."""

MANY = 512


@dataclass(slots=True)
class NumberSketch:
    quantiles: Any = field(default_factory=lambda: kll_doubles_sketch(K))
    missing: int = 0
    present: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Σ(x − mean)²."""
    least: float = math.inf
    most: float = -math.inf
    counts: NDArray[np.int64] | None = None
    """Rows in the bins of the reference."""

    def update(self, values: NDArray[np.float64], missing: int, edges: tuple[float, ...] | None) -> None:
        self.missing += missing
        if edges is not None:
            found = _binned(values, edges)
            self.counts = found if self.counts is None else self.counts + found
        if not len(values):
            return
        self.quantiles.update(values)
        self._add(moments.of(values), float(values.min()), float(values.max()))

    def merge(self, other: NumberSketch) -> None:
        self.missing += other.missing
        if other.counts is not None:
            self.counts = other.counts.copy() if self.counts is None else self.counts + other.counts
        if other.present:
            self.quantiles.merge(other.quantiles)
            self._add((other.present, other.mean, other.squares), other.least, other.most)

    def _add(self, more: moments.Moments, least: float, most: float) -> None:
        self.present, self.mean, self.squares = moments.together((self.present, self.mean, self.squares), more)
        self.least, self.most = min(self.least, least), max(self.most, most)

    def recounted(self, edges: tuple[float, ...]) -> NumberSketch:
        """The same rows in other bins, as the sketch has them."""
        plain = replace(self, counts=None)
        plain.counts = np.array(plain.profile(edges).counts, dtype=np.int64)
        return plain

    def profile(self, edges: tuple[float, ...] | None) -> ColumnProfile:
        sketch, n = self.quantiles, self.present
        grid: tuple[float, ...] = ()
        if n:
            levels = sketch.get_quantiles(LEVELS, inclusive=True)
            levels[0], levels[-1] = self.least, self.most
            grid = tuple(levels)
        if edges is None:
            inner = np.unique(sketch.get_quantiles(np.arange(1, BINS) / BINS, inclusive=True)) if n else np.zeros(0)
            edges = tuple(float(each) for each in inner if each < self.most)
            if n and self.least == self.most:
                edges = (float(np.nextafter(self.least, -np.inf)), self.least)
        counts = self.counts
        if counts is None or len(counts) != len(edges) + 1:
            shares = (
                np.diff(np.concatenate([[0.0], sketch.get_cdf(list(edges), inclusive=True)]))
                if n and edges
                else np.ones(1) * bool(n)
            )
            counts = np.diff(np.round(np.concatenate([[0.0], np.cumsum(shares)]) * n)).astype(np.int64)
            counts = counts if n or not edges else np.zeros(len(edges) + 1, np.int64)
        return ColumnProfile(
            kind="number",
            rows=n + self.missing,
            missing=self.missing,
            edges=edges,
            counts=tuple(int(each) for each in counts),
            quantiles=grid,
            mean=self.mean if n else None,
            deviation=math.sqrt(self.squares / n) if n else None,
            distinct=len(set(grid)),
        )


def _binned(values: NDArray[np.float64], edges: tuple[float, ...]) -> NDArray[np.int64]:
    if len(values) < MANY:
        return np.bincount(np.searchsorted(np.array(edges), values, side="left"), minlength=len(edges) + 1)
    # Nine comparisons of all values cost less than a search for each of them.
    below = np.array([0, *(np.count_nonzero(values <= each) for each in edges), len(values)], dtype=np.int64)
    return below[1:] - below[:-1]


@dataclass(slots=True)
class CategorySketch:
    frequent: Any = field(default_factory=lambda: frequent_strings_sketch(FREQUENT))
    different: Any = field(default_factory=lambda: hll_sketch(DISTINCT))
    missing: int = 0
    present: int = 0
    counts: NDArray[np.int64] | None = None
    """Rows with the values that the reference lists."""

    def update(self, found: Mapping[str, int], missing: int, listed: tuple[str, ...] | None) -> None:
        self.missing += missing
        self.present += sum(found.values())
        for value, count in found.items():
            self.frequent.update(value, count)
            self.different.update(value)
        if listed is not None:
            own = np.array([found.get(value, 0) for value in listed], dtype=np.int64)
            self.counts = own if self.counts is None else self.counts + own

    def merge(self, other: CategorySketch) -> None:
        self.missing += other.missing
        self.present += other.present
        self.frequent.merge(other.frequent)
        union = hll_union(DISTINCT)
        union.update(self.different)
        union.update(other.different)
        self.different = union.get_result()
        if other.counts is not None:
            self.counts = other.counts.copy() if self.counts is None else self.counts + other.counts

    def recounted(self, listed: tuple[str, ...]) -> CategorySketch:
        """The same rows by other values: exact up to some three thousand different ones."""
        found = dict(self._items())
        return replace(self, counts=np.array([found.get(value, 0) for value in listed], dtype=np.int64))

    def profile(self, listed: tuple[str, ...] | None) -> ColumnProfile:
        if listed is None or self.counts is None:
            values, counts = self._most_frequent()
        else:
            values, counts = listed, tuple(int(each) for each in self.counts)
        return ColumnProfile(
            kind="category",
            rows=self.present + self.missing,
            missing=self.missing,
            values=values,
            value_counts=counts,
            other=max(0, self.present - sum(counts)),
            distinct=round(self.different.get_estimate()),
        )

    def newcomers(self, listed: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
        """The most frequent values that the reference does not list, with about how many rows."""
        return newcomers(self._items(), listed)

    def _items(self) -> list[tuple[str, int]]:
        items = self.frequent.get_frequent_items(frequent_items_error_type.NO_FALSE_NEGATIVES)
        return _most_first((str(each[0]), int(each[1])) for each in items)

    def _most_frequent(self) -> tuple[tuple[str, ...], tuple[int, ...]]:
        kept: dict[str, int] = {}
        size = 0
        for value, count in self._items()[:MOST_CATEGORIES]:
            size += len(value.encode()) + 12
            if size > MOST_TEXT:
                break
            kept[value] = count
        return tuple(kept), tuple(kept.values())


def newcomers(found: Iterable[tuple[str, int]], listed: tuple[str, ...], most: int = 5) -> tuple[tuple[str, int], ...]:
    """Of values and their rows the most frequent ones that a reference does not list."""
    known = set(listed)
    return tuple(_most_first(each for each in found if each[0] not in known)[:most])


def _most_first(found: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    return sorted(found, key=lambda each: (-each[1], each[0]))


@dataclass(slots=True)
class Sketch:
    """Named columns. Merge only sketches that were held like the same reference, or like none."""

    rows: int = 0
    columns: dict[str, NumberSketch | CategorySketch] = field(default_factory=dict)

    def update(
        self,
        columns: Mapping[str, Values],
        *,
        types: Mapping[str, ColumnType] | None = None,
        like: Profile | None = None,
    ) -> None:
        """Add rows, given as `profile.build` takes them."""
        lengths = {len(values) for values in columns.values()}
        if len(lengths) > 1:
            raise ValueError(f"The columns have {sorted(lengths)} rows; a sketch needs one length.")
        self.rows += lengths.pop() if lengths else 0
        for name, values in columns.items():
            kind = kind_of(values, types.get(name) if types else None)
            if kind is None:
                continue
            reference = like.columns.get(name) if like else None
            if kind == "number" and not isinstance(values, Coded):
                own = self.columns.setdefault(name, NumberSketch())
                assert isinstance(own, NumberSketch)
                present, missing = present_numbers(values)
                own.update(present, missing, reference.edges if reference and reference.kind == "number" else None)
            else:
                other = self.columns.setdefault(name, CategorySketch())
                assert isinstance(other, CategorySketch)
                found, missing = counted(values, types.get(name) if types else None)
                other.update(found, missing, reference.values if reference and reference.kind == "category" else None)

    def merge(self, other: Sketch) -> None:
        """Add what another one has seen."""
        self.rows += other.rows
        for name, theirs in other.columns.items():
            own = self.columns.setdefault(name, type(theirs)())
            own.merge(theirs)  # type: ignore[arg-type]

    def recounted(self, like: Profile) -> Sketch:
        """The same rows held `like` another reference, for a merge with what was held so: its bins are counted from the
        sketches. Columns that ``like`` describes otherwise, or not at all, are left out.
        """
        made = Sketch(rows=self.rows)
        for name, column in self.columns.items():
            reference = like.columns.get(name)
            if reference is None:
                continue
            if isinstance(column, NumberSketch) and reference.kind == "number":
                made.columns[name] = column.recounted(reference.edges)
            elif isinstance(column, CategorySketch) and reference.kind == "category":
                made.columns[name] = column.recounted(reference.values)
        return made

    def profile(self, *, like: Profile | None = None) -> Profile:
        """The profile of all rows so far, in the bins of ``like`` or in its own."""
        made: dict[str, ColumnProfile] = {}
        for name, column in self.columns.items():
            reference = like.columns.get(name) if like else None
            if isinstance(column, NumberSketch):
                made[name] = column.profile(reference.edges if reference and reference.kind == "number" else None)
            else:
                made[name] = column.profile(reference.values if reference and reference.kind == "category" else None)
        return Profile(rows=self.rows, columns=made)


# As bytes, for another replica or another day


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    kind: str
    sketches: tuple[bytes, ...]
    missing: int
    present: int
    moments: bytes
    counts: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    rows: int
    columns: dict[str, _Kept]


def to_bytes(sketch: Sketch) -> bytes:
    """JSON with the sketches in it: what any other replica of any version can read."""
    kept: dict[str, _Kept] = {}
    for name, each in sketch.columns.items():
        counts = None if each.counts is None else tuple(int(count) for count in each.counts)
        if isinstance(each, NumberSketch):
            parts: tuple[bytes, ...] = (each.quantiles.serialize(),)
            moments = struct.pack("<4d", each.mean, each.squares, each.least, each.most)
        else:
            parts = (each.frequent.serialize(), each.different.serialize_compact())
            moments = b""
        kind = "number" if isinstance(each, NumberSketch) else "category"
        kept[name] = _Kept(
            kind=kind, sketches=parts, missing=each.missing, present=each.present, moments=moments, counts=counts
        )
    return encode(_File(rows=sketch.rows, columns=kept))


def from_bytes(data: bytes) -> Sketch:
    """Raises ValueError for what `to_bytes` did not write."""
    try:
        return _sketch(decode(data, _File))
    except (ValueError, IndexError, RuntimeError, MemoryError, struct.error) as error:
        raise ValueError(f"These {len(data)} bytes are no sketch: {error}") from None


def _sketch(file: _File) -> Sketch:
    made = Sketch(rows=file.rows)
    for name, each in file.columns.items():
        counts = None if each.counts is None else np.array(each.counts, dtype=np.int64)
        if each.kind == "number":
            mean, squares, least, most = struct.unpack("<4d", each.moments)
            made.columns[name] = NumberSketch(
                quantiles=kll_doubles_sketch.deserialize(each.sketches[0]),
                missing=each.missing,
                present=each.present,
                mean=mean,
                squares=squares,
                least=least,
                most=most,
                counts=counts,
            )
        else:
            made.columns[name] = CategorySketch(
                frequent=frequent_strings_sketch.deserialize(each.sketches[0]),
                different=hll_sketch.deserialize(each.sketches[1]),
                missing=each.missing,
                present=each.present,
                counts=counts,
            )
    return made
