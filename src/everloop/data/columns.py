"""Brings the columns of any file to the five column types. Knows nothing of keys, checks or tables.

number: Float64, NaN becomes missing. integer: Int64. boolean: Boolean. text: String. instant: Datetime("us", "UTC").
bytes: Binary.
"""

from collections.abc import Mapping
from typing import cast, get_args

import numpy as np
import polars as pl

from everloop.errors import DataError, SchemaChanged
from everloop.records import ColumnType
from everloop.spec.zones import transitions

DTYPES: Mapping[ColumnType, pl.DataType] = {
    "number": pl.Float64(),
    "integer": pl.Int64(),
    "boolean": pl.Boolean(),
    "text": pl.String(),
    "instant": pl.Datetime("us", "UTC"),
    "bytes": pl.Binary(),
}
TYPES: tuple[ColumnType, ...] = get_args(ColumnType)

EXACT = 2**53
_ISO = r"^(\d{4}-\d{2}-\d{2})(?:[T ](\d{2}:\d{2}(?::\d{2}(?:\.\d+)?)?))?\s*(Z|[+-]\d{2}:?\d{2})?$"
# "007" is a name, not a number.
_INTEGER = r"^[+-]?(0|[1-9]\d{0,18})$"
_NUMBER = r"^[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?$|^(?i:nan)$|^[+-]?(?i:inf|infinity)$"
_BOOLEAN = r"^(?i:true|false)$"


def column_type(dtype: pl.DataType) -> ColumnType | None:
    """The column type a polars type is read as; None for what cannot be taken (lists, bytes, …) or has no type yet."""
    if dtype == pl.Boolean:
        return "boolean"
    if dtype.is_integer():
        return "integer"
    if dtype.is_float() or dtype.is_decimal():
        return "number"
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        return "text"
    if dtype in (pl.Datetime, pl.Date):
        return "instant"
    if dtype == pl.Binary:
        return "bytes"
    return None


def typed(
    series: pl.Series, kind: ColumnType, *, time_zone: str | None, where: str, written: bool = False
) -> pl.Series:
    """A column of a file as its column type. ``written``: texts that stand for any type, as in a CSV file.

    An integer is taken for a number, a number without fractions for an integer (a missing value makes some writers
    turn integers into floats). Anything else raises SchemaChanged naming the column, both types and ``where``.
    """
    found = column_type(series.dtype)
    if found is None:
        if series.dtype == pl.Null or series.null_count() == len(series):
            return pl.Series(series.name, [None] * len(series), dtype=DTYPES[kind])
        raise _changed(series, kind, str(series.dtype), where)
    if found == "text" and kind != "text" and written:
        return _parsed(series.cast(pl.String), kind, time_zone, where)
    if found == "text" and kind == "instant":
        return instants(series.cast(pl.String), time_zone=time_zone, where=where)
    if found == kind:
        return _same(series, kind, time_zone, where)
    if found == "integer" and kind == "number":
        return series.cast(pl.Float64)
    if found == "number" and kind == "integer":
        floats = series.cast(pl.Float64).fill_nan(None)
        whole = (floats == floats.round()) & (floats.abs() <= EXACT)
        if whole.all():
            return floats.cast(pl.Int64)
    if series.null_count() == len(series):
        return pl.Series(series.name, [None] * len(series), dtype=DTYPES[kind])
    raise _changed(series, kind, found, where)


def guessed(series: pl.Series) -> ColumnType | None:
    """The type that all values of a text column can be read as; None when there is no value at all."""
    values = series.drop_nulls()
    if values.is_empty():
        return None
    if values.str.contains(_BOOLEAN).all():
        return "boolean"
    if values.str.contains(_INTEGER).all() and values.cast(pl.Int64, strict=False).null_count() == 0:
        return "integer"
    if values.str.contains(_NUMBER).all():
        return "number"
    return "instant" if values.str.contains(_ISO).all() else "text"


