"""What a set of rows looks like, column by column, in a few kilobytes. Knows nothing of thresholds or alarms.

Numbers: 401 quantiles and counts in ten bins of about equal mass; categories: counts of the most frequent values.
Missing values are counted apart everywhere. A profile built `like` a reference counts in the reference's bins and its
values, so the two compare exactly.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from everloop.measure.coded import Coded, Values
from everloop.measure.space import CLUSTER, DISTANCE, LENGTH, Space, of
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType, decode, encode

BINS = 10
PREDICTION = "(prediction)"
"""The name under which a profile may hold the model's own answers: the positive class's probability or the value."""
QUANTILES = 401
LEVELS = np.linspace(0, 1, QUANTILES)
LARGEST = float(np.finfo(np.float32).max)
MOST_CATEGORIES = 200
NOVEL = 0.01
"""The share of reference rows that is called far from what was known."""
MOST_TEXT = 6_000
"""Bytes of category names kept in one column: the rest counts as other, so that a column stays under 10 KB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnProfile:
    """One column. ``rows`` counts all rows, missing ones among them."""

    kind: Literal["number", "category"]
    rows: int
    missing: int
    edges: tuple[float, ...] = ()
    """Numbers: inner edges of the bins, rising; a value equal to an edge lies below it."""
    counts: tuple[int, ...] = ()
    """Numbers: rows per bin, one more than ``edges``."""
    quantiles: tuple[float, ...] = ()
    """Numbers: the values at levels 0, 0.0025 … 1 of what is present; empty when nothing is."""
    mean: float | None = None
    deviation: float | None = None
    values: tuple[str, ...] = ()
    """Categories: the most frequent values, most frequent first (of the reference, if built like one)."""
    value_counts: tuple[int, ...] = ()
    other: int = 0
    """Categories: rows with a value that is not among ``values``."""
    distinct: int = 0
    slots: tuple[tuple[int, ...], ...] = ()
    """Of each slot of the profile's season: rows per bin, or per listed value with all others last."""
    ends: tuple[float, ...] = ()
    """Numbers made for a season: the outermost of the quantiles of all rows, two at either end."""
    days: tuple[tuple[int, ...], ...] = ()
    """Of each of the profile's days: rows that miss it, then rows per bin, or per listed value with all others last."""
    of: str = ""
    """The column that this one follows from (`measure.space`)."""
    far: float | None = None
    """Distances from what was known: what one reference row in a hundred exceeds."""

    @property
    def present(self) -> int:
        return self.rows - self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Columns by name. Instants are left out: time always moves."""

    rows: int
    columns: dict[str, ColumnProfile]
    season: Literal["", "day", "week"] = ""
    """What ``slots`` are: hours of the day (24) or of the week (168, from Monday), in UTC. Made by `measure.season`."""
    days: tuple[int, ...] = ()
    """Days since 1970, in UTC, of which the columns keep rows apart. Made by `measure.habit`."""
    spaces: dict[str, Space] = field(default_factory=dict)
    """Columns of free text or arrays: not among ``columns`` themselves, but what follows from them is."""


def build(
    columns: Mapping[str, Values],
    *,
    types: Mapping[str, ColumnType] | None = None,
    like: Profile | None = None,
) -> Profile:
    """Profile of named columns of equal length.

    float arrays: NaN and infinities are missing; int64: `MISSING_INTEGER` is missing; bool; text arrays, of objects
    because numpy's own text loses the mark: None and `MISSING_TEXT` are missing; or texts as `Coded`. ``types`` tells integers from
    booleans and instants; without it the dtype decides.
    """
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise ValueError(f"The columns have {sorted(lengths)} rows; a profile needs one length.")
    built: dict[str, ColumnProfile] = {}
    for name, values in columns.items():
        kind = types.get(name) if types else None
        if kind_of(values, kind) is None:
            continue
        reference = like.columns.get(name) if like else None
        built[name] = _column(values, kind, reference)
    return Profile(rows=lengths.pop() if lengths else 0, columns=built)


def with_spaces(profile: Profile, spaces: Mapping[str, Space], later: Mapping[str, NDArray[Any]]) -> Profile:
    """The profile with what follows from free texts and arrays in their place; ``later`` as `space.learned` gives it."""
    kept = {name: each for name, each in profile.columns.items() if name not in spaces}
    for name in spaces:
        for what in (CLUSTER, DISTANCE, LENGTH):
            values = later.get(of(name, what))
            if values is None:
                continue
            made = build({of(name, what): values[len(values) // 2 :]}).columns[of(name, what)]
            far = made.quantiles[-1 - round(NOVEL * (QUANTILES - 1))] if what == DISTANCE and made.quantiles else None
            kept[of(name, what)] = replace(made, of=name, far=far)
    return replace(profile, columns=kept, spaces=dict(spaces))


def to_json(profile: Profile) -> bytes:
    return encode(profile)


def from_json(data: bytes | str) -> Profile:
    return decode(data, Profile)


def kind_of(values: Values, kind: ColumnType | None) -> Literal["number", "category"] | None:
    """How a column is described; None for instants: time always moves."""
    if isinstance(values, Coded):
        return "category"
    if kind == "instant" or np.issubdtype(values.dtype, np.datetime64):
        return None
    category = kind in ("boolean", "text") or values.dtype == np.bool_ or values.dtype.kind in "OUST"
    return "category" if category else "number"


def present_numbers(values: NDArray[Any]) -> tuple[NDArray[np.float64], int]:
    """What is present, as float64, and how many rows are missing."""
    whole = np.issubdtype(values.dtype, np.integer)
    present = values != MISSING_INTEGER if whole else np.isfinite(values)
    found = (values if present.all() else values[present]).astype(np.float64)
    if len(found) and not whole and max(found.max(), -found.min()) > LARGEST:
        found = np.clip(found, -LARGEST, LARGEST)  # as models see them: beyond it squares and sums are no numbers
    return found, len(values) - len(found)


def counted(values: Values, kind: ColumnType | None = None) -> tuple[dict[str, int], int]:
    """Rows of each value of a category, and how many are missing."""
    if isinstance(values, Coded):
        absent, *counts = values.counts().tolist()
        found = {value: count for value, count in zip(values.values, counts, strict=True) if count}
        return found, absent + found.pop(MISSING_TEXT, 0)
    if kind == "boolean" or values.dtype == np.bool_:
        missing = int(np.count_nonzero(values == MISSING_INTEGER))
        no = int(np.count_nonzero(values == 0))
        both = {"true": len(values) - no - missing, "false": no}
        return {name: count for name, count in both.items() if count}, missing
    found = {}
    missing = 0
    # Values are counted as they are, and made text once each.
    for value, count in Counter(values.tolist()).items():
        if value is None or value != value or (text := str(value)) == MISSING_TEXT:
            missing += count
        else:
            found[text] = found.get(text, 0) + count
    return found, missing


def _column(values: Values, kind: ColumnType | None, reference: ColumnProfile | None) -> ColumnProfile:
    if isinstance(values, Coded) or kind_of(values, kind) == "category":
        return _categories(*counted(values, kind), reference)
    return _numbers(*present_numbers(values), reference)


def _numbers(present: NDArray[np.float64], missing: int, reference: ColumnProfile | None) -> ColumnProfile:
    edges: tuple[float, ...] = ()
    quantiles: tuple[float, ...] = ()
    mean = deviation = None
    n = len(present)
    ordered = np.sort(present)
    if n:
        # Values that were there, not values between them and not rounded: discrete columns keep their steps, and a
        # constant of ten digits is not beyond itself.
        quantiles = tuple(_at(ordered, LEVELS).tolist())
        mean, deviation = float(present.mean()), float(present.std())
    if reference is not None and reference.kind == "number":
        edges = reference.edges
    elif n:
        tenths = _at(ordered, np.arange(1, BINS) / BINS)
        edges = tuple(float(each) for each in np.unique(tenths) if each < ordered[-1])
        if ordered[0] == ordered[-1]:  # Constant: anything below or above it is news.
            edges = (float(np.nextafter(ordered[0], -np.inf)), float(ordered[0]))
    below = np.searchsorted(ordered, np.array(edges), side="right")
    return ColumnProfile(
        kind="number",
        rows=n + missing,
        missing=missing,
        edges=edges,
        counts=tuple(np.diff(np.concatenate([[0], below, [n]])).tolist()),
        quantiles=quantiles,
        mean=mean,
        deviation=deviation,
        distinct=min(len(np.unique(quantiles)), QUANTILES),
    )


def _at(ordered: NDArray[np.float64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The smallest values that so large a share of all is at or below (the inverted distribution function)."""
    places = np.ceil(np.round(levels * len(ordered), 9)).astype(np.int64) - 1
    found: NDArray[np.float64] = ordered[np.clip(places, 0, len(ordered) - 1)]
    return found


