"""What came true for which prediction: labels that are old enough, joined by id. Knows nothing of scores or versions.

A row is judged at a fixed age, event time plus the declared delay, the same for every arm: judged when its label
happens to come, an arm whose labels come early would look different for that alone. Of several labels of one row the
latest counts, wherever it came from: the source's own files or a reported outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure.truth import Class, class_name
from everloop.records import Task
from everloop.store.lake import INSTANT, OUTCOMES, PREDICTIONS, RAW, Lake, moment
from everloop.watch.recent import newest

DAY = timedelta(days=1)
DRAWN = ("champion", "experiment")
"""Arms in which a version's rows are as the world sent them: all, or a share drawn at random. Of a route they are chosen,
of an override a tester's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is declared of the label, as far as the watch needs it."""

    column: str
    delay: timedelta
    task: Task
    classes: tuple[Class, ...] = ()
    absent: Class | float | None = None
    """What a label is that has not come when it is due, where no news is an answer."""


def matured(
    lake: Lake,
    truth: Truth,
    *,
    since: datetime | None,
    until: datetime,
    arms: Sequence[str] = DRAWN,
    versions: Sequence[int] | None = None,
    inputs: Sequence[str] = (),
) -> pl.DataFrame:
    """Answered rows whose label is due in (``since``, ``until``], oldest event first.

    Columns: id, event_time, version, arm, epoch, decision, the answers (p_0 … or value), ``inputs`` as they stand in
    the predictions table, and ``truth``: int64 index into ``truth.classes`` (−1: a class that nobody declared, where
    there are more than two) or float64; null where no label has come. An empty frame where nothing is due.
    """
    first = None if since is None else since - truth.delay
    happened = pl.col("event_time")
    due = happened <= moment(until - truth.delay)
    if first is not None:
        due &= happened > moment(first)
    where = due & pl.col("arm").is_in(list(arms)) & ~pl.col("error")
    if versions is not None:
        where &= pl.col("version").is_in(list(versions))
    known = lake.schema(PREDICTIONS)
    if not known:
        return pl.DataFrame()
    answers = [name for name in known if name == "value" or (name.startswith("p_") and name[2:].isdigit())]
    columns = ["id", "event_time", "version", "arm", "epoch", "decision", *answers]
    columns += [name for name in inputs if name in known]
    rows = newest(lake, PREDICTIONS, since=first, columns=columns, where=where)
    labels = known_labels(lake, truth, since=first, until=until - truth.delay, now=until)
    joined = rows.join(labels, on="id", how="left", maintain_order="left")
    if truth.absent is not None:
        joined = joined.with_columns(truth=pl.col("truth").fill_null(_place(truth, truth.absent)))
    return joined.sort("event_time", maintain_order=True).collect()


