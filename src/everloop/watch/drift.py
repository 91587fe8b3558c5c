"""Do requests still look like the rows the champion learned from? Windows of requests against its profile.

A window is a whole week, because weekdays differ by nature, and longer where a week brings too few rows. Two windows
running must agree. The limits come from an alarm budget (``measure.drift``). Knows no triggers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure import drift as measure
from everloop.measure import profile as profiles
from everloop.measure.profile import Profile
from everloop.records import MISSING_INTEGER, Signature
from everloop.spec.retrain import Drift
from everloop.store.lake import PREDICTIONS, Lake
from everloop.watch import fold
from everloop.watch.recent import newest

WINDOW = timedelta(days=7)
STEP = timedelta(days=1)
LEAST_ROWS = 300
"""Thirty rows for each of ten bins."""
MOST_ROWS = 50_000
"""More rows than this tell a distribution no better; a fixed sample of them is taken."""
PREDICTION = "(prediction)"
"""The name under which a profile may hold the model's own answers: the positive class's probability or the value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftedColumn:
    column: str
    measure: str
    """distribution (PSI), missing (share) or new values (share)."""
    size: float
    limit: float
    because: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drifted:
    """What two windows running say. ``columns`` is empty when nothing drifted."""

    columns: tuple[DriftedColumn, ...]
    since: datetime
    until: datetime
    rows: int
    """In the newer of the two windows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftState:
    """Where the present window began, the two last full ones, and the largest distance in the newest."""

    opened: datetime
    closed: tuple[Window, ...] = ()
    largest: float = 0.0
    column: str | None = None
    compared: int | None = None
    """The version whose profile the closed windows were last held against."""
    found: dict[str, Drifted] = field(default_factory=dict)
    """Place of a trigger in the declaration → what they said then; holds until the next window closes."""


def close_windows(lake: Lake, state: DriftState, now: datetime) -> DriftState:
    """Close every window that is full by ``now``. Costs nothing between two closings."""
    opened, closed = state.opened, list(state.closed)
    while now - opened >= WINDOW:
        until = opened + WINDOW
        count = _count(lake, opened, until)
        while count < LEAST_ROWS and until + STEP <= now:
            until += STEP
            count = _count(lake, opened, until)
        if count < LEAST_ROWS:
            break
        closed.append(Window(since=opened, until=until))
        opened = until
    if opened == state.opened:
        return state
    return replace(state, opened=opened, closed=tuple(closed[-2:]), compared=None)


def _inside(since: datetime, until: datetime) -> pl.Expr:
    # Each live request once: whoever failed, its request came.
    return pl.col("at").is_between(pl.lit(since), pl.lit(until), closed="left") & pl.col("arm").is_in(
        ["champion", "challenger"]
    )


def _count(lake: Lake, since: datetime, until: datetime) -> int:
    return len(newest(lake, PREDICTIONS, since=since, columns=["at"], where=_inside(since, until)))


def window_profile(
    lake: Lake, window: Window, signature: Signature, reference: Profile, *, champion: int | None = None
) -> Profile:
    """The requests of a window, counted in the reference's bins."""
    known = list(lake.schema(PREDICTIONS))
    rows = newest(lake, PREDICTIONS, since=window.since, columns=known, where=_inside(window.since, window.until))
    if len(rows) > MOST_ROWS:
        rows = rows.sort("at", "id").sample(MOST_ROWS, seed=0)
    types = {each.name: each.type for each in signature.inputs}
    columns = {name: _array(series) for name, series in fold.inputs(rows, signature.inputs).items()}
    built = profiles.build(columns, types=types, like=reference)
    if champion is None or PREDICTION not in reference.columns:
        return built
    own = rows.filter((pl.col("version") == champion) & ~pl.col("error"))
    answer = "value" if signature.task == "regression" else f"p_{signature.positive or 0}"
    if own.is_empty() or answer not in own.columns:
        return built
    said = profiles.build({PREDICTION: _array(own[answer])}, like=reference)
    return Profile(rows=built.rows, columns={**built.columns, **said.columns})


def _array(series: pl.Series) -> npt.NDArray[Any]:
    """A column as `profile.build` takes it."""
    if series.dtype == pl.Boolean:
        return series.cast(pl.Int64).fill_null(MISSING_INTEGER).to_numpy()
    if series.dtype == pl.Int64:
        return series.fill_null(MISSING_INTEGER).to_numpy()
    if series.dtype == pl.Float64:
        return series.fill_null(np.nan).to_numpy()
    if series.dtype.is_temporal():
        return series.dt.epoch("us").fill_null(MISSING_INTEGER).to_numpy().astype("datetime64[us]")
    return np.array(series.to_list(), dtype=object)


def drifted(trigger: Drift, reference: Profile, windows: Sequence[Window], seen: Sequence[Profile]) -> Drifted | None:
    """What the last two windows say about one trigger; None before there are two."""
    if len(windows) < 2:
        return None
    length = (windows[-1].until - windows[-1].since) / timedelta(days=1)
    alarms = measure.alarms(
        reference,
        seen,
        false_alarm_every=trigger.false_alarm_every,
        windows_per_day=1 / length,
        columns=trigger.columns,
    )
    columns = tuple(
        DriftedColumn(column=each.column, measure=each.signal, size=each.value, limit=each.limit, because=each.because)
        for each in alarms
    )
    return Drifted(columns=columns, since=windows[-2].since, until=windows[-1].until, rows=seen[-1].rows)


def largest(reference: Profile, seen: Profile) -> tuple[float, str | None]:
    """The largest PSI of a column and its name: for a person to look at, no alarm."""
    found = [(each.psi, each.column) for each in profiles.compare(reference, seen)]
    return max(found, default=(0.0, None), key=lambda each: each[0])
