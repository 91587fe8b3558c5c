"""Chooses the rows of a fit and gives the same rows for ever. Knows nothing of features, estimators or files.

Nothing that was not known at ``as_of`` enters: a label from the source counts from its event time plus the declared
delay on, an outcome from its own time on, and `after` columns never come along. Which rows were chosen is fixed by the
versions of the tables and the instants in the `Snapshot`; its digest is of the chosen rows themselves.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import polars as pl

from everloop.clock import instant, microseconds
from everloop.data.columns import DTYPES
from everloop.data.known import valued
from everloop.data.sources import BATCH, EVENT_TIME, KEY, types_of
from everloop.errors import DataError
from everloop.records import ColumnType, Snapshot, digest_of, encode
from everloop.spec.resolve import Resolved
from everloop.spec.window import Everything, Last
from everloop.store.lake import OUTCOMES, RAW, Lake

LABEL = "_label"
LEAST_TRAIN, LEAST_TEST = 10, 1
"""Fewer rows than these are no fit and no test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Raw columns with `_key`, `_event_time` and `_label` (never missing), by event time and key."""

    train: pl.DataFrame
    test: pl.DataFrame


def take(loop: Resolved, lake: Lake, *, as_of: datetime) -> Snapshot:
    """The newest window of labelled rows, as known at ``as_of``. Raises DataError when it holds too few rows.

    The window ends with the newest labelled row. Its test part are its newest rows; a number of rows or a share is
    rounded up to whole instants, so that no instant is on both sides.
    """
    raw_version, outcomes_version = lake.version(RAW), lake.version(OUTCOMES)
    if raw_version < 0:
        raise DataError(
            f"Loop {loop.loop.name} has no rows yet. Put files where its source {loop.loop.source.path!r} looks."
        )
    rows = _labelled(loop, lake, raw_version, outcomes_version, as_of, everything=False)
    known = rows.filter(pl.col(LABEL).is_not_null())
    times = known[EVENT_TIME].to_physical().to_numpy()
    if not len(times):
        raise DataError(_nothing_labelled(loop, rows, as_of))
    begin, test, end = bounds(loop.loop.window, times)
    train_rows = int(((times >= begin) & (times < test)).sum())
    test_rows = int(((times >= test) & (times < end)).sum())
    if train_rows < LEAST_TRAIN or (test_rows < LEAST_TEST and _test(loop) != 0):
        raise DataError(
            f"The window of loop {loop.loop.name} is too small at {as_of.isoformat()}: {train_rows} rows to train on "
            f"and {test_rows} to test on, of {len(times)} labelled rows in all ({len(rows)} have happened); needed are "
            f"{LEAST_TRAIN} and {LEAST_TEST}. Widen the window, shorten its test, or wait for labels."
        )
    chosen = known.filter(_within(begin, end))
    return Snapshot(
        digest=_digest(loop, chosen, (begin, test, end)),
        loop=loop.loop.name,
        as_of=as_of,
        raw_version=raw_version,
        outcomes_version=outcomes_version,
        train_from=instant(begin),
        test_from=instant(test),
        to=instant(end),
        train_rows=train_rows,
        test_rows=test_rows,
        unlabelled_rows=rows.filter(_within(begin, end) & pl.col(LABEL).is_null()).height,
    )


def samples(loop: Resolved, lake: Lake, snapshot: Snapshot) -> Samples:
    """The rows of a snapshot: the same rows in the same order whenever it is asked for.

    Raises DataError when the lake no longer holds them.
    """
    bounds = tuple(microseconds(each) for each in (snapshot.train_from, snapshot.test_from, snapshot.to))
    begin, test, end = bounds
    rows = _labelled(
        loop,
        lake,
        snapshot.raw_version,
        snapshot.outcomes_version,
        snapshot.as_of,
        everything=True,
        within=_within(begin, end),
    ).filter(pl.col(LABEL).is_not_null())
    if _digest(loop, rows, (begin, test, end)) != snapshot.digest:
        raise DataError(
            f"The lake at {lake.root} no longer holds the rows of snapshot {snapshot.digest[:12]}: it has {len(rows)}, "
            f"the snapshot {snapshot.train_rows + snapshot.test_rows}. Restore the lake from a copy, or take a new one."
        )
    rows = rows.drop(BATCH)
    newest = pl.col(EVENT_TIME) >= snapshot.test_from
    return Samples(train=rows.filter(~newest), test=rows.filter(newest))


def before(loop: Resolved, lake: Lake, snapshot: Snapshot, *, count: int, seed: int) -> pl.DataFrame:
    """At most ``count`` labelled rows of before the snapshot's window, drawn at random: the same ones for ever."""
    older = pl.col(EVENT_TIME) < snapshot.train_from
    rows = _labelled(
        loop, lake, snapshot.raw_version, snapshot.outcomes_version, snapshot.as_of, everything=True, within=older
    ).filter(pl.col(LABEL).is_not_null())
    rows = rows.drop(BATCH)
    if len(rows) <= count:
        return rows
    places = np.random.default_rng((seed, len(rows))).choice(len(rows), size=count, replace=False)
    return rows[np.sort(places)]


def label_type(loop: Resolved, types: dict[str, ColumnType]) -> ColumnType:
    """The label's column type: as in the source, else by its classes."""
    kind = types.get(loop.loop.label.column) or loop.schema.get(loop.loop.label.column)
    if kind is not None:
        return kind
    if loop.task == "regression":
        return "number"
    first = loop.classes[0] if loop.classes else False
    return "boolean" if isinstance(first, bool) else "integer" if isinstance(first, int) else "text"


