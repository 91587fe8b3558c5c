"""Brings the columns of a frame to what a graph takes, and names the values that cannot be. Knows nothing of files.

The rules are those of requests: what the server would refuse is refused here, with the same words.
"""

from base64 import b64decode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everloop.errors import DataError
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType, InputColumn, Signature, TensorColumn
from everloop.serve import tensors
from everloop.serve.instants import reader as instant_reader
from everloop.serve.rows import KINDS, TYPES, Packed
from everloop.spec.zones import FIRST, LAST, transitions

EXACT = 2**53
"""Up to here every integer has a place of its own among the numbers."""
ISO = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:[0-5]\d(\.\d{1,6})?Z?$"
"""The form that is read at once; every other is read one by one, as the server does."""
MICROSECONDS = r"^-?\d{9,18}$"
NUMERIC = "numbers"
_YEARS = (int(FIRST.timestamp()) * 1_000_000, int(LAST.timestamp()) * 1_000_000)
"""Where the table of a zone holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bad:
    """A row that cannot be scored. ``row`` is counted from 0, ``column`` None when it is the row as a whole."""

    row: int
    column: str | None
    value: Any
    expected: str

    @property
    def reason(self) -> str:
        if self.column is None:
            return self.expected
        return f"column {self.column!r} is {shown(self.value)}; expected {self.expected}"

    def told(self, file: str) -> str:
        """For a person; rows count from 1."""
        return f"{file}, row {self.row + 1}: {self.reason}."


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


@dataclass(frozen=True, slots=True)
class Typed:
    """Columns of some rows by name: Float64, Int64 (booleans, instants as well), String, arrays for tensors."""

    columns: dict[str, pl.Series | NDArray[Any]]
    bad: list[Bad]
    """Ordered by row, one for each row at most."""


def typed(
    frame: pl.DataFrame,
    columns: Sequence[InputColumn],
    arrays: Sequence[TensorColumn],
    *,
    written: frozenset[str],
    where: str,
) -> Typed:
    """The columns of a frame by their types. ``written``: those whose texts stand for any type, as in a CSV file.

    A column as a whole of another type raises DataError; single values that cannot be are in ``bad``.
    """
    found: dict[str, pl.Series | NDArray[Any]] = {}
    bad: dict[int, Bad] = {}
    for column in columns:
        series = frame.get_column(column.name)
        values, wrong = _typed(series, column, column.name in written, where)
        found[column.name] = values
        for row, expected in wrong:
            bad.setdefault(row, Bad(row=row, column=column.name, value=series[row], expected=expected))
    for tensor in arrays:
        array, wrong = _tensor(frame.get_column(tensor.name), tensor, where)
        found[tensor.name] = array
        for row, expected in wrong:
            bad.setdefault(row, Bad(row=row, column=tensor.name, value=frame[tensor.name][row], expected=expected))
    return Typed(found, [bad[row] for row in sorted(bad)])


def packed(columns: Mapping[str, pl.Series | NDArray[Any]], signature: Signature, rows: int) -> Packed:
    """The graph's inputs (records.Signature) from typed columns of so many rows."""
    made: Packed = {}
    for kind, types in KINDS.items():
        inputs = sorted((c for c in signature.inputs if c.type in types), key=lambda column: column.index)
        if not inputs:
            continue
        dtype: Any = {"numbers": np.float64, "integers": np.int64, "texts": object}[kind]
        array = np.empty((rows, len(inputs)), dtype=dtype)
        for place, column in enumerate(inputs):
            series = columns[column.name]
            assert isinstance(series, pl.Series)
            array[:, place] = _plain(series, kind)
        made[kind] = array
    for tensor in signature.tensors:
        whole = columns[tensor.name]
        assert isinstance(whole, np.ndarray)
        made[tensor.name] = whole
    return made


def _plain(series: pl.Series, kind: str) -> NDArray[Any]:
    if series.null_count():
        series = series.fill_null(
            float("nan") if kind == NUMERIC else MISSING_TEXT if kind == "texts" else MISSING_INTEGER
        )
    return series.to_numpy()


Wrong = Sequence[tuple[int, str]]


