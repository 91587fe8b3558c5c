"""Reads the files of a source as typed rows. Knows nothing of checks, labels, tables or what was read before.

A row carries, beside its own columns: `_key` (the key columns joined by '|'), `_event_time` and `_batch` (the digest
of the content it came with).
"""

import csv
import glob
import hashlib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import polars as pl

from everloop.data.columns import DTYPES, column_type, guessed, typed
from everloop.errors import DataError, SchemaChanged
from everloop.records import ColumnType
from everloop.spec.source import Csv, Fixed, JsonLines, Parquet, Source
from everloop.store import delta

PARQUET = ".parquet"
KEY, EVENT_TIME, BATCH = "_key", "_event_time", "_batch"
RESERVED = (KEY, EVENT_TIME, BATCH, "_reason", "_at", "_label")

HEAD = 10_000
"""Rows of a CSV or JSON-lines file that are looked at to know its types."""
HEADS = 20
"""Files whose heads are looked at: the oldest and the newest by name."""


def files(source: Source, folder: Path) -> list[Path]:
    """The files that match now, sorted by path. Of a Delta table those of its newest version."""
    return [Path(place) for place in places(source, folder) if os.path.isfile(place)]  # noqa: PTH113


def places(source: Source, folder: Path) -> list[str]:
    """All that matches now, folders too, sorted by path; in place of a Delta table the files of its newest version.

    Raises DataError for a table that cannot be read, and for a pattern that reaches into one: beside the files that it
    consists of there are those of earlier versions.
    """
    found = glob.glob(str(Path(folder) / source.path), recursive=True)  # noqa: PTH207
    if isinstance(source, Parquet):
        named_so = _folders(found)
        tables = [place for place in found if place in named_so or not place.endswith(PARQUET)]
        tables = [place for place in tables if delta.is_table(place)]
        for inside in {os.path.dirname(place) for place in found if place.endswith(PARQUET)}:  # noqa: PTH120
            _not_inside(source, Path(inside), Path(folder))
        for table in tables:
            found.remove(table)
            found += [str(each.path) for each in delta.files(Path(table)).files]
    return sorted(found, key=lambda place: place.split(os.sep))  # noqa: PTH206


def _folders(found: list[str]) -> set[str]:
    """The folders among them. The folders above are read, of which there are few: to ask each file would cost far more."""
    folders: set[str] = set()
    for above in {os.path.dirname(place) for place in found}:  # noqa: PTH120
        try:
            with os.scandir(above) as entries:
                folders.update(each.path for each in entries if each.is_dir())
        except OSError:  # it went away since, or may be entered and not read
            folders.update(place for place in found if os.path.isdir(place))  # noqa: PTH112
    return folders.intersection(found)


def _not_inside(source: Source, place: Path, folder: Path) -> None:
    table = place
    while "=" in table.name or table.name == delta.LOG:
        table = table.parent
    if delta.is_table(table):
        raise DataError(
            f"{source.path!r} reaches into {table}, which is a Delta table and keeps files of earlier versions beside its "
            f'own. Name the table: "{os.path.relpath(table, folder)}".'
        )


def digest_of_file(path: Path) -> str:
    """SHA-256 of the content. Raises DataError when it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def schema_of(source: Source, folder: Path) -> dict[str, ColumnType]:
    """Column types from the heads of the files.

    A column that holds integers in one file and numbers in another is a number; any other disagreement raises
    SchemaChanged. Columns that cannot be taken (lists, bytes, columns without any value) are left out.
    """
    found = files(source, folder)
    if not found:
        inside = [Path(each) for each in places(source, folder) if os.path.isdir(each)]  # noqa: PTH112
        if inside:
            raise _names_folders(source, folder, inside)
        raise DataError(f"No file matches {source.path!r} in {folder}. Correct the path, or put the first file there.")
    chosen = found if len(found) <= HEADS else found[: HEADS // 2] + found[-HEADS // 2 :]
    types: dict[str, ColumnType] = {}
    origin: dict[str, Path] = {}
    for path in chosen:
        for name, kind in _head_types(source, path).items():
            known = types.setdefault(name, kind)
            if known != kind:
                if {known, kind} != {"integer", "number"}:
                    raise SchemaChanged(
                        f"Column {name} is {known} in {origin[name]} and {kind} in {path}. "
                        f"Correct one of the files, or bring the column under another name."
                    )
                types[name] = "number"
            origin.setdefault(name, path)
    return types


def _names_folders(source: Source, folder: Path, inside: list[Path]) -> DataError:
    """With a pattern that finds files and is taken; raises the one that names the table where they are a Delta table's."""
    suffix = PARQUET if isinstance(source, Parquet) else ".csv" if isinstance(source, Csv) else ".jsonl"
    if isinstance(source, Parquet):
        for each in inside:
            _not_inside(source, each, folder)
    patterns = [str(Path(source.path) / f"*{suffix}"), str(Path(source.path) / "**" / f"*{suffix}")]
    better = next((each for each in patterns if files(replace(source, path=each), folder)), patterns[0])
    return DataError(f'{source.path!r} names the folder {inside[0]}, not files; write "{better}" for those in it.')


