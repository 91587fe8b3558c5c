"""Which files are to be scored, and their rows in frames of bounded size. Knows nothing of models or answers."""

import glob
import gzip
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, cast
from urllib.parse import unquote

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from everloop.errors import DataError
from everloop.records import ColumnType, Signature
from everloop.serve.offline_columns import Bad
from everloop.serve.rows import TYPES
from everloop.store import delta

Kind = Literal["parquet", "csv", "jsonl"]
SUFFIXES: dict[str, Kind] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
READABLE = ".parquet, .csv, .jsonl and .ndjson (the last three also with .gz)"
BLOCK_BYTES = 8 << 20
"""Of JSON lines, read at once."""
PAGE_BYTES = 1 << 20
"""Of each column of a Parquet file, read at once."""
JSON_TYPES: dict[ColumnType, Any] = {
    "number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "text": pl.String, "instant": pl.String,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One file. ``relative`` is its path inside what was named; ``partition`` are values that its folders name."""

    path: Path
    relative: PurePosixPath
    kind: Kind
    size: int
    modified: int
    """Nanoseconds."""
    partition: dict[str, str | None] = field(default_factory=dict)

    @property
    def written(self) -> bool:
        """Its values are texts, whatever they stand for."""
        return self.kind == "csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a source names now, in order. ``version``: of a Delta table."""

    parts: tuple[Part, ...]
    several: bool
    """It may hold several files, even if there is one now."""
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """Some rows of a part, from row ``start`` of the file. ``numbers``: where each is from there, when some lack."""

    part: Part
    rows: pl.DataFrame
    start: int
    numbers: Sequence[int] | None = None
    bad: tuple[tuple[Bad, Any], ...] = ()
    """Rows that could not even be read, with their content; not in ``rows``."""

    def number(self, row: int) -> int:
        """The place of a row of ``rows`` in the file."""
        return self.start + (row if self.numbers is None else self.numbers[row])


def kind_of(path: Path | PurePosixPath) -> Kind | None:
    """By the ending; None for one that is not known. Parquet is never inside a .gz."""
    name = path.name.lower()
    packed = name.endswith(".gz")
    kind = SUFFIXES.get(PurePosixPath(name.removesuffix(".gz")).suffix)
    return None if packed and kind == "parquet" else kind


def find(source: str, *, version: int | None = None) -> Found:
    """The files of a file, folder, glob pattern or Delta table (``version``: as of then). Raises DataError."""
    path = Path(source)
    if path.is_file():
        return Found(parts=(_part(path, PurePosixPath(path.name)),), several=False)
    if path.is_dir():
        if delta.is_table(path):
            return _of_table(path, version)
        found = sorted(_inside(path))
        strange = [each for each in found if kind_of(each) is None]
        if strange:
            raise DataError(
                f"{strange[0]} is of no form that can be read; {READABLE} can. Move it away, or use a glob."
            )
        return _several(source, [_part(each, PurePosixPath(each.relative_to(path))) for each in found])
    if glob.has_magic(source):
        root = Path(*_before_magic(path.parts))
        matches = [Path(each) for each in sorted(glob.glob(source, recursive=True))]  # noqa: PTH207
        return _several(source, [_part(p, PurePosixPath(p.relative_to(root))) for p in matches if p.is_file()])
    raise DataError(f"There is no file or folder {source}.")


def _several(source: str, parts: list[Part]) -> Found:
    if not parts:
        raise DataError(f"{source} holds no file; {READABLE} can be read.")
    return Found(parts=tuple(parts), several=True)


def _inside(folder: Path) -> Iterator[Path]:
    """The files below a folder; hidden folders are not entered, however much is in them."""
    for at, folders, names in os.walk(folder):
        folders[:] = [each for each in folders if not _hidden(each)]
        yield from (each for name in names if not _hidden(name) and (each := Path(at, name)).is_file())


def _hidden(name: str) -> bool:
    return name.startswith((".", "_")) and "=" not in name


def _before_magic(words: tuple[str, ...]) -> tuple[str, ...]:
    place = next(n for n, word in enumerate(words) if glob.has_magic(word))
    return words[:place]


def _part(path: Path, relative: PurePosixPath) -> Part:
    kind = kind_of(path)
    if kind is None:
        raise DataError(f"{path} ends with {path.suffix!r}; {READABLE} can be read.")
    partition = dict(_named(folder) for folder in relative.parts[:-1] if "=" in folder)
    found = path.stat()
    return Part(
        path=path, relative=relative, kind=kind, size=found.st_size, modified=found.st_mtime_ns, partition=partition
    )


def _named(folder: str) -> tuple[str, str | None]:
    name, _, value = folder.partition("=")
    return unquote(name), None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)


