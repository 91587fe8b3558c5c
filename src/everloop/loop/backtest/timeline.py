"""A history in event order, rendered once and kept on disk, read in slices by everybody who fits on it.

What a fit of the loop would see of a row is calculated here once: its features, its label. Of a large history a slice
costs the memory of its rows; what is held does not grow with the whole, but for a byte a row while files that repeat keys
are prepared. Decides nothing, and knows no windows: who may look at which row is the simulation's business.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.data import quality, sources
from everloop.data.columns import DTYPES
from everloop.data.features import render
from everloop.data.snapshot import label_type
from everloop.data.sources import EVENT_TIME, KEY
from everloop.errors import DataError, StoreError
from everloop.loop.backtest.mapped import Columns, mapped
from everloop.loop.backtest.pieces import CHUNK, HASH, Piece, drop_repeated, in_order, overlapping
from everloop.measure import moments
from everloop.package.build import columns_of
from everloop.records import digest_of, encode
from everloop.spec import codec
from everloop.spec.metric import Custom
from everloop.spec.resolve import Resolved
from everloop.spec.source import Parquet
from everloop.store.files import write_atomically
from everloop.train.labels import to_target

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]

FORMAT = 2
IN_MEMORY = 256 << 20
"""A history of at most so many bytes is held in memory, by each process; of a larger one what is asked for."""
FEATURE, RAW = "f.", "r."
"""Before the names of rendered features and of raw columns in a part."""
TIMES, TARGET, KEYS, LABELLED, LABEL_TIMES = "times", "target", "keys", "labelled", "label-times"
"""Mapped columns."""
ABOUT = "about.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is known of a prepared history without opening it."""

    digest: str
    rows: int
    labelled: int
    put_aside: int
    """Rows that failed the declared checks."""
    repeated: int
    """Rows whose key had come before."""
    spread: float
    """The standard deviation of the labels, of a class index or a value."""
    regression: bool
    parts: tuple[str, ...]
    starts: tuple[int, ...]
    """The place of each part's first row."""


@dataclass(slots=True)
class Timeline:
    """An opened history. Rows are named by their place in event order."""

    folder: Path
    about: About
    times: Integers
    """Event times, microseconds since 1970 UTC, [rows], rising."""
    target: Array
    """Class index or −1, or the label's value or NaN, [rows]."""
    keys: npt.NDArray[np.uint64]
    """A hash of each row's key: what decides about shares of rows."""
    labelled: Integers
    """Places of the rows that ever have a label."""
    label_times: Integers
    """Their event times."""
    _parts: dict[tuple[int, str], pl.DataFrame | pl.LazyFrame] = field(default_factory=dict)

    @classmethod
    def open(cls, folder: Path) -> Timeline:
        """Of what `prepare` made. Raises StoreError where a column is gone or cut off."""
        try:
            about = msgspec.json.decode((folder / ABOUT).read_bytes(), type=About)
        except msgspec.MsgspecError:
            raise StoreError(_damaged(folder, ABOUT)) from None
        counted = {TIMES: about.rows, TARGET: about.rows, KEYS: about.rows}
        counted |= {LABELLED: about.labelled, LABEL_TIMES: about.labelled}
        for name, rows in counted.items():
            if not (folder / name).is_file() or (folder / name).stat().st_size != 8 * rows:
                raise StoreError(_damaged(folder, name))
        return cls(
            folder=folder,
            about=about,
            times=mapped(folder / TIMES, np.int64),
            target=mapped(folder / TARGET, np.float64 if about.regression else np.int64),
            keys=mapped(folder / KEYS, np.uint64),
            labelled=mapped(folder / LABELLED, np.int64),
            label_times=mapped(folder / LABEL_TIMES, np.int64),
        )

    def __len__(self) -> int:
        return self.about.rows

    def place(self, instant: int) -> int:
        """Of the first row at or after an instant."""
        return int(np.searchsorted(self.times, instant, side="left"))

    def truths(self, since: int, until: int) -> tuple[Integers, Array]:
        """Places and targets of the labelled rows among [since, until)."""
        low, high = np.searchsorted(self.labelled, [since, until])
        places = self.labelled[low:high]
        return places, np.asarray(self.target[places])

    def frame(self, since: int, until: int, kind: str) -> pl.DataFrame:
        """Columns of one kind (`FEATURE` or `RAW`) of the rows [since, until)."""
        found: list[pl.DataFrame] = []
        for number, (start, end) in enumerate(pairwise([*self.about.starts, len(self)])):
            if start < until and end > since:
                found.append(self._slice(number, kind, max(since - start, 0), min(until, end) - max(since, start)))
        return pl.concat(found, how="diagonal") if found else self._slice(0, kind, 0, 0)

    def features(self, since: int, until: int, only: Integers | None = None) -> dict[str, Array]:
        """Rendered features as `everloop.measure.encode` takes them; ``only``: places of the rows that are wanted."""
        rows = self.frame(since, until, FEATURE)
        return columns_of(rows if only is None or len(only) == until - since else rows[only - since])

    def raw(self, since: int, until: int, only: Integers | None = None) -> pl.DataFrame:
        """Raw columns that were kept: those that features read, slices, weights."""
        rows = self.frame(since, until, RAW)
        return rows if only is None or len(only) == until - since else rows[only - since]

    def _slice(self, number: int, kind: str, offset: int, length: int) -> pl.DataFrame:
        """Of one part: small ones stay in memory, of large ones the slice alone is read."""
        key = (number, kind)
        if key not in self._parts:
            path = self.folder / self.about.parts[number]
            lazy = pl.scan_ipc(path)
            names = [name for name in lazy.collect_schema().names() if name.startswith(kind)]
            lazy = lazy.select(pl.col(name).alias(name.removeprefix(kind)) for name in names)
            small = path.stat().st_size <= IN_MEMORY // max(len(self.about.parts), 1)
            self._parts[key] = lazy.collect() if small else lazy
        part = self._parts[key]
        return part.slice(offset, length) if isinstance(part, pl.DataFrame) else part.slice(offset, length).collect()


