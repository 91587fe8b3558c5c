"""Moves what servers logged from segments into the lake, each frame exactly once. Knows nothing of scores or drift.

How far a segment is folded travels in the note of the same Delta commit as its rows: either both are there or
neither, so a kill at any point neither loses nor doubles a row. Outcomes are committed first, so a prediction's note
may vouch for both tables.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from everloop.durable.crash import reached
from everloop.errors import DataError, SchemaChanged
from everloop.measure.space import Space
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType, InputColumn, Signature
from everloop.store import segments
from everloop.store.lake import OUTCOME_SCHEMA, OUTCOMES, PREDICTIONS, Lake, value_columns
from everloop.store.segments import OutcomeFrame, PredictionFrame

ROWS_A_COMMIT = 200_000
"""A backlog is folded in pieces of about this size, so that it needs little memory."""
INSTANT = pl.Datetime("us", "UTC")
INPUT = "input_"
SUMMARY = "summary_"
"""Before the name of every raw column, so that none can collide with a column of ours."""
DTYPES: dict[ColumnType, pl.DataType] = {
    "number": pl.Float64(),
    "integer": pl.Int64(),
    "boolean": pl.Boolean(),
    "text": pl.String(),
    "instant": INSTANT,
}
FIXED = pl.Schema(
    {
        "id": pl.String(),
        "at": INSTANT,
        "event_time": INSTANT,
        "version": pl.Int64(),
        "arm": pl.String(),
        "revision": pl.Int64(),
        "epoch": pl.Int64(),
        "share": pl.Float64(),
        "unit": pl.String(),
        "latency_us": pl.Int64(),
        "error": pl.Boolean(),
        "decision": pl.Int64(),
    }
)
"""Columns of every prediction. After them p_0 … (probabilities, in the version's order of classes) or value, then the
raw columns as the graph took them, each as input_<name> (of a tensor its digest, hexadecimal, and in summary_<name> what
drift is seen in). ``event_time`` is the
row's own if it brought one, else ``at``: when the request came. Where an experiment or a route gave rows their arm (there
``arm`` says which of the two), also its name as ``experiment``, the arm's as ``variant``, and of a route how sure it was,
``certainty``; where the declaration asks what a query is about, that is its ``meaning``."""

Positions = dict[str, int]
"""Segment file name → offset after the last folded frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldedCounts:
    predictions: int = 0
    outcomes: int = 0
    unknown: int = 0
    """Predictions of packages without a signature here: kept without their raw columns."""

    def __add__(self, other: FoldedCounts) -> FoldedCounts:
        return FoldedCounts(
            predictions=self.predictions + other.predictions,
            outcomes=self.outcomes + other.outcomes,
            unknown=self.unknown + other.unknown,
        )


@dataclass(slots=True)
class _Piece:
    """Frames of one commit, and where each segment stands after them."""

    predictions: list[PredictionFrame] = field(default_factory=list)
    outcomes: list[OutcomeFrame] = field(default_factory=list)
    positions: Positions = field(default_factory=dict)
    rows: int = 0


def fold(folder: Path, lake: Lake, signatures: Mapping[str, Signature], *, limit: int = ROWS_A_COMMIT) -> FoldedCounts:
    """Append every whole frame that is not yet in the lake; a second fold at the same time waits for the first.

    ``signatures``: package digest → what its graph takes. Raises StoreFull when the disk is full and StoreError for a
    damaged folder; what was folded before that stays folded.
    """
    with _alone(folder):
        folded = positions(lake)
        counts = FoldedCounts()
        for piece in _pieces(folder, folded, limit):
            if piece.outcomes:
                _commit(lake, OUTCOMES, _outcome_rows(piece.outcomes), folded[PREDICTIONS], piece.positions)
                reached("fold.outcomes")
            if piece.predictions:
                rows, unknown = prediction_rows(piece.predictions, signatures)
                _commit_predictions(lake, rows, piece.positions)
                reached("fold.predictions")
                counts += FoldedCounts(predictions=len(rows), unknown=unknown)
            counts += FoldedCounts(outcomes=sum(len(each.outcomes) for each in piece.outcomes))
            folded = {PREDICTIONS: piece.positions, OUTCOMES: piece.positions}
        return counts


