"""Changes a history on purpose, so that a replay can show what the loop would do about it. Pure: frame in, frame out.

Drift changes the world: what comes true from then on. Poison changes only what is *reported* for a while: the truth
that a replay scores against stays as it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import polars as pl

from everloop.errors import SpecError


@dataclass(frozen=True, slots=True)
class Span:
    """From ``start`` (inclusive) to ``end`` (exclusive), as instants or as shares of the history."""

    start: datetime | float
    end: datetime | float | timedelta | None = None

    def within(self, first: datetime, last: datetime) -> tuple[datetime, datetime]:
        def place(value: datetime | float) -> datetime:
            return value if isinstance(value, datetime) else first + (last - first) * value

        start = place(self.start)
        if isinstance(self.end, timedelta):
            return start, start + self.end
        return start, last + timedelta(microseconds=1) if self.end is None else place(self.end)


def drift(frame: pl.DataFrame, span: Span, *, label: str, inputs: list[str]) -> pl.DataFrame:
    """Turn the relation between inputs and label around where the first numeric input is above its median.

    A binary label is flipped there, a number is scaled by 1.5. Raises SpecError when there is no numeric input or
    the label is neither.
    """
    numeric = [name for name in inputs if frame[name].dtype.is_numeric()]
    if not numeric:
        raise SpecError(f"--drift needs a numeric input to turn around; the inputs are {', '.join(inputs)}.")
    column = numeric[0]
    middle = frame[column].median()
    return _altered(frame, span, label, pl.col(column) > middle, "--drift")


def poison(frame: pl.DataFrame, span: Span, *, label: str) -> pl.DataFrame:
    """Every label in the span is reported wrongly: a binary one flipped, a number scaled by 1.5."""
    return _altered(frame, span, label, pl.lit(True), "--poison")


def _altered(frame: pl.DataFrame, span: Span, label: str, where: pl.Expr, option: str) -> pl.DataFrame:
    times = frame["_event_time"]
    start, end = span.within(times.min(), times.max())  # type: ignore[arg-type]
    inside = where & pl.col("_event_time").is_between(start, end, closed="left")
    column = pl.col(label)
    dtype = frame[label].dtype
    values = frame[label].drop_nulls().unique().sort().to_list()
    if dtype == pl.Boolean:
        wrong: pl.Expr = ~column
    elif len(values) == 2:
        low, high = values
        wrong = pl.when(column == low).then(pl.lit(high)).when(column == high).then(pl.lit(low)).cast(dtype)
    elif dtype.is_numeric():
        wrong = (column * 1.5).cast(dtype)
    else:
        raise SpecError(f"{option} can change a label with two values or a number; {label} is {dtype}.")
    return frame.with_columns(pl.when(inside).then(wrong).otherwise(column).alias(label))
