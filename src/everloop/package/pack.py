"""Raw rows to the packed inputs of a graph. Knows nothing of graphs.

For offline work (parity, batch scoring, tests); the server packs requests by itself, by the same rules.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from everloop.clock import microseconds
from everloop.errors import DataError
from everloop.forms import Image
from everloop.measure import images
from everloop.records import MISSING_INTEGER, MISSING_TEXT, InputColumn, Signature

AT_ONCE = 512
"""Rows with images that are held decoded at the same time."""


def pack(rows: pl.DataFrame | Mapping[str, Any], inputs: Sequence[InputColumn]) -> dict[str, np.ndarray]:
    """``numbers`` float64, ``integers`` int64, ``texts`` object of str: each [rows, n], only if it has columns.

    ``rows`` is a frame or columns by name (numpy arrays or lists; None, NaN and NaT are missing). A number that is not
    finite is missing. Instants are microseconds since 1970 UTC, or aware datetimes. Raises DataError for a column that
    is not there or does not have its type.
    """
    packed: dict[str, list[np.ndarray]] = {"numbers": [], "integers": [], "texts": []}
    for column in sorted(inputs, key=lambda each: each.index):
        kind = {"number": "numbers", "text": "texts"}.get(column.type, "integers")
        packed[kind].append(_column(rows, column))
    return {kind: np.stack(columns, axis=1) for kind, columns in packed.items() if columns}


def feeds(rows: pl.DataFrame | Mapping[str, Any], signature: Signature) -> dict[str, np.ndarray]:
    """All inputs of a graph: those of `pack`, and images as uint8 [rows, height, width, channels] under their names.

    Raises DataError for an image that is missing or none.
    """
    found = pack(rows, signature.inputs)
    for column in signature.tensors:
        if column.image is None:
            continue
        if column.name not in (rows.columns if isinstance(rows, pl.DataFrame) else rows):
            raise DataError(f"the rows have no column {column.name!r} (an image); give the bytes of a PNG or JPEG file")
        found[column.name] = decoded(column.name, rows[column.name], column.image)
    return found


def decoded(name: str, values: Iterable[bytes | None], form: Image) -> np.ndarray:
    """uint8 [rows, height, width, channels]. Raises DataError naming the row."""
    made = []
    for row, value in enumerate(values):
        try:
            made.append(images.decode(value or b"", form))
        except images.NotAnImage as problem:
            raise DataError(f"the image {name!r} of row {row} is {problem}.") from None
    return np.stack(made) if made else np.zeros((0, form.height, form.width, form.channels), np.uint8)


def _column(rows: pl.DataFrame | Mapping[str, Any], column: InputColumn) -> np.ndarray:
    if column.name not in (rows.columns if isinstance(rows, pl.DataFrame) else rows):
        raise DataError(
            f"the rows have no column {column.name!r} ({column.type}); give it, or null where it is missing"
        )
    try:
        series = _series(rows[column.name], column)
        match column.type:
            case "number":
                values = series.cast(pl.Float64).fill_null(float("nan")).to_numpy().copy()
                values[np.isinf(values)] = np.nan
                return values
            case "text":
                return np.array(series.cast(pl.String).fill_null(MISSING_TEXT).to_list(), dtype=object)
            case "instant" if series.dtype == pl.Datetime:
                series = series.dt.cast_time_unit("us")
        return series.cast(pl.Int64).fill_null(MISSING_INTEGER).to_numpy()
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError) as problem:
        raise DataError(f"the column {column.name!r} does not hold {column.type} values: {problem}") from problem


_TYPES: dict[str, Any] = {
    "number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "text": pl.String, "instant": pl.Int64,
}  # fmt: skip


def _series(values: Any, column: InputColumn) -> pl.Series:
    if isinstance(values, pl.Series):
        return values
    if isinstance(values, np.ndarray) and values.dtype != object:
        series = pl.Series(values)
        return series.fill_nan(None) if series.dtype.is_float() and column.type != "number" else series
    listed = [None if isinstance(each, float) and each != each else each for each in values]
    if column.type == "instant":
        listed = [microseconds(each) if isinstance(each, datetime) else each for each in listed]
    return (
        pl.Series(listed, dtype=_TYPES[column.type], strict=False)
        if column.type == "number"
        else pl.Series(listed, dtype=_TYPES[column.type])
    )