def positions(lake: Lake) -> dict[str, Positions]:
    """How far each segment is folded into each of the two tables, from the tables' own commits."""
    found: dict[str, Positions] = {PREDICTIONS: {}, OUTCOMES: {}}
    for table in (PREDICTIONS, OUTCOMES):
        note = lake.last_note(table, "folded")
        for kind, places in (json.loads(note) if note else {}).items():
            for name, offset in places.items():
                found[kind][name] = max(offset, found[kind].get(name, 0))
    return found


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "fold.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pieces(folder: Path, folded: Mapping[str, Positions], limit: int) -> Iterator[_Piece]:
    files = segments.files(folder)
    known = {
        path.name: max(folded[PREDICTIONS].get(path.name, 0), folded[OUTCOMES].get(path.name, 0)) for path in files
    }
    piece = _Piece(positions=dict(known))
    for path in files:
        done = {kind: folded[kind].get(path.name, 0) for kind in folded}
        start = min(done.values())
        if path.stat().st_size <= start:
            continue
        for payload, after in segments.read(path, start):
            frame = segments.decode(payload)
            kind = PREDICTIONS if isinstance(frame, PredictionFrame) else OUTCOMES
            if after > done[kind]:
                if isinstance(frame, PredictionFrame):
                    piece.predictions.append(frame)
                    piece.rows += len(frame.ids)
                else:
                    piece.outcomes.append(frame)
                    piece.rows += len(frame.outcomes)
                piece.positions[path.name] = max(after, piece.positions[path.name])
            if piece.rows >= limit:
                yield piece
                piece = _Piece(positions=dict(piece.positions))
    if piece.rows:
        yield piece


def _commit(lake: Lake, table: str, rows: pl.DataFrame, predictions: Positions, outcomes: Positions) -> None:
    note = {"folded": json.dumps({PREDICTIONS: predictions, OUTCOMES: outcomes})}
    lake.append(table, rows, note=note)


def _commit_predictions(lake: Lake, rows: pl.DataFrame, places: Positions) -> None:
    try:
        _commit(lake, PREDICTIONS, rows, places, places)
    except SchemaChanged:
        # A raw column changed its type between two packages. The log must not stop for it: the new type gets a
        # column of its own.
        known = lake.schema(PREDICTIONS)
        names = {
            name: f"{name}_{_name_of(kind)}"
            for name, kind in rows.schema.items()
            if name.startswith(INPUT) and known.get(name, kind) != kind
        }
        _commit(lake, PREDICTIONS, rows.rename(names), places, places)


def _name_of(dtype: pl.DataType) -> str:
    return next(name for name, kind in DTYPES.items() if kind == dtype)


# Frames to rows


def prediction_rows(frames: Sequence[PredictionFrame], signatures: Mapping[str, Signature]) -> tuple[pl.DataFrame, int]:
    """The frames' rows in the shape of the predictions table, and how many lack a signature."""
    groups: dict[tuple[str, int], list[PredictionFrame]] = {}
    for frame in frames:
        groups.setdefault((frame.package, frame.width), []).append(frame)
    parts: list[pl.DataFrame] = []
    unknown = 0
    for (package, width), group in groups.items():
        signature = signatures.get(package)
        rows = _group_rows(group, width, signature)
        unknown += 0 if signature else len(rows)
        parts.append(rows)
    try:
        return pl.concat(parts, how="diagonal"), unknown
    except pl.exceptions.SchemaError:
        # Two packages with different types for one raw column in one piece: numbers take integers in.
        return pl.concat(parts, how="diagonal_relaxed"), unknown


