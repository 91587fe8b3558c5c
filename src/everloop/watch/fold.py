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

from everloop.durable.crash import reached
from everloop.errors import DataError, SchemaChanged
from everloop.records import MISSING_INTEGER, MISSING_TEXT, ColumnType, InputColumn, Signature
from everloop.store import segments
from everloop.store.lake import OUTCOME_SCHEMA, OUTCOMES, PREDICTIONS, Lake, value_columns
from everloop.store.segments import OutcomeFrame, PredictionFrame

ROWS_A_COMMIT = 200_000
"""A backlog is folded in pieces of about this size, so that it needs little memory."""
INSTANT = pl.Datetime("us", "UTC")
INPUT = "input_"
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
raw columns as the graph took them, each as input_<name>. ``event_time`` is the row's own if it brought one, else
``at``: when the request came."""

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
        for entry in reversed(lake.history(table)):
            if "folded" in entry["note"]:
                for kind, places in json.loads(entry["note"]["folded"]).items():
                    for name, offset in places.items():
                        found[kind][name] = max(offset, found[kind].get(name, 0))
                break
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

    def repeated(take: Callable[[PredictionFrame], Any], dtype: pl.DataType) -> pl.Series:
        each = pl.Series([take(frame) for frame in frames], dtype=dtype)
        return each.gather(np.repeat(np.arange(len(frames)), lengths))

    columns: dict[str, pl.Series] = {
        "id": pl.Series([each for frame in frames for each in frame.ids], dtype=pl.String()),
        "at": pl.Series(at).cast(INSTANT),
        "event_time": pl.Series(at).cast(INSTANT),
        "version": repeated(lambda frame: frame.version, pl.Int64()),
        "arm": repeated(lambda frame: frame.arm, pl.String()),
        "revision": repeated(lambda frame: frame.revision, pl.Int64()),
        "epoch": repeated(lambda frame: frame.epoch, pl.Int64()),
        "share": repeated(lambda frame: frame.share, pl.Float64()),
        "unit": _units(frames, rows),
        "latency_us": pl.Series(_joined(frames, lambda frame: frame.latency, "<i4").astype(np.int64)),
        "error": pl.Series(status != 0),
        "decision": _masked(decision, decision < 0) if len(decision) == rows else _absent(rows, pl.Int64()),
    }
    regression = signature.task == "regression" if signature else len(decision) == 0
    matrix = answers.reshape(rows, width) if len(answers) else np.full((rows, width), np.nan)
    for index in range(width):
        name = "value" if regression else f"p_{index}"
        columns[name] = pl.Series(np.ascontiguousarray(matrix[:, index]), nan_to_null=True)
    if signature is not None:
        raw = _inputs(frames, rows, signature)
        columns |= {f"{INPUT}{name}": series for name, series in raw.items()}
        own = signature.event_time
        if own in raw and raw[own].dtype == INSTANT:
            columns["event_time"] = pl.select(pl.coalesce(raw[own], columns["event_time"])).to_series()
    return pl.DataFrame([series.alias(name) for name, series in columns.items()])


def _joined(frames: Sequence[PredictionFrame], take: Callable[[PredictionFrame], bytes], dtype: str) -> Any:
    return np.frombuffer(b"".join([take(frame) for frame in frames]), dtype=dtype)


def _units(frames: Sequence[PredictionFrame], rows: int) -> pl.Series:
    units: list[str | None] = []
    for frame in frames:
        units += frame.units or [None] * len(frame.ids)
    return (
        pl.Series(units, dtype=pl.String()) if any(each is not None for each in units) else _absent(rows, pl.String())
    )


def _inputs(frames: Sequence[PredictionFrame], rows: int, signature: Signature) -> dict[str, pl.Series]:
    numbers = signature.of("number")
    integers = signature.of("integer", "boolean", "instant")
    texts = signature.of("text")
    found: dict[str, pl.Series] = {}
    if numbers:
        values = _joined(frames, lambda frame: frame.numbers, "<f8").reshape(rows, len(numbers))
        for column in numbers:
            found[column.name] = pl.Series(np.ascontiguousarray(values[:, column.index]), nan_to_null=True)
    if integers:
        whole = _joined(frames, lambda frame: frame.integers, "<i8").reshape(rows, len(integers))
        for column in integers:
            each = np.ascontiguousarray(whole[:, column.index])
            found[column.name] = _masked(each, each == MISSING_INTEGER).cast(DTYPES[column.type])
    if texts:
        flat = [text for frame in frames for text in frame.texts]
        for column in texts:
            series = pl.Series(flat[column.index :: len(texts)], dtype=pl.String())
            found[column.name] = series.set(series == MISSING_TEXT, None)
    return found


def _masked(values: Any, missing: Any) -> pl.Series:
    return pl.select(pl.when(~pl.Series(missing)).then(pl.Series(values))).to_series()


def _absent(rows: int, dtype: pl.DataType) -> pl.Series:
    return pl.Series([None], dtype=dtype).new_from_index(0, rows)


def _outcome_rows(frames: Sequence[OutcomeFrame]) -> pl.DataFrame:
    reported = [each for frame in frames for each in frame.outcomes]
    rows = [(key, name, *value_columns(value), at, None) for key, name, value, at in reported]
    schema = {**OUTCOME_SCHEMA, "at": pl.Int64()}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(pl.col("at").cast(INSTANT))


def inputs(frame: pl.DataFrame, columns: Sequence[InputColumn]) -> dict[str, pl.Series]:
    """The raw columns of rows of the predictions table, under their own names."""
    found: dict[str, pl.Series] = {}
    for column in columns:
        dtype = DTYPES[column.type]
        for name in (f"{INPUT}{column.name}_{column.type}", f"{INPUT}{column.name}"):
            if name in frame.columns and frame.schema[name] == dtype:
                found[column.name] = frame[name]
                break
    return found