def _of_table(path: Path, version: int | None) -> Found:
    table = delta.files(path, version)
    parts = []
    for each in table.files:
        found = each.path.stat()
        parts.append(
            Part(path=each.path, relative=each.relative, kind="parquet", size=found.st_size, modified=found.st_mtime_ns,
                 partition={name: None if value[0] is None else str(value[0]) for name, value in each.partition.items()})
        )  # fmt: skip
    return Found(parts=tuple(parts), several=True, version=table.version)


# Rows


def frames(part: Part, signature: Signature, rows: int, keep: frozenset[str] | None) -> Iterator[Frame]:
    """The rows of a file in order, about ``rows`` at a time. ``keep``: columns that are wanted; None: all.

    Raises DataError naming the file for what cannot be read.
    """
    try:
        start = 0
        frame: Frame | None = None
        for frame in _read(part, signature, rows, keep):
            lacking = {n: v for n, v in part.partition.items() if n not in frame.rows.columns}
            with_partition = frame.rows.with_columns(pl.lit(v, dtype=pl.String).alias(n) for n, v in lacking.items())
            bad = tuple((replace(each, row=start + each.row), content) for each, content in frame.bad)
            yield Frame(part, with_partition if lacking else frame.rows, start, frame.numbers, bad)
            start += len(frame.rows) + len(frame.bad)
        if frame is None:
            raise DataError(f"{part.path} is empty: it names no column. Remove it, or write it whole.")
    except (pl.exceptions.PolarsError, pa.ArrowException, OSError, EOFError, pl.exceptions.PanicException) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{part.path} cannot be read: {reason}. It is damaged, not complete or of another form."
        ) from error


def rows_of(part: Part) -> int:
    """How many rows a file has: known of Parquet, about right otherwise."""
    if part.kind == "parquet":
        try:
            return int(pq.read_metadata(part.path).num_rows)
        except (pa.ArrowException, OSError):
            return 0  # reading will say what is wrong
    with _opened(part) as stream:
        head = stream.read(1 << 18)
    lines = max(1, head.count(b"\n"))
    grown = 4 if part.path.name.lower().endswith(".gz") else 1
    return max(lines, round(part.size * grown * lines / max(1, len(head))))


def _read(part: Part, signature: Signature, rows: int, keep: frozenset[str] | None) -> Iterator[Frame]:
    if part.kind == "jsonl":
        yield from _json_lines(part, signature)
        return
    if part.kind == "parquet":
        yield from _parquet(part, rows, keep)
        return
    scanned = pl.scan_csv(part.path, infer_schema=False, glob=False)
    if keep is not None:
        scanned = scanned.select([name for name in scanned.collect_schema().names() if name in keep])
    empty = True
    for frame in scanned.collect_batches(chunk_size=rows, maintain_order=True):
        empty = False
        yield Frame(part, frame, 0)
    if empty:  # its columns are still to be looked at
        yield Frame(part, scanned.collect_schema().to_frame(), 0)