def read(
    source: Source, path: Path, schema: Mapping[str, ColumnType] | None = None, *, digest: str | None = None
) -> pl.DataFrame:
    """All rows of one file, typed, with `_key`, `_event_time` and `_batch`, in the file's order.

    Columns outside ``schema`` are typed by what they hold. Raises DataError for a file that cannot be read whole,
    SchemaChanged for a column of another type; both name the file.
    """
    before = _stamp(path)
    digest = digest or digest_of_file(path)
    raw = _contents(source, _raw(source, path), path.parent)
    if _stamp(path) != before:
        raise DataError(f"{path} was changed while it was read. Move files into the folder when they are complete.")
    return normalised(source, raw, schema or {}, where=str(path), digest=digest, written=isinstance(source, Csv))


def normalised(
    source: Source,
    raw: pl.DataFrame,
    schema: Mapping[str, ColumnType],
    *,
    where: str,
    digest: str,
    written: bool = False,
) -> pl.DataFrame:
    """Rows in memory as `read` gives them. ``where`` names them in errors."""
    reserved = [name for name in raw.columns if name in RESERVED]
    if reserved:
        raise DataError(
            f"{where} has a column {reserved[0]}, a name that everloop uses itself. Bring it under another name."
        )
    columns: list[pl.Series] = []
    for series in raw.get_columns():
        kind = schema.get(series.name) or _kind(source, series, written)
        if kind is not None:
            columns.append(typed(series, kind, time_zone=source.time_zone, where=where, written=written))
    rows = pl.DataFrame(columns) if columns else pl.DataFrame()
    rows = rows.with_columns(
        _key(source, rows, where).alias(KEY),
        _event_time(source, rows, where).alias(EVENT_TIME),
        pl.lit(digest, dtype=pl.String).alias(BATCH),
    )
    return rows


def key_text(column: pl.Expr, kind: ColumnType) -> pl.Expr:
    """A key column as text: as prediction ids are written, so that they meet."""
    if kind == "instant":
        fraction = pl.when(column.dt.microsecond() == 0).then(pl.lit("")).otherwise(column.dt.strftime("%.6f"))
        return column.dt.strftime("%Y-%m-%dT%H:%M:%S") + fraction + pl.lit("+00:00")
    if kind == "number":
        # polars writes 1e22 in another way than Python, and so than the server.
        return column.map_batches(_written_as_python, return_dtype=pl.String)
    return column.cast(pl.String)


def _written_as_python(numbers: pl.Series) -> pl.Series:
    return pl.Series([None if each is None else str(each) for each in numbers.to_list()], dtype=pl.String)


def _key(source: Source, rows: pl.DataFrame, where: str) -> pl.Expr:
    parts = [key_text(pl.col(name), _found(rows, name, "key", where)) for name in source.key]
    return pl.concat_str(parts, separator="|") if len(parts) > 1 else parts[0]


def _event_time(source: Source, rows: pl.DataFrame, where: str) -> pl.Expr:
    declared = source.event_time
    if isinstance(declared, Fixed):
        kind = _found(rows, declared.column, "event_time", where)
        if kind != "integer":
            raise DataError(
                f"Column {declared.column} counts events in el.Fixed and must hold integers; in {where} it is {kind}."
            )
        step = declared.every.total_seconds() * 1e6
        return pl.lit(declared.start).dt.cast_time_unit("us") + pl.duration(
            microseconds=pl.col(declared.column) * round(step)
        )
    kind = _found(rows, declared, "event_time", where)
    if kind != "instant":
        raise DataError(
            f"Column {declared} is the event time and must hold instants; in {where} it is {kind}. "
            f"Write ISO 8601, or count events with el.Fixed({declared!r}, start, every)."
        )
    return pl.col(declared)


def _found(rows: pl.DataFrame, name: str, role: str, where: str) -> ColumnType:
    kind = column_type(rows.schema[name]) if name in rows.columns else None
    if kind is None:
        known = ", ".join(rows.columns) or "none"
        raise DataError(f"{where} has no column {name}, which the source names as {role}. It has: {known}.")
    return kind


def _kind(source: Source, series: pl.Series, written: bool) -> ColumnType | None:
    kind = column_type(series.dtype)
    if kind == "text" and (series.name == source.event_time):
        return "instant"
    if kind == "text" and (written or isinstance(source, JsonLines)):
        guess = guessed(series.cast(pl.String))
        return guess if written or guess in ("instant", None) else "text"
    if kind is not None and series.dtype == pl.String and series.null_count() == len(series):
        return "text"
    return kind