def _labelled(
    loop: Resolved,
    lake: Lake,
    raw_version: int,
    outcomes_version: int,
    as_of: datetime,
    *,
    everything: bool,
    within: pl.Expr | None = None,
) -> pl.DataFrame:
    """Rows that have happened by ``as_of``, with `_label` as known then, sorted. ``everything``: with all features."""
    label, source = loop.loop.label, loop.loop.source
    schema = lake.schema(RAW, version=raw_version)
    kind = label_type(loop, types_of(schema))
    in_rows = label.source is None and label.column in schema
    hidden = {label.column, *source.after}
    columns = [name for name in schema if name not in hidden] if everything else [KEY, EVENT_TIME, BATCH]
    happened = pl.col(EVENT_TIME) <= as_of
    rows = lake.read(
        RAW,
        version=raw_version,
        columns=[*columns, label.column] if in_rows else columns,
        where=happened if within is None else happened & within,
    )
    matured = pl.col(EVENT_TIME) + label.delay <= as_of
    own = pl.when(matured).then(pl.col(label.column)) if in_rows else pl.lit(None, dtype=DTYPES[kind])
    rows = rows.with_columns(own.cast(DTYPES[kind]).alias(LABEL))
    if in_rows:
        rows = rows.drop(label.column)
    told = _told(lake, outcomes_version, label.column, kind, as_of)
    if len(told):
        rows = rows.join(told, left_on=KEY, right_on="id", how="left")
        rows = rows.with_columns(pl.when(pl.col("_at").is_null()).then(LABEL).otherwise("_value").alias(LABEL))
    if label.absent is not None:
        # Whatever is told early says yes more often than no: with an absent value only whole, matured times count.
        silent = pl.col("_at").is_null() if len(told) else pl.lit(True)
        answer = (
            pl.when(silent).then(pl.col(LABEL).fill_null(pl.lit(label.absent, dtype=DTYPES[kind]))).otherwise(LABEL)
        )
        rows = rows.with_columns(pl.when(matured).then(answer).alias(LABEL))
    return rows.drop("_at", "_value", strict=False).sort(EVENT_TIME, KEY)


def _told(lake: Lake, version: int, column: str, kind: ColumnType, as_of: datetime) -> pl.DataFrame:
    """The newest outcome of each id by ``as_of``: id, _at, _value."""
    mine = pl.col("name").fill_null("").is_in(["", column]) & (pl.col("at") <= as_of)
    found = lake.read(OUTCOMES, version=version, where=mine)
    if found.is_empty():
        return pl.DataFrame()
    newest = found.sort("at", BATCH, "value_number", "value_text").unique("id", keep="last")
    return newest.select("id", pl.col("at").alias("_at")).with_columns(valued(newest, kind).alias("_value"))


def bounds(window: Last | Everything, times: np.ndarray[Any, np.dtype[np.int64]]) -> tuple[int, int, int]:
    """(train from, test from, to) in microseconds, of the labelled rows with these event times, which rise."""
    end = int(times[-1]) + 1
    begin = int(times[0])
    if isinstance(window, Last):
        if isinstance(window.length, timedelta):
            begin = max(begin, end - window.length // timedelta(microseconds=1))
        else:
            begin = int(times[-min(window.length, len(times))])
    inside = times[np.searchsorted(times, begin) :]
    test = window.test
    if isinstance(test, timedelta):
        return begin, max(begin, end - test // timedelta(microseconds=1)), end
    count = test if isinstance(test, int) else max(1, round(test * len(inside))) if test else 0
    return begin, (int(inside[-min(count, len(inside))]) if count else end), end


def _within(begin: int, end: int) -> pl.Expr:
    return pl.col(EVENT_TIME).is_between(instant(begin), instant(end), closed="left")


def _test(loop: Resolved) -> Any:
    test = loop.loop.window.test
    return test if not isinstance(test, timedelta) else test / timedelta(microseconds=1)


def _digest(loop: Resolved, rows: pl.DataFrame, bounds: tuple[int, int, int]) -> str:
    """Of the chosen rows: their keys, times, labels and the contents they came with, which fix all other columns."""
    content = hashlib.sha256()
    batches = rows[BATCH].rle().struct.unnest()  # rows of one batch mostly lie side by side
    for column in (rows[KEY], batches["value"], batches["len"], rows[LABEL], rows[EVENT_TIME]):
        if column.dtype == pl.String:
            content.update(column.str.len_bytes().to_numpy().astype("<u4").tobytes())
            content.update((column.str.join().item() or "").encode())
        else:
            content.update(column.to_physical().to_numpy().tobytes())
    meaning = {
        "loop": loop.loop.name,
        "label": loop.loop.label.column,
        "after": sorted(loop.loop.source.after),
        "bounds": bounds,
        "rows": content.hexdigest(),
    }
    return digest_of(encode(meaning))


def _nothing_labelled(loop: Resolved, rows: pl.DataFrame, as_of: datetime) -> str:
    label = loop.loop.label
    return (
        f"None of the {len(rows)} rows of loop {loop.loop.name} that happened by {as_of.isoformat()} has a known label "
        f"{label.column!r} (delay {label.delay}). Wait for labels, send outcomes, or shorten Label.delay."
    )
