"""Do requests still look like the rows the champion learned from? Windows of requests against its profile.

A window is a whole week, because weekdays differ by nature, and longer where a week brings too few rows. Two windows
running must agree. The limits come from an alarm budget (``measure.drift``) and allow for columns that clump: the rain
of a day is one draw, however many rows of that day carry it. Knows no triggers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from everloop.measure import drift as measure
from everloop.measure import profile as profiles
from everloop.measure.profile import ColumnProfile, Profile
from everloop.records import MISSING_INTEGER, Signature
from everloop.spec.retrain import Drift
from everloop.store.lake import PREDICTIONS, Lake, moment
from everloop.watch import fold
from everloop.watch.recent import newest

WINDOW = timedelta(days=7)
STEP = timedelta(days=1)
LEAST_ROWS = 300
"""Thirty rows for each of ten bins."""
LIVE = ["champion", "challenger", "experiment", "route"]
"""The arms of requests that came from the world, once each: not shadows, fallbacks or what testers sent."""
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
    return pl.col("at").is_between(moment(since), moment(until), closed="left") & pl.col("arm").is_in(LIVE)


def _count(lake: Lake, since: datetime, until: datetime) -> int:
    inside = newest(lake, PREDICTIONS, since=since, columns=["at"], where=_inside(since, until))
    return int(inside.select(pl.len()).collect().item())


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A window's requests in the reference's bins, and how much each column clumps by day (1: not at all)."""

    profile: Profile
    values: dict[str, float]
    missing: dict[str, float]


def observe(
    lake: Lake, window: Window, signature: Signature, reference: Profile, *, champion: int | None = None
) -> Observed:
    """Read a window. With ``champion`` its answers too, where the reference holds some."""
    known = list(lake.schema(PREDICTIONS))
    inside = _inside(window.since, window.until)
    rows = newest(lake, PREDICTIONS, since=window.since, columns=known, where=inside).collect()
    if len(rows) > MOST_ROWS:
        rows = rows.sort("at", "id").sample(MOST_ROWS, seed=0)
    types = {each.name: each.type for each in signature.inputs}
    columns = {name: array_of(series) for name, series in fold.inputs(rows, signature.inputs).items()}
    built = profiles.build(columns, types=types, like=reference)
    days = _days(rows)
    bins = {name: _bins(columns[name], column) for name, column in built.columns.items()}
    values = {name: _clumping(days, each) for name, each in bins.items()}
    missing = {name: _clumping(days, (each < 0).astype(np.int64)) for name, each in bins.items()}
    answer = "value" if signature.task == "regression" else f"p_{signature.positive or 0}"
    if champion is not None and PREDICTION in reference.columns and answer in rows.columns:
        # What a route gave it was chosen for what it is: its answers there would move with no change of the world.
        own = rows.filter((pl.col("version") == champion) & ~pl.col("error") & (pl.col("arm") != "route"))
        said = profiles.build({PREDICTION: array_of(own[answer])}, like=reference)
        built = Profile(rows=built.rows, columns={**built.columns, **said.columns})
        values[PREDICTION] = _clumping(_days(own), _bins(array_of(own[answer]), said.columns[PREDICTION]))
    return Observed(profile=built, values=values, missing=missing)