def instants(series: pl.Series, *, time_zone: str | None, where: str) -> pl.Series:
    """ISO 8601 texts as instants in UTC; a text without offset is read in ``time_zone``."""
    frame = series.to_frame("text").with_columns(pl.col("text").str.extract_groups(_ISO).struct.unnest())
    frame.columns = ["text", "date", "time", "offset"]
    time = (
        pl.when(pl.col("time").str.len_bytes() == 5)
        .then(pl.col("time") + ":00")
        .otherwise("time")
        .fill_null("00:00:00")
    )
    sign = pl.when(pl.col("offset").str.starts_with("-")).then(-1).otherwise(1)
    minutes = pl.col("offset").str.slice(1, 2).cast(pl.Int64, strict=False) * 60
    minutes += pl.col("offset").str.slice(-2).cast(pl.Int64, strict=False)
    wall = (pl.col("date") + " " + time).str.slice(0, 26)
    frame = frame.with_columns(
        wall.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", strict=False, time_unit="us").alias("wall"),
        pl.when(pl.col("offset") == "Z").then(0).otherwise(sign * minutes).alias("minutes"),
    )
    bad = frame.filter(pl.col("text").is_not_null() & pl.col("wall").is_null())
    if len(bad):
        raise SchemaChanged(
            f"Column {series.name} is instant; {where} has the text {bad['text'][0]!r}. "
            f"Write instants as ISO 8601, for example 2026-01-31T08:00:00Z."
        )
    naive = frame["wall"].is_not_null() & frame["offset"].is_null()
    local: pl.Series | None = None
    if naive.any():
        local = to_utc(frame["wall"].alias(series.name), time_zone=time_zone, where=where)
    shifted = (pl.col("wall") - pl.duration(minutes=pl.col("minutes"))).dt.replace_time_zone("UTC")
    result = frame.select(shifted.alias(series.name)).to_series()
    return result if local is None else result.zip_with(~naive, local)


def to_utc(naive: pl.Series, *, time_zone: str | None, where: str) -> pl.Series:
    """Wall-clock times of a zone as instants, the way Python's ``fold=0`` reads them.

    Of an hour that happens twice the earlier is meant. An hour that never was (clocks forward) is read with the
    offset before the change, so it comes out shifted by what was left out.
    """
    if time_zone is None:
        raise DataError(
            f"Column {naive.name} in {where} holds instants without a zone, for example {naive.drop_nulls()[0]}. "
            f'Declare the zone of the source, for example time_zone="UTC" or time_zone="America/Chicago".'
        )
    table = transitions(time_zone)
    wall = naive.dt.cast_time_unit("us").to_physical()
    offsets = np.array(table.offsets, np.int64)
    # On the wall a change is over once the later of its two clocks shows it: before, the offset before it holds.
    changes = np.array(table.instants, np.int64) + np.maximum(offsets[:-1], offsets[1:])
    before = offsets[np.searchsorted(changes, wall.fill_null(0).to_numpy(), side="right")]
    return (wall - pl.Series(before)).cast(DTYPES["instant"]).alias(naive.name)


def _same(series: pl.Series, kind: ColumnType, time_zone: str | None, where: str) -> pl.Series:
    if series.dtype == DTYPES[kind] and (kind != "number" or _no_nan(series)):
        return series  # The usual case: each step on a column costs more than the rows of a small file.
    if kind == "number":
        return series.cast(pl.Float64).fill_nan(None)
    if kind == "integer":
        whole = series.cast(pl.Int64, strict=False)
        if whole.null_count() > series.null_count():
            raise DataError(
                f"Column {series.name} in {where} has the integer {series.filter(whole.is_null())[0]}; "
                f"an integer here has 64 bits with sign. Bring it as text."
            )
        return whole
    if kind != "instant":
        return series.cast(DTYPES[kind])
    moments = series.cast(pl.Datetime("us")) if series.dtype == pl.Date else series.dt.cast_time_unit("us")
    dtype = cast(pl.Datetime, moments.dtype)
    if dtype.time_zone is not None:
        return moments.dt.convert_time_zone("UTC")
    if moments.null_count() == len(moments):
        return moments.dt.replace_time_zone("UTC")
    return to_utc(moments, time_zone=time_zone, where=where)


def _no_nan(numbers: pl.Series) -> bool:
    return not numbers.null_count() and not np.isnan(numbers.to_numpy()).any()


def _parsed(texts: pl.Series, kind: ColumnType, time_zone: str | None, where: str) -> pl.Series:
    if kind == "instant":
        return instants(texts, time_zone=time_zone, where=where)
    pattern = {"number": _NUMBER, "integer": _INTEGER, "boolean": _BOOLEAN}[kind]
    bad = texts.filter(~texts.str.contains(pattern).fill_null(True))
    if len(bad):
        found = guessed(texts) or "text"
        if kind == "integer" and found == "number":
            return typed(_parsed(texts, "number", None, where), "integer", time_zone=None, where=where)
        raise SchemaChanged(
            f"Column {texts.name} is {kind}; in {where} it is {found}, for example {bad[0]!r}. "
            f"Correct the file, or bring the column under another name."
        )
    if kind == "boolean":
        return texts.str.to_lowercase() == "true"
    if kind == "integer":
        return _same(texts.cast(pl.Int128), "integer", None, where)
    return texts.cast(pl.Float64).fill_nan(None)


def _changed(series: pl.Series, kind: ColumnType, found: str, where: str) -> SchemaChanged:
    example = series.drop_nulls()
    return SchemaChanged(
        f"Column {series.name} is {kind}; in {where} it is {found}"
        + (f", for example {example[0]!r}. " if len(example) and example.dtype != pl.Object else ". ")
        + "Correct the file, or bring the column under another name."
    )