def _categories(found: dict[str, int], missing: int, reference: ColumnProfile | None) -> ColumnProfile:
    if reference is not None and reference.kind == "category":
        kept = list(reference.values)
    else:
        kept = _most_frequent(found)
    value_counts = tuple(found.get(each, 0) for each in kept)
    present = sum(found.values())
    return ColumnProfile(
        kind="category",
        rows=present + missing,
        missing=missing,
        values=tuple(kept),
        value_counts=value_counts,
        other=present - sum(value_counts),
        distinct=len(found),
    )


def _most_frequent(found: Mapping[str, int]) -> list[str]:
    kept: list[str] = []
    size = 0
    for name in sorted(found, key=lambda each: (-found[each], each))[:MOST_CATEGORIES]:
        size += len(name.encode()) + 12
        if size > MOST_TEXT:
            break
        kept.append(name)
    return kept


def places(values: Values, column: ColumnProfile) -> NDArray[np.int64]:
    """The bin or the place among ``column.values`` of each row (other: after the last), −1 where missing."""
    if isinstance(values, Coded):
        known = {value: index for index, value in enumerate(column.values)}
        of_value = [-1 if each == MISSING_TEXT else known.get(each, len(known)) for each in values.values]
        return np.array([*of_value, -1], dtype=np.int64)[values.codes]
    if column.kind == "number":
        number = values.astype(np.float64)
        absent = values == MISSING_INTEGER if values.dtype == np.int64 else ~np.isfinite(number)
        found = np.searchsorted(np.array(column.edges), number, side="left")
        return np.where(absent, -1, found).astype(np.int64)
    place = {value: index for index, value in enumerate(column.values)}
    other = len(place)
    if values.dtype == np.int64 or values.dtype == np.bool_:
        yes, no = place.get("true", other), place.get("false", other)
        return np.where(values == MISSING_INTEGER, -1, np.where(values != 0, yes, no)).astype(np.int64)
    return np.array(
        [-1 if each is None or each == MISSING_TEXT else place.get(each, other) for each in values.tolist()],
        dtype=np.int64,
    )