def _parquet(part: Part, rows: int, keep: frozenset[str] | None) -> Iterator[Frame]:
    """By way of pyarrow, at the same CPU: polars takes whole row groups into memory, several at once.

    With ``pre_buffer`` pyarrow would keep every row group until the file is closed.
    """
    with pq.ParquetFile(part.path, buffer_size=PAGE_BYTES, pre_buffer=False) as file:
        names = [name for name in file.schema_arrow.names if keep is None or name in keep]
        empty = True
        for batch in file.iter_batches(rows, columns=names, use_threads=False):
            empty = False
            yield Frame(part, cast(pl.DataFrame, pl.from_arrow(batch)), 0)
        if empty:  # its columns are still to be looked at
            columns = cast(pl.DataFrame, pl.from_arrow(file.schema_arrow.empty_table()))
            yield Frame(part, columns.select(names), 0)


def _opened(part: Part) -> IO[bytes]:
    opened: Any = gzip.open if part.path.name.lower().endswith(".gz") else open
    found: IO[bytes] = opened(part.path, "rb")
    return found


def _json_lines(part: Part, signature: Signature) -> Iterator[Frame]:
    schema: dict[str, Any] | None = None
    columns = {column.name: column.type for column in (*signature.inputs, *signature.carried)}
    with _opened(part) as stream:
        while data := stream.read(BLOCK_BYTES):
            data += stream.readline()
            if not data.strip():
                continue
            if schema is None:
                # The columns that the signature knows have its types, the others those of the first rows.
                guessed = _guessed(data)
                schema = {n: _json_type(columns[n], dtype) if n in columns else dtype for n, dtype in guessed.items()}
            try:
                yield Frame(part, pl.read_ndjson(data, schema=schema), 0)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
                yield _line_by_line(part, data, columns, schema)


def _guessed(data: bytes) -> pl.Schema:
    try:
        return pl.read_ndjson(data, infer_schema_length=None).schema
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):  # what is wrong is said when the lines are read
        rows: list[dict[str, Any]] = []
        for line in data.splitlines():
            with suppress(ValueError, RecursionError):
                row = msgspec.json.decode(line)
                rows += [row] if isinstance(row, dict) else []
        return pl.DataFrame(rows, infer_schema_length=None, strict=False).schema


def _json_type(kind: ColumnType, guessed: Any) -> Any:
    """Instants are texts or integers, as the first rows have them."""
    return pl.Int64 if kind == "instant" and guessed == pl.Int64 else JSON_TYPES[kind]


def _line_by_line(part: Part, data: bytes, columns: dict[str, ColumnType], schema: dict[str, Any]) -> Frame:
    """Slowly: which row, which column, which value. Rows are counted within ``data``."""
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    bad: list[tuple[Bad, Any]] = []
    instants = {n: pl.String for n, kind in columns.items() if kind == "instant" and n in schema}
    number = -1
    for line in data.splitlines():
        if not line.strip():
            continue
        number += 1
        try:
            row = msgspec.json.decode(line)
        except (ValueError, RecursionError):
            bad.append(
                (Bad(row=number, column=None, value=None, expected="it is not JSON"), line.decode(errors="replace"))
            )
            continue
        wrong = _wrong(row, columns, number)
        if wrong is None:
            rows.append({name: _text(value) if name in instants else value for name, value in row.items()})
            numbers.append(number)
        else:
            bad.append((wrong, row))
    try:
        frame = pl.DataFrame(rows, schema={**schema, **instants}, strict=False)
    except (pl.exceptions.PolarsError, TypeError, ValueError) as error:
        raise DataError(f"{part.path} cannot be read: {error}") from error
    return Frame(part, frame, 0, numbers, tuple(bad))


def _wrong(row: Any, columns: dict[str, ColumnType], number: int) -> Bad | None:
    if not isinstance(row, dict):
        return Bad(row=number, column=None, value=row, expected="it is not an object with named columns")
    for name, kind in columns.items():
        try:
            msgspec.convert(row.get(name), TYPES[kind][0])
        except (ValueError, RecursionError):
            return Bad(row=number, column=name, value=row[name], expected=TYPES[kind][2])
    return None


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value)