def _head_types(source: Source, path: Path) -> dict[str, ColumnType]:
    if isinstance(source, Parquet):
        try:
            schema = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError, pl.exceptions.PanicException) as error:
            raise _unreadable(path, error) from error
        kinds = {name: _kind(source, pl.Series(name, [], dtype), False) for name, dtype in schema.items()}
        kinds |= {name: _kind(source, value, False) for name, value in delta.partition(path).items()}
        _zone_declared(source, schema, path)
    else:
        head = _raw(source, path, HEAD)
        kinds = {each.name: _kind(source, each, isinstance(source, Csv)) for each in head.get_columns()}
    kinds |= {name: "bytes" for name in source.files if kinds.get(name) == "text"}
    return {name: kind for name, kind in kinds.items() if kind is not None}


def _contents(source: Source, raw: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """The columns of paths as what the files hold; null where there is no such file beneath ``folder``."""
    for name in source.files:
        if name in raw.columns and raw[name].dtype == pl.String:
            held = [_content(folder, each) for each in raw[name].to_list()]
            raw = raw.with_columns(pl.Series(name, held, dtype=pl.Binary))
    return raw


def _content(folder: Path, path: str | None) -> bytes | None:
    if path is None:
        return None
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        return None  # a row must not name what is not among its files
    try:
        return place.read_bytes()
    except OSError:
        return None


def _zone_declared(source: Source, schema: Mapping[str, pl.DataType], path: Path) -> None:
    if source.time_zone is None:
        for name, dtype in schema.items():
            if dtype == pl.Date or (isinstance(dtype, pl.Datetime) and dtype.time_zone is None):
                raise DataError(
                    f"Column {name} in {path} holds instants without a zone. Declare the zone of the source, "
                    f'for example time_zone="UTC" or time_zone="America/Chicago".'
                )


def _raw(source: Source, path: Path, head: int | None = None) -> pl.DataFrame:
    try:
        if isinstance(source, Parquet):
            return parquet(pl.scan_parquet(path, n_rows=head, glob=False, hive_partitioning=False), path)
        if isinstance(source, Csv):
            if path.stat().st_size == 0:
                return pl.DataFrame()
            if head is None:
                _ends_whole(path, source.separator)
            return pl.read_csv(path, separator=source.separator, infer_schema=False, n_rows=head, glob=False)
        return _json_lines(path, head)
    except DataError:
        raise
    except (pl.exceptions.PolarsError, OSError, ValueError, pl.exceptions.PanicException) as error:
        raise _unreadable(path, error) from error


def parquet(rows: pl.LazyFrame, path: Path) -> pl.DataFrame:
    """Rows of a Parquet file, with what the partition of a Delta table says of them all."""
    found = rows.collect()
    said = {name: value for name, value in delta.partition(path).items() if name not in found.columns}
    return found.with_columns(pl.lit(value).first().alias(name) for name, value in said.items()) if said else found


def _json_lines(path: Path, head: int | None) -> pl.DataFrame:
    if head is None:
        data: bytes = path.read_bytes()
    else:
        with path.open("rb") as stream:
            data = b"".join(line for line, _ in zip(stream, range(head), strict=False))
    return pl.read_ndjson(io.BytesIO(data), infer_schema_length=None) if data.strip() else pl.DataFrame()


def _ends_whole(path: Path, separator: str) -> None:
    """A CSV file has no end mark; a last line without newline and with too few fields was cut off."""
    with path.open("rb") as stream:
        header = stream.readline()
        stream.seek(max(0, path.stat().st_size - (1 << 16)))
        tail = stream.read()
    last = tail.rsplit(b"\n", 1)[-1]
    if not last or last.count(b'"') % 2 or not tail.count(b"\n"):
        return
    expected, found = (len(next(csv.reader([line.decode()], delimiter=separator))) for line in (header, last))
    if found < expected:
        raise DataError(
            f"{path} ends inside a row: its last line has {found} of {expected} fields. It is still being written or "
            f"was cut off; move files into the folder when they are complete."
        )


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return found.st_size, found.st_mtime_ns


def _unreadable(path: Path, error: BaseException) -> DataError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(
        f"{path} cannot be read: {reason}. It is damaged, not complete or of another format than declared; "
        f"nothing was taken from it."
    )


def types_of(schema: Mapping[str, pl.DataType], leave_out: Iterable[str] = RESERVED) -> dict[str, ColumnType]:
    """Column types of a typed frame or of a table in the lake."""
    reverse = {dtype: kind for kind, dtype in DTYPES.items()}
    return {name: reverse[dtype] for name, dtype in schema.items() if name not in leave_out and dtype in reverse}