def _typed(series: pl.Series, column: InputColumn, written: bool, where: str) -> tuple[pl.Series, Wrong]:
    dtype = series.dtype
    if dtype == pl.Null or (series.null_count() == len(series) and len(series)):
        target: Any = {"number": pl.Float64, "text": pl.String}.get(column.type, pl.Int64)
        return pl.Series(series.name, [None], dtype=target).new_from_index(0, len(series)), ()
    is_text = dtype in (pl.String, pl.Categorical, pl.Enum)
    parsed = series.cast(pl.String) if is_text else series
    expected = TYPES[column.type][2]
    if column.type == "number":
        if dtype == pl.Float64:
            return series, ()
        if dtype.is_numeric():
            return series.cast(pl.Float64), ()
        if is_text and written:
            return _checked(parsed, parsed.cast(pl.Float64, strict=False), expected)
    elif column.type == "integer":
        if dtype.is_integer() or dtype.is_float() or (is_text and written):
            return _integers(parsed, expected)
    elif column.type == "boolean":
        if dtype == pl.Boolean:
            return series.cast(pl.Int64), ()
        if is_text and written:
            words = parsed.str.to_lowercase()
            truth = words.replace_strict({"true": 1, "false": 0}, default=None, return_dtype=pl.Int64)
            return _checked(parsed, truth, expected)
    elif column.type == "text":
        if is_text:
            return parsed, _rows_where(parsed == MISSING_TEXT, expected)
    elif dtype.is_integer():
        return _integers(series, expected)
    elif isinstance(dtype, pl.Datetime | pl.Date) or is_text:
        return _instants(parsed, column, written, where)
    raise DataError(
        f"Column {series.name!r} in {where} is {dtype}; expected {column.type}. "
        "Bring it with that type, or under another name."
    )


def _integers(series: pl.Series, expected: str) -> tuple[pl.Series, Wrong]:
    """Whole numbers written as floats or text are taken: a missing value makes some writers do so."""
    if series.dtype.is_integer():
        whole = series.cast(pl.Int64, strict=False)
    elif series.dtype.is_float():
        series = series.fill_nan(None)
        exact = (series == series.round()) & (series.abs() <= EXACT)
        whole = series.cast(pl.Int64, strict=False).zip_with(exact, pl.Series([None], dtype=pl.Int64))
    else:
        whole = series.cast(pl.Int64, strict=False)
        if whole.null_count() > series.null_count():
            floats = series.cast(pl.Float64, strict=False)
            whole = whole.zip_with(whole.is_not_null(), _integers(floats, expected)[0])
    return _checked(series, whole.zip_with(whole != MISSING_INTEGER, pl.Series([None], dtype=pl.Int64)), expected)


def _checked(before: pl.Series, after: pl.Series, expected: str) -> tuple[pl.Series, Wrong]:
    """What was there before and is not after was no such value."""
    if after.null_count() == before.null_count():
        return after, ()
    return after, _rows_where(before.is_not_null() & after.is_null(), expected)


def _rows_where(wrong: pl.Series, expected: str) -> Wrong:
    return [(row, expected) for row in wrong.arg_true().to_list()] if wrong.any() else ()


# Instants


def _instants(series: pl.Series, column: InputColumn, written: bool, where: str) -> tuple[pl.Series, Wrong]:
    """Microseconds in UTC, read as the server reads them."""
    dtype = series.dtype
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return series.dt.epoch("us"), ()
    if isinstance(dtype, pl.Datetime | pl.Date):
        if column.time_zone is None:
            raise DataError(
                f"Column {series.name!r} in {where} holds instants without a zone and none was declared for it; "
                "write them with their offset from UTC."
            )
        wall = series.cast(pl.Datetime("us")).to_physical()
        outside = series.filter(~wall.is_between(*_YEARS))
        if outside.is_empty():
            return _to_utc(wall, column.time_zone), ()
        series = series.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    moments, wrong = _instants_of_texts(series, column.time_zone)
    if wrong and written:  # a writer of texts has only texts for integers, too
        counted = series.zip_with(series.str.contains(MICROSECONDS), pl.Series([None], dtype=pl.String))
        moments = moments.zip_with(counted.is_null(), counted.cast(pl.Int64, strict=False))
        wrong = [(row, because) for row, because in wrong if moments[row] is None]
    return moments, wrong


