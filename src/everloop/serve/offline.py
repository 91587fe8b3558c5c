"""Scores files with a package: the same graph and the same answers as the server. Knows nothing of HTTP.

Rows are streamed, so that files may be larger than memory, and every core works. A folder that is scored into a folder
goes on where it was stopped. The server never loads this file: it needs polars and pyarrow.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from everloop.errors import DataError
from everloop.measure.truth import class_name
from everloop.records import InputColumn, Signature
from everloop.serve import offline_sources as sources
from everloop.serve.model import load
from everloop.serve.offline_columns import dtype_of
from everloop.serve.offline_lanes import Lanes, Sliced
from everloop.serve.offline_sinks import Sink, sink_of
from everloop.serve.offline_sources import Frame, Part

PREDICTED, VERSION, PACKAGE = "predicted", "version", "package"
FRAME_BYTES = 16 << 20
FRAME_SECONDS = 1.0
"""A frame is about so large, or takes one core about so long, whichever is less."""
SMALLEST_FRAME, LARGEST_FRAME = 64, 131_072
FRAMES = 3
"""So many frames are under way at once: one is read, one is scored, one is written."""
ALL, KEY = "all", "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """``total`` rows are known of Parquet and estimated otherwise; ``file`` is the one that is written now."""

    rows: int
    total: int
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """What this run did. ``before``: files that an earlier run had done. ``seconds``: wall time with loading."""

    rows: int
    bad: int
    files: int
    before: int
    seconds: float
    target: Path
    aside: Path | None
    """Where rows that could not be scored are, if there are any."""
    table_version: int | None
    """Of a Delta table, after the append."""
    run_rows: int
    """Rows that went through the graph at once: the best size that was measured."""


def score(
    folder: Path,
    source: Path | str,
    target: Path,
    *,
    trusted: Mapping[str, Ed25519PublicKey],
    version: int | None = None,
    form: str | None = None,
    keep: str = ALL,
    skip_bad: bool = False,
    cores: int | None = None,
    sizes: Sequence[int] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Scored:
    """Score every row of ``source`` into ``target`` with the package in ``folder``.

    ``source``: a Parquet, CSV or JSON-lines file, a folder of them, a glob pattern, or a Delta table. ``target``: a
    file with such an ending (several sources follow one another), a folder (a file for each, at the same relative path;
    a second run does only what is not done yet) or a Delta table (``form`` "delta" makes one; all rows are appended in
    one commit). ``form`` is that of the files in a folder, by default the source's.

    The answers are ``predicted`` (the decision, or the value for regression), ``probability_<class>``, ``version`` and
    ``package``, beside the source's columns: ``keep`` "all", "key" (the key and the event time) or names with commas.
    A row that the server would refuse raises DataError with file, row and column; with ``skip_bad`` it is put aside
    beside the target, with the reason. Raises PackageTampered, StoreFull; nothing that is half written appears.
    """
    begin = time.perf_counter()
    model = load(folder, trusted)
    kept = _kept(keep, model.signature)
    sink, parts = sink_of(str(source), target, form, package=model.digest, keep=",".join(kept or (ALL,)))
    lanes = Lanes(model, cores or os.cpu_count() or 1, sizes=sizes)
    run = _Run(lanes, sink, kept, version, skip_bad, progress)
    try:
        left = [part for part in parts if not sink.is_done(part)]
        run.score(left)
        table_version = sink.finish()
    except BaseException:
        sink.abandon()
        raise
    finally:
        lanes.close()
        sink.close()
    return Scored(
        rows=run.rows,
        bad=run.bad,
        files=len(left),
        before=len(parts) - len(left),
        seconds=time.perf_counter() - begin,
        target=target,
        aside=sink.aside(),
        table_version=table_version,
        run_rows=lanes.sizes.best,
    )


def _kept(keep: str, signature: Signature) -> tuple[str, ...] | None:
    """The columns of the source that are wanted beside the answers; None: all."""
    if keep == ALL:
        return None
    if keep != KEY:
        return tuple(dict.fromkeys(name.strip() for name in keep.split(",") if name.strip()))
    if not signature.key:
        raise DataError("This package declares no key; name the columns to keep, or keep all.")
    named = (*signature.key, *([signature.event_time] if signature.event_time else []))
    return tuple(dict.fromkeys(named))


class _Run:
    """One pass over the files that are left."""

    def __init__(
        self,
        lanes: Lanes,
        sink: Sink,
        kept: tuple[str, ...] | None,
        version: int | None,
        skip_bad: bool,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.rows = self.bad = 0
        self._lanes = lanes
        self._sink = sink
        self._kept = kept
        self._skip_bad = skip_bad
        self._progress = progress
        self._signature = signature = lanes.model.signature
        each = lanes.model.cost.predict(1024) / 1024
        self._frame_rows = _within(FRAME_SECONDS / max(each, 1e-9))
        self._classes = pl.Series(PREDICTED, list(signature.classes)) if signature.classes else None
        self._probabilities = [f"probability_{class_name(value)}" for value in signature.classes]
        self._constant = {
            VERSION: pl.Series(VERSION, [version], dtype=pl.Int64),
            PACKAGE: pl.Series(PACKAGE, [lanes.model.digest]),
        }
        self._answers = [PREDICTED, *self._probabilities, VERSION, PACKAGE]

    def score(self, parts: Sequence[Part]) -> None:
        expected = {part.path: sources.rows_of(part) for part in parts} if self._progress is not None else {}
        ahead = sum(expected.values())
        begun: Part | None = None
        for part, frame, slices in self._in_order(parts):
            if begun is not part:
                self._sink.begin(part)
                begun = part
                before = self.rows + self.bad
                ahead -= expected.get(part.path, 0)
            if frame is None:
                self._sink.end(part)
                begun = None
            else:
                self._write(frame, slices)
            if self._progress is not None:
                done = self.rows + self.bad
                rest = 0 if frame is None else max(0, before + expected[part.path] - done)
                self._progress(Progress(rows=done, total=done + rest + ahead, file=str(part.path)))

    def _in_order(self, parts: Sequence[Part]) -> Iterator[tuple[Part, Frame | None, list[Sliced]]]:
        """Frames as they are in the files, None after the last of each, while the lanes work on those that follow."""
        waiting: deque[tuple[Part, Frame | None, list[Future[Sliced]]]] = deque()

        def ready() -> tuple[Part, Frame | None, list[Sliced]]:
            part, frame, futures = waiting.popleft()
            return part, frame, [future.result() for future in futures]

        for part in parts:
            for frame in sources.frames(part, self._signature, self._rows_of_frame(part), self._wanted()):
                columns, written = self._checked(frame)
                waiting.append((part, frame, self._lanes.begin(frame, columns, written)))
                while sum(each is not None for _, each, _ in waiting) >= FRAMES:
                    yield ready()
            waiting.append((part, None, []))
        while waiting:
            yield ready()

    def _rows_of_frame(self, part: Part) -> int:
        """Few of wide rows, so that memory stays bounded."""
        rows = sources.rows_of(part) if part.kind == "parquet" else 0
        return min(self._frame_rows, _within(FRAME_BYTES * rows / max(part.size, 1))) if rows else self._frame_rows

    def _wanted(self) -> frozenset[str] | None:
        if self._kept is None:
            return None
        signature = self._signature
        return frozenset((*self._kept, *_names(signature)))

    def _checked(self, frame: Frame) -> tuple[list[InputColumn], frozenset[str]]:
        """Columns to convert, and which of them stand as text. Raises DataError for a column that lacks or collides."""
        there = frame.rows.columns
        where = frame.part.path
        signature = self._signature
        for name in (*_names(signature), *(self._kept or ())):
            if name not in there:
                raise DataError(f"{where} has no column {name!r}; it has {', '.join(there)}.")
        kept = there if self._kept is None else self._kept
        taken = [name for name in self._answers if name in kept]
        if taken:
            raise DataError(
                f"{where} has a column {taken[0]!r} already, where the answers go; rename it, or leave it out with "
                "--keep key."
            )
        if frame.part.kind == "csv":
            carried = [c for c in signature.carried if c.name in there and c.name in kept]
            return [*signature.inputs, *carried], frozenset(there)
        jsonl = [c.name for c in signature.inputs if c.type == "instant" and frame.part.kind == "jsonl"]
        return list(signature.inputs), frozenset((*frame.part.partition, *jsonl))

    def _write(self, frame: Frame, slices: list[Sliced]) -> None:
        bad = list(frame.bad)
        start = 0
        wrong: list[int] = []
        for part in slices:
            for each in part.bad:
                wrong.append(start + each.row)
                row = start + each.row
                bad.append((replace(each, row=frame.number(row)), frame.rows.row(row, named=True)))
            start += len(part.prediction)
        if bad:
            bad.sort(key=lambda each: each[0].row)
            if not self._skip_bad:
                more = f" ({len(bad) - 1:,} more near it)" if len(bad) > 1 else ""
                raise DataError(
                    f"{bad[0][0].told(str(frame.part.path))}{more} Correct the file, or put such rows aside with "
                    "--skip-bad."
                )
            self._sink.put_aside(frame.part, bad)
        rows = self._answered(frame, slices)
        if wrong:
            good = np.ones(len(rows), bool)
            good[wrong] = False
            rows = rows.filter(pl.Series(good))
        self.rows += len(rows)
        self.bad += len(bad)
        self._sink.write(rows, str(frame.part.path))

    def _answered(self, frame: Frame, slices: list[Sliced]) -> pl.DataFrame:
        rows = frame.rows
        if self._kept is not None:
            rows = rows.select(self._kept)
        elif not self._sink.partitions and frame.part.partition:
            rows = rows.drop(name for name in frame.part.partition if name in rows.columns)
        if self._sink.types(frame.part) and slices:
            rows = rows.with_columns(self._retyped(rows, slices))
        width = self._lanes.model.width
        prediction = np.concatenate([each.prediction for each in slices]) if slices else np.empty((0, width))
        columns: list[pl.Series] = []
        if self._classes is None:
            columns.append(pl.Series(PREDICTED, prediction[:, 0]))
        else:
            decisions: list[Any] = [each.decision for each in slices]
            decision = np.concatenate(decisions) if slices else np.empty(0, np.int64)
            columns.append(self._classes.gather(pl.Series(decision)))
            columns += [pl.Series(name, prediction[:, n]) for n, name in enumerate(self._probabilities)]
        columns += [series.new_from_index(0, len(rows)) for series in self._constant.values()]
        return rows.with_columns(columns)

    def _retyped(self, rows: pl.DataFrame, slices: list[Sliced]) -> list[pl.Series]:
        """What was text in the source by the types of the signature, for a target that has types."""
        types = {c.name: c.type for c in (*self._signature.inputs, *self._signature.carried)}
        names = [name for name in slices[0].typed if name in rows.columns]
        return [
            pl.concat([each.typed[name] for each in slices]).cast(dtype_of(types[name])).alias(name) for name in names
        ]


def _names(signature: Signature) -> list[str]:
    """What the graph takes."""
    return [*(column.name for column in signature.inputs), *(tensor.name for tensor in signature.tensors)]


def _within(rows: float) -> int:
    return int(min(LARGEST_FRAME, max(SMALLEST_FRAME, rows)))