def known_labels(lake: Lake, truth: Truth, *, since: datetime | None, until: datetime, now: datetime) -> pl.LazyFrame:
    """Columns id and truth of rows with an event time in [since, until]: the latest value of each, as known ``now``.

    A value that is neither of two classes, or no number where one is due, is a mistake of whoever reported it, not a
    wrong answer: it is passed over, and what was known before it counts on (`unfit_labels` counts such). A null takes
    back what was known.
    """
    parts: list[pl.LazyFrame] = []
    raw = lake.schema(RAW)
    if truth.column in raw and "_key" in raw:
        earliest = None if since is None else since - DAY
        known = pl.col("_event_time") <= moment(min(now - truth.delay, until + DAY))
        if earliest is not None:
            known &= pl.col("_event_time") >= moment(earliest)
        columns = ["_key", "_event_time", truth.column]
        found = newest(lake, RAW, since=earliest, columns=columns, where=known & pl.col(truth.column).is_not_null())
        text = raw[truth.column] == pl.String()
        parts.append(
            found.select(
                id=pl.col("_key"),
                # In whole microseconds, as polars keeps them: a literal of a duration costs as much as the rest.
                at=(pl.col("_event_time").to_physical() + truth.delay // timedelta(microseconds=1)).cast(INSTANT),
                value_text=pl.col(truth.column) if text else pl.lit(None, pl.String()),
                value_number=pl.lit(None, pl.Float64()) if text else pl.col(truth.column).cast(pl.Float64()),
            )
        )
    if lake.exists(OUTCOMES):
        # An outcome may be known before the event it is about (a cancelled departure), though hardly by much.
        earliest = None if since is None else since - truth.delay - DAY
        reported = (pl.col("name") == truth.column) & (pl.col("at") <= moment(now))
        if earliest is not None:
            reported &= pl.col("at") >= moment(earliest)
        columns = ["id", "at", "value_text", "value_number"]
        parts.append(newest(lake, OUTCOMES, since=earliest, columns=columns, where=reported))
    if not parts:
        return pl.LazyFrame(schema={"id": pl.String(), "truth": pl.Float64()})
    told = pl.concat(parts).filter(~_unfit(truth)).with_columns(truth=_places(truth))
    # Stable: of two with the same instant the reported one, which comes last here, is the correction.
    return told.sort("at", maintain_order=True).unique("id", keep="last", maintain_order=True).select("id", "truth")


def unfit_labels(lake: Lake, truth: Truth, *, since: datetime, now: datetime) -> int:
    """How many ids have as their latest report in [since, now] what is no label: neither of two classes, or no number
    where one is due.

    A label that is reported later, or a null, settles it. One reported before does not: it counts on, but whoever sent
    the later value meant to say something else.
    """
    if not lake.exists(OUTCOMES) or len(truth.classes) > 2:
        return 0
    reported = (pl.col("name") == truth.column) & (pl.col("at") <= moment(now)) & (pl.col("at") >= moment(since))
    columns = ["id", "at", "value_text", "value_number"]
    rows = newest(lake, OUTCOMES, since=since, columns=columns, where=reported)
    latest = rows.sort("at", maintain_order=True).unique("id", keep="last", maintain_order=True)
    return int(latest.select(_unfit(truth).sum()).collect().item() or 0)


def _unfit(truth: Truth) -> pl.Expr:
    """Whether a value is there and cannot be the label. Where there are more than two classes it is a wrong answer."""
    if truth.task == "regression":
        return pl.col("value_number").is_null() & pl.col("value_text").is_not_null()
    return _places(truth).eq_missing(-1) if len(truth.classes) == 2 else pl.lit(value=False)


def _places(truth: Truth) -> pl.Expr:
    """Values to class indexes, or to numbers."""
    text, number = pl.col("value_text"), pl.col("value_number")
    if truth.task == "regression":
        return number
    place: pl.Expr = pl.lit(-1, pl.Int64())
    for index, each in enumerate(truth.classes):
        # A client may write a number or a boolean as text; text is never read as a number.
        same = (text == class_name(each)).fill_null(False)
        if not isinstance(each, str):
            same |= (number == float(each)).fill_null(False)
        place = pl.when(same).then(pl.lit(index, pl.Int64())).otherwise(place)
    return pl.when(text.is_not_null() | number.is_not_null()).then(place)


def _place(truth: Truth, value: Class | float) -> int | float:
    if truth.task == "regression":
        return float(value)
    return next((index for index, each in enumerate(truth.classes) if each == value), -1)


def answers(
    rows: pl.DataFrame, truth: Truth, classes: Mapping[int, tuple[Class, ...]] | None = None
) -> npt.NDArray[np.float64]:
    """What was answered, as the metrics take it: [n, classes] in the order of ``truth.classes``, or [n] numbers.

    ``classes``: the order in which a version gives them, for versions that differ; a class that a version does not
    know has probability 0.
    """
    if truth.task == "regression":
        return rows["value"].to_numpy().astype(np.float64)
    width = len(truth.classes)
    matrix = np.zeros((len(rows), width))
    version = rows["version"].to_numpy()
    for number in np.unique(version):
        inside = version == number
        given = (classes or {}).get(int(number), truth.classes)
        for index, each in enumerate(given):
            if each in truth.classes and f"p_{index}" in rows.columns:
                matrix[inside, truth.classes.index(each)] = rows[f"p_{index}"].to_numpy()[inside]
    return matrix


def truths(rows: pl.DataFrame, truth: Truth) -> npt.NDArray[Any]:
    """The labels of labelled rows as the metrics take them: int64 [n] or float64 [n]."""
    dtype = np.float64 if truth.task == "regression" else np.int64
    return rows["truth"].to_numpy().astype(dtype)