def _instants_of_texts(texts: pl.Series, time_zone: str | None) -> tuple[pl.Series, Wrong]:
    plain = texts.str.contains(ISO)
    zulu = texts.str.ends_with("Z")
    wall = (
        texts.zip_with(plain, pl.Series([None], dtype=pl.String))
        .str.strip_suffix("Z")
        .str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
        .to_physical()
    )
    within = wall.is_between(*_YEARS)
    wall = wall.zip_with(within if time_zone else within & zulu, pl.Series([None], dtype=pl.Int64))
    moments = wall if time_zone is None else wall.zip_with(zulu, _to_utc(wall, time_zone))
    rest = (moments.is_null() & texts.is_not_null()).arg_true()
    if rest.is_empty():
        return moments, ()
    read = instant_reader(time_zone)
    known: dict[str, int | None] = {}
    reasons: dict[str, str] = {}
    others = texts.gather(rest).to_list()
    for text in others:
        if text not in known:
            try:
                known[text] = read(text)
            except (ValueError, OverflowError) as error:
                known[text], reasons[text] = None, str(error)
    moments = moments.scatter(rest, [known[text] for text in others])
    wrong = [(row, reasons[text]) for row, text in zip(rest.to_list(), others, strict=True) if text in reasons]
    return moments, wrong


def _to_utc(wall: pl.Series, time_zone: str) -> pl.Series:
    """Wall-clock microseconds of a zone as instants: of the hour that happens twice the first is meant."""
    table = transitions(time_zone)
    offsets = np.array(table.offsets, np.int64)
    # On the wall a change is over once the later of its two clocks shows it: before, the offset before it holds.
    changes = np.array(table.instants, np.int64) + np.maximum(offsets[:-1], offsets[1:])
    before = offsets[np.searchsorted(changes, wall.fill_null(0).to_numpy(), side="right")]
    return wall - pl.Series(before)


# Tensors


def _tensor(series: pl.Series, column: TensorColumn, where: str) -> tuple[NDArray[Any], Wrong]:
    """[rows, *shape] from lists of the right length or from little-endian bytes; rows of zeros where it cannot be."""
    if column.image is not None:
        return _images(series, column, where)
    rows, expected = len(series), tensors.words(column)
    made = np.zeros((rows, *column.shape), tensors.DTYPES[column.datatype])
    wrong: list[tuple[int, str]] = []
    if not isinstance(series.dtype, pl.Binary | pl.List | pl.Array | pl.Null):
        raise DataError(f"Column {column.name!r} in {where} is {series.dtype}; expected {expected}.")
    for row, value in enumerate(series):
        try:
            if isinstance(value, bytes):
                flat = np.frombuffer(tensors.checked(value, column, 1), made.dtype).reshape(column.shape)
            else:
                flat = np.array(None if value is None else value.to_list())
                if flat.dtype.kind not in ("fiub" if made.dtype.kind == "f" else "iub") or flat.shape != column.shape:
                    raise ValueError
            if made.dtype.kind != "f" and not np.array_equal(flat.astype(made.dtype), flat):
                raise ValueError
            if not np.isfinite(flat).all():
                raise ValueError
            made[row] = flat
        except (ValueError, OverflowError):
            wrong.append((row, expected))
    return made, wrong


def _images(series: pl.Series, column: TensorColumn, where: str) -> tuple[NDArray[Any], Wrong]:
    """uint8 [rows, height, width, channels] of files' bytes, or of their base64 in files that know no bytes."""
    expected = "the bytes of a PNG or JPEG file"
    if not isinstance(series.dtype, pl.Binary | pl.String | pl.Null):
        raise DataError(f"Column {column.name!r} in {where} is {series.dtype}; expected {expected}.")
    made = np.zeros((len(series), *column.shape), np.uint8)
    wrong: list[tuple[int, str]] = []
    for row, value in enumerate(series):
        try:
            file = b64decode(value, validate=True) if isinstance(value, str) else value or b""
            made[row] = np.frombuffer(tensors.pixels(file, column), np.uint8).reshape(column.shape)
        except ValueError as error:
            wrong.append((row, f"{expected}, and it is {error}"))
    return made, wrong


def dtype_of(kind: ColumnType) -> Any:
    """How a column of the signature stands in a table that is written."""
    return {
        "number": pl.Float64(), "integer": pl.Int64(), "boolean": pl.Boolean(), "text": pl.String(),
        "instant": pl.Datetime("us", "UTC"), "bytes": pl.Binary(),
    }[kind]  # fmt: skip