def _group_rows(frames: Sequence[PredictionFrame], width: int, signature: Signature | None) -> pl.DataFrame:
    lengths = np.array([len(frame.ids) for frame in frames])
    rows = int(lengths.sum())
    at = _joined(frames, lambda frame: frame.at, "<i8")
    status = _joined(frames, lambda frame: frame.status, "<u1")
    decision = _joined(frames, lambda frame: frame.decision, "<i8")
    answers = _joined(frames, lambda frame: frame.prediction, "<f8")
    if len(at) != rows or len(status) != rows or len(answers) not in (0, rows * width):
        raise DataError(
            f"A prediction frame of package {frames[0].package[:12]} holds {rows} ids, {len(at)} times and "
            f"{len(answers)} answers of width {width}. The segment was not written by this version of everloop; "
            "move it out of the folder."
        )

    each = np.repeat(np.arange(len(frames)), lengths)
    at_of = pl.col("at").cast(INSTANT)
    units: list[str | None] = []
    for frame in frames:
        units += frame.units or [None] * len(frame.ids)
    columns: dict[str, Any] = {
        "id": [key for frame in frames for key in frame.ids],
        "at": at,
        "version": np.array([frame.version for frame in frames], np.int64)[each],
        "arm": [frame.arm for frame in frames for _ in frame.ids],
        "revision": np.array([frame.revision for frame in frames], np.int64)[each],
        "epoch": np.array([frame.epoch for frame in frames], np.int64)[each],
        "share": np.array([frame.share for frame in frames], np.float64)[each],
        "unit": units,
        "latency_us": _joined(frames, lambda frame: frame.latency, "<i4").astype(np.int64),
        "error": status != 0,
        "decision": decision if len(decision) == rows else np.full(rows, -1),
    }
    meaning: dict[str, pl.Expr] = {
        **{name: pl.col(name) for name in columns},
        "at": at_of,
        "decision": pl.when(pl.col("decision") >= 0).then("decision"),
    }
    for name, given in (("experiment", [f.experiment for f in frames]), ("variant", [f.variant for f in frames])):
        if any(given):  # most loops never have them: their tables keep to what they hold
            columns[name] = [each or None for each, frame in zip(given, frames, strict=True) for _ in frame.ids]
            meaning[name] = pl.col(name)
    if any(frame.meanings for frame in frames):
        told = [each for frame in frames for each in frame.meanings or [""] * len(frame.ids)]
        columns["meaning"] = [each or None for each in told]
        meaning["meaning"] = pl.col("meaning")
    if any(frame.certainty for frame in frames):
        columns["certainty"] = _joined(frames, _certainty, "<f8")
        meaning["certainty"] = pl.col("certainty").fill_nan(None)
    regression = signature.task == "regression" if signature else len(decision) == 0
    matrix = answers.reshape(rows, width) if len(answers) else np.full((rows, width), np.nan)
    for index in range(width):
        name = "value" if regression else f"p_{index}"
        columns[name] = np.ascontiguousarray(matrix[:, index])
        meaning[name] = pl.col(name).fill_nan(None)
    own: pl.Expr | None = None
    if signature is not None:
        for column, values in _inputs(frames, rows, signature):
            name = f"{INPUT}{column.name}"
            columns[name] = values
            meaning[name] = _present(pl.col(name), column.type)
            if column.name == signature.event_time and column.type == "instant":
                own = meaning[name]
        for tensor in signature.tensors:
            name = f"{INPUT}{tensor.name}"
            columns[name] = _digests(frames, rows, tensor.name)
            meaning[name] = pl.col(name)
            if all(tensor.name in frame.summaries for frame in frames):
                name = f"{SUMMARY}{tensor.name}"
                columns[name] = pl.Series(
                    _each(b"".join(f.summaries[tensor.name] for f in frames), rows), dtype=pl.Binary
                )
                meaning[name] = pl.col(name)
    meaning["event_time"] = at_of if own is None else pl.coalesce(own, at_of)
    types = {name: pl.String() for name, values in columns.items() if isinstance(values, list)}
    # All in one query: each step on a column of its own costs more than the rows of a look.
    wanted = {name: meaning[name] for name in (*FIXED, *(name for name in meaning if name not in FIXED))}
    return pl.DataFrame(columns, schema_overrides=types).select(**wanted)