def _days(rows: pl.DataFrame) -> npt.NDArray[np.int64]:
    days: npt.NDArray[np.int64] = (rows["at"].dt.epoch("us") // 86_400_000_000).to_numpy()
    return days


def _bins(values: npt.NDArray[Any], column: ColumnProfile) -> npt.NDArray[np.int64]:
    """The bin or category of each row, −1 where missing."""
    if column.kind == "number":
        number = values.astype(np.float64)
        absent = values == MISSING_INTEGER if values.dtype == np.int64 else ~np.isfinite(number)
        places = np.searchsorted(np.array(column.edges), number, side="left")
        return np.where(absent, -1, places).astype(np.int64)
    place = {value: index for index, value in enumerate(column.values)}
    if values.dtype == np.int64:  # a boolean
        return np.where(values == MISSING_INTEGER, -1, values != 0).astype(np.int64)
    return np.array([-1 if each is None else place.get(each, len(place)) for each in values.tolist()], dtype=np.int64)


def _clumping(days: npt.NDArray[np.int64], bins: npt.NDArray[np.int64]) -> float:
    """How many rows count as one: Pearson's χ² of days against bins over its degrees of freedom, at least 1.

    The dispersion factor of overdispersed counts (McCullagh and Nelder, Generalized linear models, 1989, §4.5).
    """
    days, bins = days[bins >= 0], bins[bins >= 0]
    if not len(days):
        return 1.0
    day, bin_ = np.unique(days, return_inverse=True)[1], np.unique(bins, return_inverse=True)[1]
    counts = np.bincount(day * (bin_.max() + 1) + bin_, minlength=(day.max() + 1) * (bin_.max() + 1))
    table = counts.reshape(day.max() + 1, bin_.max() + 1).astype(np.float64)
    freedom = (table.shape[0] - 1) * (table.shape[1] - 1)
    if freedom == 0:
        return 1.0
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    return max(1.0, float(np.sum((table - expected) ** 2 / expected)) / freedom)


def array_of(series: pl.Series) -> npt.NDArray[Any]:
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


def drifted(trigger: Drift, reference: Profile, windows: Sequence[Window], seen: Sequence[Observed]) -> Drifted | None:
    """What the last two windows say about one trigger; None before there are two."""
    if len(windows) < 2:
        return None
    per_day = timedelta(days=1) / (windows[-1].until - windows[-1].since)
    alarms = measure.alarms(
        reference,
        [each.profile for each in seen],
        false_alarm_every=trigger.false_alarm_every,
        windows_per_day=per_day,
        columns=trigger.columns,
    )
    chance = _chance(trigger, reference, seen[-1], per_day)
    kept: list[DriftedColumn] = []
    for alarm in alarms:
        sizes, limits = zip(*(_against(reference, each, alarm, chance) for each in seen[-2:]), strict=True)
        if all(size > limit for size, limit in zip(sizes, limits, strict=True)):
            kept.append(
                DriftedColumn(
                    column=alarm.column, measure=alarm.signal, size=sizes[-1], limit=limits[-1], because=alarm.because
                )
            )
    return Drifted(columns=tuple(kept), since=windows[-2].since, until=windows[-1].until, rows=seen[-1].profile.rows)


def _chance(trigger: Drift, reference: Profile, seen: Observed, per_day: float) -> float:
    watched = [
        each
        for name, each in reference.columns.items()
        if name in seen.profile.columns and (trigger.columns is None or name in trigger.columns)
    ]
    signals = sum(2 if each.kind == "number" else 3 for each in watched)
    return measure.false_alarm_chance(trigger.false_alarm_every, per_day, max(signals, 1))


def _against(reference: Profile, seen: Observed, alarm: measure.ColumnAlarm, chance: float) -> tuple[float, float]:
    """Size and limit of one signal, with rows that clump counted as the fewer draws that they are."""
    found = next(each for each in profiles.compare(reference, seen.profile) if each.column == alarm.column)
    now, then = found.rows, found.reference_rows
    if alarm.signal == "distribution":
        clumping = seen.values.get(alarm.column, 1.0)
        limit = measure.psi_threshold(chance, found.bins, now, then) * clumping
        noise = (found.bins - 1) * (1 / max(now, 1) + 1 / max(then, 1)) * clumping
        return found.psi, max(limit, measure.FLOOR_UNCALIBRATED + noise)
    missing = alarm.signal == "missing"
    share, usual = (found.missing, found.reference_missing) if missing else (found.new, found.reference_new)
    clumping = (seen.missing if missing else seen.values).get(alarm.column, 1.0)
    rise = measure.share_threshold(chance, usual, max(now, 1), then) * math.sqrt(clumping)
    return share, usual + max(measure.FLOOR_SHARE, rise)


def largest(reference: Profile, seen: Observed) -> tuple[float, str | None]:
    """The largest PSI of a column and its name: for a person to look at, no alarm."""
    found = [(each.psi, each.column) for each in profiles.compare(reference, seen.profile)]
    return max(found, default=(0.0, None), key=lambda each: each[0])
