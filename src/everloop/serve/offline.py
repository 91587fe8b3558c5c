"""Scores whole files with a package: the same graph and the same answers as the server. Knows nothing of HTTP.

A file is streamed in chunks, so that it may be larger than memory; chunks run on every core and come out in order.
This is the only file of the room that needs polars: the server never loads it.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from polars.io.plugins import register_io_source

from everloop.errors import DataError
from everloop.records import MISSING_INTEGER, MISSING_TEXT, InputColumn, Signature
from everloop.serve.instants import reader as instant_reader
from everloop.serve.live import class_name
from everloop.serve.model import Model, load
from everloop.serve.rows import KINDS, Packed
from everloop.store.files import storing

CHUNK_ROWS = 16_384
"""Large enough that trees run at their best rate, small enough to stay in the cache (measured)."""
PREDICTED = "predicted"
CSV_TYPES: dict[str, Any] = {
    "number": pl.Float64, "integer": pl.Int64, "boolean": pl.Boolean, "text": pl.String, "instant": pl.String,
}  # fmt: skip
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """``seconds`` is wall time with loading."""

    rows: int
    seconds: float
    target: Path


def score(
    folder: Path,
    source: Path,
    target: Path,
    *,
    trusted: Mapping[str, Ed25519PublicKey],
    threads: int | None = None,
    progress: Progress | None = None,
) -> Scored:
    """Score every row of ``source`` (Parquet, CSV or JSON lines by its suffix) into ``target``, in the same order.

    The target has the columns of the source and ``predicted`` (the decision, or the value for regression) and, for
    classes, ``probability_<class>``. It appears when it is whole. ``progress`` is told the rows done so far. Raises
    DataError for columns that are not there or not of their type, PackageTampered, StoreFull.
    """
    begin = time.perf_counter()
    model = load(folder, trusted)
    signature = model.signature
    frames = _scan(source, signature)
    schema = _schema(frames, source)
    _check(schema, signature, source)
    rows = 0

    def scored(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        nonlocal rows
        for chunk in _in_order(frames, lambda each: _scored(model, each, source), threads or os.cpu_count() or 1):
            rows += len(chunk)
            if progress is not None:
                progress(rows)
            yield chunk

    whole = register_io_source(scored, schema={**schema, **_answer_schema(signature)})
    beside = target.with_name(f".{target.name}.{os.getpid()}{target.suffix}")
    with storing(target):
        try:
            _sink(whole, beside, target)
            beside.replace(target)
        except pl.exceptions.PolarsError as error:
            raise DataError(f"{source} cannot be scored: {error}") from error
        finally:
            beside.unlink(missing_ok=True)
    return Scored(rows=rows, seconds=time.perf_counter() - begin, target=target)


def _scan(source: Path, signature: Signature) -> pl.LazyFrame:
    if not source.is_file():
        raise DataError(f"There is no file {source}.")
    kind = source.suffix.lower()
    if kind == ".parquet":
        return pl.scan_parquet(source)
    if kind == ".csv":
        types = {column.name: CSV_TYPES[column.type] for column in signature.inputs}
        return pl.scan_csv(source, schema_overrides=types)
    if kind in (".jsonl", ".ndjson"):
        return pl.scan_ndjson(source, infer_schema_length=10_000)
    raise DataError(f"{source} ends with {kind!r}; .parquet, .csv, .jsonl and .ndjson can be read.")


def _sink(frames: pl.LazyFrame, beside: Path, target: Path) -> None:
    kind = target.suffix.lower()
    if kind == ".parquet":
        frames.sink_parquet(beside)
    elif kind == ".csv":
        frames.sink_csv(beside)
    elif kind in (".jsonl", ".ndjson"):
        frames.sink_ndjson(beside)
    else:
        raise DataError(f"{target} ends with {kind!r}; .parquet, .csv, .jsonl and .ndjson can be written.")


def _schema(frames: pl.LazyFrame, source: Path) -> dict[str, Any]:
    try:
        return dict(frames.collect_schema())
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{source} cannot be read: {error}") from error


def _answer_schema(signature: Signature) -> dict[str, Any]:
    if signature.task == "regression":
        return {PREDICTED: pl.Float64}
    return {
        PREDICTED: pl.Series(list(signature.classes)).dtype,
        **{f"probability_{class_name(value)}": pl.Float64 for value in signature.classes},
    }


def _check(schema: Mapping[str, Any], signature: Signature, source: Path) -> None:
    missing = [column.name for column in signature.inputs if column.name not in schema]
    if missing:
        raise DataError(f"{source} has no column {', '.join(map(repr, missing))}; it has {', '.join(schema)}.")
    taken = sorted(set(_answer_schema(signature)) & set(schema))
    if taken:
        raise DataError(f"{source} has a column {taken[0]!r} already: rename it, the answers go there.")


def _in_order(
    frames: pl.LazyFrame, work: Callable[[pl.DataFrame], pl.DataFrame], threads: int
) -> Iterator[pl.DataFrame]:
    """``work`` on each chunk in threads (the graph runs outside the interpreter lock), in the file's order."""
    waiting: deque[Future[pl.DataFrame]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for chunk in frames.collect_batches(chunk_size=CHUNK_ROWS, maintain_order=True):
            waiting.append(pool.submit(work, chunk))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _scored(model: Model, chunk: pl.DataFrame, source: Path) -> pl.DataFrame:
    signature = model.signature
    prediction, decision = model.run(packed(chunk, signature, str(source)))
    if decision is None:
        return chunk.with_columns(pl.Series(PREDICTED, prediction[:, 0]))
    classes = pl.Series(PREDICTED, list(signature.classes))
    return chunk.with_columns(
        classes.gather(pl.Series(decision)),
        *(
            pl.Series(f"probability_{class_name(value)}", prediction[:, place])
            for place, value in enumerate(signature.classes)
        ),
    )


def packed(frame: pl.DataFrame, signature: Signature, where: str) -> Packed:
    """The graph's inputs from a frame (records.Signature). Raises DataError naming a column of another type."""
    found: Packed = {}
    for kind, types in KINDS.items():
        inputs = sorted((c for c in signature.inputs if c.type in types), key=lambda column: column.index)
        if not inputs:
            continue
        dtype: Any = {"numbers": np.float64, "integers": np.int64, "texts": object}[kind]
        array = np.empty((len(frame), len(inputs)), dtype=dtype)
        for place, column in enumerate(inputs):
            try:
                array[:, place] = _values(frame[column.name], column)
            except (pl.exceptions.PolarsError, ValueError, TypeError) as error:
                raise DataError(
                    f"Column {column.name!r} in {where} is {frame[column.name].dtype}; expected {column.type}: {error}"
                ) from error
        found[kind] = array
    return found


def _values(series: pl.Series, column: InputColumn) -> Any:
    if column.type == "number":
        return series.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    if column.type == "text":
        return series.cast(pl.String).fill_null(MISSING_TEXT).to_numpy()
    if column.type == "instant":
        series = _instants(series, column.time_zone)
    elif column.type == "boolean":
        series = series.cast(pl.Boolean)
    return series.cast(pl.Int64).fill_null(MISSING_INTEGER).to_numpy()


def _instants(series: pl.Series, time_zone: str | None) -> pl.Series:
    """Microseconds in UTC, read as the server reads them."""
    dtype = series.dtype
    if dtype.is_integer() or dtype == pl.Null:
        return series
    if isinstance(dtype, pl.Datetime) and dtype.time_zone is not None:
        return series.dt.epoch("us")
    if isinstance(dtype, pl.Datetime | pl.Date):
        series = series.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%S%.6f")
    elif dtype != pl.String:
        raise TypeError(f"{dtype} holds no instants")
    read = instant_reader(time_zone)
    texts = series.unique().drop_nulls().to_list()
    return series.replace_strict(texts, [read(text) for text in texts], default=None, return_dtype=pl.Int64)