def _damaged(folder: Path, name: str) -> str:
    return f"The prepared history in {folder} is damaged ({name}); delete it, and it is made again."


def prepare(resolved: Resolved, folder: Path, place: Path, *, also: Sequence[str] = ()) -> Timeline:
    """The history of a loop's source, rendered under ``place`` unless it is there already.

    ``also``: raw columns that are kept besides those that features, gate and weights need. Of rows with one key the first counts. Raises DataError for a source without labelled rows.
    """
    loop = resolved.loop
    files = sources.files(loop.source, folder)
    if not files:
        raise DataError(
            f"No file matches {loop.source.path!r} in {folder}. Correct the path, or put the first file there."
        )
    if loop.label.column not in resolved.schema:
        raise DataError(
            f"The source has no column {loop.label.column!r}; a backtest needs the labels in the history to know what "
            "came true."
        )
    kept = kept_columns(resolved, also)
    digest = _digest(resolved, files, kept)
    target = place / digest
    if not (target / ABOUT).exists():
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{digest[:12]}-{os.getpid()}-", dir=place) as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            _write(resolved, files, made, digest, kept)
            try:
                made.rename(target)
            except OSError:
                if not (target / ABOUT).exists():
                    raise
    return Timeline.open(target)


def _digest(resolved: Resolved, files: Sequence[Path], kept: Sequence[str]) -> str:
    loop = resolved.loop
    meaning = {
        "format": FORMAT,
        "source": codec.to_json(loop.source),
        "label": codec.to_json(loop.label),
        "classes": resolved.classes,
        "checks": codec.to_json(loop.checks),
        "features": resolved.features.digest,
        "schema": dict(resolved.schema),
        "kept": list(kept),
        "files": [sources.digest_of_file(path) for path in files],
    }
    return digest_of(encode(meaning))


def kept_columns(resolved: Resolved, also: Sequence[str] = ()) -> list[str]:
    """Raw columns that somebody will ask for after rendering."""
    loop = resolved.loop
    wanted = {*resolved.inputs, *also}
    wanted.update(
        each.weight for each in loop.trains if isinstance(each.weight, str) and each.weight in resolved.schema
    )
    wanted.update(loop.gate.slices if loop.gate is not None else ())
    if isinstance(resolved.score, Custom):  # a function of the user's may look at any column that fits see
        wanted.update(name for name in resolved.schema if name not in (loop.label.column, *loop.source.after))
    return [name for name in resolved.schema if name in wanted]


