"""Writes scored rows as Parquet, CSV or JSON lines: a file appears when it is whole. Knows nothing of models.

A file is written beside its place under a hidden name and renamed into it; what a killed run left is removed.
"""

import glob
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import polars as pl
import pyarrow.parquet as pq

from everloop.errors import DataError
from everloop.serve.offline_columns import Bad
from everloop.serve.offline_sources import SUFFIXES, Kind, Part
from everloop.store.files import storage_error, sync_folder

GROUP_BYTES = 32 << 20
"""A row group of Parquet is about so large: many more rows would have to be held until it is written."""
COMPRESSION = "snappy"
"""zstd costs half as much again in all, for 5 % less of real numbers (bench/offline.py)."""
REPEATED = 0.2
"""A text column whose first rows have no more different values than this share is written with a dictionary."""
_LEFT = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.part")


def form_of(path: Path) -> Kind:
    """Raises DataError for an ending that cannot be written."""
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise DataError(f"{path} ends with {path.suffix!r}; {', '.join(SUFFIXES)} can be written, or a folder.")
    return kind


@contextmanager
def _storing(place: Path) -> Iterator[None]:
    """A full disk is told as one, whichever library met it."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, place) from error


def hidden(place: Path) -> Path:
    """Where a file is written before it has its name."""
    return place.with_name(f".{place.name}.{os.getpid()}.part")


def clean(folder: Path, name: str | None = None) -> None:
    """Remove what killed runs have left: in all of a folder, or of the file ``name`` in it."""
    for path in folder.rglob(".*.part") if name is None else folder.glob(f".{glob.escape(name)}.*.part"):
        found = _LEFT.fullmatch(path.name)
        if found and not _lives(int(found["pid"])):
            with suppress(OSError):
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class Target:
    """One file under construction. ``schema`` is that of its first rows unless given; all rows must have it."""

    def __init__(self, place: Path, kind: Kind, schema: pl.Schema | None = None) -> None:
        self.place = place
        self.beside = hidden(place)
        self.rows = 0
        self.schema = schema
        self._kind = kind
        self._waiting: list[pl.DataFrame] = []
        self._waiting_bytes = 0
        self._arrow: Any = None
        with _storing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.beside.open("wb")

    def write(self, frame: pl.DataFrame, where: str) -> None:
        """Raises DataError when the columns are others than before, StoreFull."""
        if self.schema is None:
            self.schema = frame.schema
        if frame.schema != self.schema:
            frame = _aligned(frame, self.schema, where)
        self.rows += len(frame)
        with _storing(self.place):
            if self._kind == "parquet":
                self._waiting.append(frame)
                self._waiting_bytes += int(frame.estimated_size())
                if self._waiting_bytes >= GROUP_BYTES:
                    self._group()
            else:
                # By way of memory: an error of the disk then comes from Python's own write, with its number.
                text = io.BytesIO()
                if self._kind == "csv":
                    frame.write_csv(text, include_header=self.rows == len(frame))
                else:
                    frame.write_ndjson(text)
                self._file.write(text.getbuffer())

    def finish(self) -> None:
        """Force it to disk; it still has its hidden name: see `place_it`."""
        with _storing(self.place):
            if self._kind == "parquet" and self.schema is not None:
                self._group()
                self._arrow.close()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        with suppress(OSError, ValueError):
            self._file.close()
        with suppress(OSError):
            self.beside.unlink()

    def _group(self) -> None:
        if not self._waiting and self._arrow is not None:
            return
        together = pl.concat(self._waiting, rechunk=False)
        self._waiting, self._waiting_bytes = [], 0
        table = together.to_arrow(compat_level=pl.CompatLevel.oldest())
        if self._arrow is None:
            self._arrow = pq.ParquetWriter(
                self._file, table.schema, compression=COMPRESSION, use_dictionary=_repeated(together)
            )
        self._arrow.write_table(table, row_group_size=max(1, len(table)))


class Aside:
    """Rows that could not be scored, as JSON lines with the reason; no file where there are none."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.rows = 0
        self._file: IO[bytes] | None = None

    def write(self, part: Part, bad: Sequence[tuple[Bad, Any]]) -> None:
        """``bad`` with the content of each row. Raises StoreFull."""
        with _storing(self.place):
            if self._file is None:
                self.place.parent.mkdir(parents=True, exist_ok=True)
                self._file = hidden(self.place).open("wb")
            for each, content in bad:
                line = {
                    "file": str(part.path),
                    "row": each.row + 1,
                    "column": each.column,
                    "reason": each.reason,
                    "content": content,
                }
                self._file.write(json.dumps(line, default=str, ensure_ascii=False).encode() + b"\n")
        self.rows += len(bad)

    def finish(self) -> None:
        """Give it its name; what an earlier run had put there is gone."""
        with _storing(self.place):
            if self._file is None:
                self.place.unlink(missing_ok=True)
                return
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        place_it(hidden(self.place), self.place)

    def abandon(self) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                hidden(self.place).unlink()


def place_it(beside: Path, place: Path) -> None:
    """Give a finished file its name, for good."""
    with _storing(place):
        beside.replace(place)
        sync_folder(place.parent)


def _repeated(frame: pl.DataFrame) -> list[str]:
    """Columns worth a dictionary. Of numbers none is: trying costs ten times as much as writing them."""
    texts = [name for name, dtype in frame.schema.items() if dtype in (pl.String, pl.Categorical, pl.Enum)]
    head = frame.head(4096)
    return [name for name in texts if head[name].n_unique() <= max(1, round(REPEATED * len(head)))]


def _aligned(frame: pl.DataFrame, schema: pl.Schema, where: str) -> pl.DataFrame:
    differing = [name for name in schema if name not in frame.columns]
    differing += [name for name in frame.columns if name not in schema]
    if differing:
        raise DataError(
            f"{where}: column {differing[0]!r} is not in every file, so they do not go into one table. "
            "Name a folder as the target, or leave it out with --keep key."
        )
    try:
        return frame.select(pl.col(name).cast(dtype, strict=True) for name, dtype in schema.items())
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{where}: a column has another type than in the file before: {error}") from error