def _joined(frames: Sequence[PredictionFrame], take: Callable[[PredictionFrame], bytes], dtype: str) -> Any:
    return np.frombuffer(b"".join([take(frame) for frame in frames]), dtype=dtype)


def _certainty(frame: PredictionFrame) -> bytes:
    return frame.certainty or np.full(len(frame.ids), np.nan).tobytes()


def _inputs(frames: Sequence[PredictionFrame], rows: int, signature: Signature) -> Iterator[tuple[InputColumn, Any]]:
    """Each raw column as it was packed: numbers float64 [rows], texts a list, all else int64 [rows]."""
    numbers = signature.of("number")
    integers = signature.of("integer", "boolean", "instant")
    texts = signature.of("text")
    if numbers:
        values = _joined(frames, lambda frame: frame.numbers, "<f8").reshape(rows, len(numbers))
        for column in numbers:
            yield column, np.ascontiguousarray(values[:, column.index])
    if integers:
        whole = _joined(frames, lambda frame: frame.integers, "<i8").reshape(rows, len(integers))
        for column in integers:
            yield column, np.ascontiguousarray(whole[:, column.index])
    if texts:
        flat = [text for frame in frames for text in frame.texts]
        for column in texts:
            yield column, flat[column.index :: len(texts)]


def _digests(frames: Sequence[PredictionFrame], rows: int, name: str) -> list[str]:
    """Of a tensor column what the log keeps: a digest of each row, as hexadecimal text."""
    whole = b"".join([frame.tensors.get(name, b"") for frame in frames])
    return [each.hex() for each in _each(whole, rows)]


def _each(whole: bytes, rows: int) -> list[bytes]:
    size = len(whole) // rows
    return [whole[at : at + size] for at in range(0, rows * size, size)]


def _present(packed: pl.Expr, kind: ColumnType) -> pl.Expr:
    if kind == "number":
        return packed.fill_nan(None)
    missing = MISSING_TEXT if kind == "text" else MISSING_INTEGER
    return pl.when(packed != missing).then(packed).cast(DTYPES[kind])


def _outcome_rows(frames: Sequence[OutcomeFrame]) -> pl.DataFrame:
    reported = [each for frame in frames for each in frame.outcomes]
    values = [value_columns(value) for _, _, value, _ in reported]
    columns = {
        "id": [key for key, _, _, _ in reported],
        "name": [name for _, name, _, _ in reported],
        "value_text": [text for text, _ in values],
        "value_number": [number for _, number in values],
        "at": [at for _, _, _, at in reported],
        "_batch": [None] * len(reported),
    }
    return pl.DataFrame(columns, schema={**OUTCOME_SCHEMA, "at": pl.Int64()}).with_columns(pl.col("at").cast(INSTANT))


def summaries(frame: pl.DataFrame, spaces: Mapping[str, Space]) -> dict[str, NDArray[np.float32]]:
    """Of arrays what was kept of them, float32 [rows, width]; NaN where nothing was."""
    found: dict[str, NDArray[np.float32]] = {}
    for name, space in spaces.items():
        if space.kind == "array" and f"{SUMMARY}{name}" in frame.columns:
            absent = np.full(space.width, np.nan, "<f4").tobytes()
            kept = [
                each if each and len(each) == len(absent) else absent for each in frame[f"{SUMMARY}{name}"].to_list()
            ]
            found[name] = np.frombuffer(b"".join(kept), "<f4").reshape(len(frame), space.width)
    return found


def inputs(frame: pl.DataFrame, columns: Sequence[InputColumn]) -> dict[str, pl.Series]:
    """The raw columns of rows of the predictions table, under their own names."""
    found: dict[str, pl.Series] = {}
    schema = frame.schema  # made anew at each asking
    for column in columns:
        dtype = DTYPES[column.type]
        for name in (f"{INPUT}{column.name}_{column.type}", f"{INPUT}{column.name}"):
            if schema.get(name) == dtype:
                found[column.name] = frame[name]
                break
    return found