def _write(resolved: Resolved, files: Sequence[Path], folder: Path, digest: str, kept: Sequence[str]) -> None:
    pieces: list[Piece] = []
    put_aside = 0
    for rows in _chunks(resolved, files):
        sound = rows.filter(_sound(resolved, rows))
        put_aside += len(rows) - len(sound)
        if len(sound):
            pieces.append(_piece(resolved, sound, kept, folder / f"piece-{len(pieces):06d}.arrow"))
    if not pieces:
        raise DataError(
            f"{resolved.loop.source.path!r} holds no rows that pass the checks; a backtest needs a history."
        )
    repeated = drop_repeated(pieces)
    starts: list[int] = []
    names: list[str] = []
    regression = resolved.task == "regression"
    count = 0
    spread = moments.NONE
    with Columns(folder, TIMES, TARGET, KEYS, LABELLED, LABEL_TIMES) as columns:
        for frame in (each for group in overlapping(pieces) for each in in_order(group) if len(each)):
            name = f"part-{len(names):06d}.arrow"
            frame.select(c for c in frame.columns if c.startswith((FEATURE, RAW))).write_ipc(folder / name)
            names.append(name)
            starts.append(count)
            times = frame[EVENT_TIME].dt.epoch("us").to_numpy()
            target = _target(resolved, frame["_label"])
            known = np.flatnonzero(np.isfinite(target) if regression else target >= 0)
            columns.append(TIMES, times)
            columns.append(TARGET, target)
            columns.append(KEYS, frame[HASH].to_numpy())
            columns.append(LABELLED, known + count)
            columns.append(LABEL_TIMES, times[known])
            if len(known):
                spread = moments.together(spread, moments.of(target[known].astype(np.float64)))
            count += len(frame)
    labelled, _, squares = spread
    if not labelled:
        raise DataError(
            f"None of the {count:,} rows has a label {resolved.loop.label.column!r}; a backtest needs labels in the history."
        )
    about = About(
        digest=digest, rows=count, labelled=labelled, put_aside=put_aside, repeated=repeated,
        spread=math.sqrt(squares / labelled), regression=regression, parts=tuple(names), starts=tuple(starts),
    )  # fmt: skip
    write_atomically(folder / ABOUT, encode(about), sync=False)


def _chunks(resolved: Resolved, files: Sequence[Path]) -> Iterator[pl.DataFrame]:
    """Typed rows, file after file; large Parquet files in slices."""
    source = resolved.loop.source
    for path in files:
        if isinstance(source, Parquet):
            try:
                count = pl.scan_parquet(path, glob=False).select(pl.len()).collect().item()
            except (pl.exceptions.PolarsError, OSError):
                count = 0  # reading it will say what is wrong with it
            if count > CHUNK:
                for start in range(0, count, CHUNK):
                    part = pl.scan_parquet(path, glob=False, hive_partitioning=False).slice(start, CHUNK)
                    raw = sources.parquet(part, path)
                    yield sources.normalised(source, raw, resolved.schema, where=str(path), digest="")
                continue
        yield sources.read(source, path, resolved.schema)


def _sound(resolved: Resolved, rows: pl.DataFrame) -> pl.Series:
    """Which rows ingest would take: with a key, a time, and through the declared checks."""
    kept = rows[KEY].is_not_null() & rows[EVENT_TIME].is_not_null()
    checks = resolved.loop.checks
    if checks:
        kept &= quality.reasons(checks, rows, resolved.schema, _zones(resolved)).is_null()
    return kept


def _zones(resolved: Resolved) -> dict[str, str | None]:
    instants = [name for name, kind in resolved.schema.items() if kind == "instant"]
    return dict.fromkeys(instants, resolved.loop.source.time_zone)


def _piece(resolved: Resolved, rows: pl.DataFrame, kept: Sequence[str], path: Path) -> Piece:
    label = resolved.loop.label
    kind = label_type(resolved, dict(resolved.schema))
    answer = rows[label.column].cast(DTYPES[kind])
    if label.absent is not None:
        answer = answer.fill_null(pl.lit(label.absent, dtype=DTYPES[kind])) if answer.null_count() else answer
    features = render(resolved.features, rows, resolved.schema, _zones(resolved))
    made = pl.DataFrame(
        [
            rows[EVENT_TIME],
            rows[KEY],
            answer.alias("_label"),
            *(each.alias(f"{FEATURE}{each.name}") for each in features.get_columns()),
            *(rows[name].alias(f"{RAW}{name}") for name in kept),
        ]
    ).with_row_index("_order")
    return Piece.write(made.sort(EVENT_TIME, KEY, "_order"), path)


def _target(resolved: Resolved, labels: pl.Series) -> Array:
    """As a fit takes them, with a mark where there is none."""
    known = labels.is_not_null()
    if resolved.task == "regression":
        values = labels.cast(pl.Float64).to_numpy()
        return np.where(np.isfinite(values), values, np.nan)
    found = np.full(len(labels), -1, dtype=np.int64)
    told = labels.filter(known)
    distinct = told.unique()
    meant = to_target(distinct.to_list(), task=resolved.task, classes=resolved.classes)
    found[known.to_numpy()] = told.replace_strict(distinct, pl.Series(meant), return_dtype=pl.Int64).to_numpy()
    return found
