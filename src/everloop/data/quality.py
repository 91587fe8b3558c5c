"""Which rows fail which declared check. Knows nothing of files, keys or what becomes of a failing row.

Every check but NotNull lets a missing value pass: whether a value may be missing is a question of its own.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

import polars as pl

from everloop.data.sources import EVENT_TIME, KEY
from everloop.errors import DataError
from everloop.forms import Image
from everloop.measure.images import NotAnImage, decode
from everloop.records import ColumnType
from everloop.spec.checks import Between, Check, Fresh, Holds, Matches, NotNull, OneOf, Unique
from everloop.spec.tree import FeatureTree, inputs_of


def reasons(
    checks: Sequence[Check],
    rows: pl.DataFrame,
    types: Mapping[str, ColumnType],
    zones: Mapping[str, str | None] | None = None,
) -> pl.Series:
    """For each row why it fails, all reasons joined by "; "; null where it passes.

    Raises DataError for a column that a check names and the rows do not have.
    """
    failing: list[pl.Series] = []
    for check in checks:
        try:
            found = _failing(check, rows, types, zones or {})
        except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
            kinds = ", ".join(f"{name} ({types.get(name, 'unknown')})" for name in sorted(columns_of(check)))
            raise DataError(
                f"{check!r} cannot be applied to {kinds}: {str(error).splitlines()[0]}. "
                f"Write a check that fits the column's type."
            ) from error
        for says, fails in found:
            if fails.any():
                nothing = pl.Series([None], dtype=pl.String)
                failing.append(pl.Series([says], dtype=pl.String).new_from_index(0, len(rows)).zip_with(fails, nothing))
    if not failing:
        return pl.Series("_reason", [None] * len(rows), dtype=pl.String)
    joined = pl.concat_str([each.alias(str(n)) for n, each in enumerate(failing)], separator="; ", ignore_nulls=True)
    return pl.select(pl.when(joined != "").then(joined).alias("_reason")).to_series()


def broken(images: Mapping[str, Image], rows: pl.DataFrame) -> pl.Series:
    """For each row which of its images cannot be decoded, and why; null where all can."""
    reasons: list[list[str]] = [[] for _ in range(len(rows))]
    for name, form in images.items():
        if name not in rows.columns:
            continue
        for row, data in enumerate(rows[name]):
            try:
                decode(data or b"", form)
            except NotAnImage as problem:
                reasons[row].append(f"{name} is no image: {_kind_of(str(problem))}")
    said = ["; ".join(each) if each else None for each in reasons]
    return pl.Series("_reason", said, dtype=pl.String)


def _kind_of(problem: str) -> str:
    """Without figures of the single file, so that reasons can be counted."""
    return re.sub(r"\d[\d,]*", "…", problem.partition(" (")[0])


def stale(checks: Sequence[Check], rows: pl.DataFrame, now: datetime) -> str | None:
    """Why the batch as a whole is too old (Fresh), if it is. A batch without rows says nothing."""
    newest = rows[EVENT_TIME].max()
    for check in checks:
        if isinstance(check, Fresh) and isinstance(newest, datetime) and now - newest > check.within:
            return (
                f"its newest row is of {newest.isoformat()}, {now - newest} before it came; Fresh allows {check.within}"
            )
    return None


def columns_of(check: Check) -> frozenset[str]:
    """The raw columns a check reads."""
    match check:
        case NotNull() | Unique():
            return frozenset(check.columns)
        case Between() | OneOf() | Matches():
            return frozenset((check.column,))
        case Holds():
            return inputs_of(check.node)
        case _:
            return frozenset()


def _failing(
    check: Check, rows: pl.DataFrame, types: Mapping[str, ColumnType], zones: Mapping[str, str | None]
) -> list[tuple[str, pl.Series]]:
    """(reason, which rows fail) of one check."""
    absent = sorted(columns_of(check) - set(rows.columns))
    if absent:
        raise DataError(f"{type(check).__name__} checks a column {absent[0]} that the rows do not have.")
    match check:
        case NotNull():
            return [(f"{name} is missing", rows[name].is_null()) for name in check.columns]
        case Between():
            fits = ("instant",) if isinstance(check.low, datetime) else ("number", "integer")
            if types.get(check.column) not in fits:
                raise TypeError(f"its bounds are for {' or '.join(fits)}")
            low, high = _shown(check.low), _shown(check.high)
            inside = rows[check.column].is_between(check.low, check.high)
            return [(f"{check.column} is not between {low} and {high}", ~inside.fill_null(True))]
        case OneOf():
            return [(f"{check.column} is none of the {len(check.values)} allowed values", ~_among(check, rows))]
        case Matches():
            if types.get(check.column) != "text":
                raise TypeError("a pattern is for text")
            return [(f"{check.column} does not match {check.pattern}", ~_matching(check, rows))]
        case Unique():
            return [(f"{', '.join(check.columns)} not unique in its batch", _repeated(check, rows))]
        case Holds():
            from everloop.data.features import render

            tree = FeatureTree(columns=((check.name, check.node),))
            return [(f"{check.name} does not hold", ~render(tree, rows, types, zones)[check.name].fill_null(True))]
        case _:
            return []


def _among(check: OneOf, rows: pl.DataFrame) -> pl.Series:
    column = rows[check.column]
    return column.is_in(pl.Series(list(check.values), dtype=column.dtype, strict=False).implode()).fill_null(True)


def _matching(check: Matches, rows: pl.DataFrame) -> pl.Series:
    try:
        return rows[check.column].cast(pl.String).str.contains(check.pattern).fill_null(True)
    except pl.exceptions.ComputeError as error:
        raise DataError(
            f"The pattern {check.pattern!r} on column {check.column} is none for the regular expressions used on "
            f"columns (no look-around, no back references). Write it without, or use el.check.Holds."
        ) from error


def _repeated(check: Unique, rows: pl.DataFrame) -> pl.Series:
    """Rows whose values an earlier row of another key has; a second delivery of one row is not meant."""
    first = pl.col(KEY).first().over(list(check.columns))
    complete = pl.all_horizontal(pl.col(name).is_not_null() for name in check.columns)
    return rows.select((complete & (pl.col(KEY) != first)).fill_null(False).alias("repeated")).to_series()


def _shown(bound: object) -> str:
    return bound.isoformat() if isinstance(bound, datetime) else str(bound)
