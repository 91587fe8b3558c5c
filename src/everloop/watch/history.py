"""What the loop's own quiet windows looked like, day by day: small enough to be remembered at every look.

Each window is held against whoever was champion then, so the history is of exactly the numbers that are judged.
Days of an alarm that lasted, or that a new champion answered, are no habit and are left out; those of one that passed
by itself stay in. Knows no rows and no profiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from everloop.measure.calibration import DAY, LEAST_BLOCKS, Calibration, calibrate_blocks
from everloop.measure.drift import CALIBRATION_DAYS, Signal, expected_psi
from everloop.watch.windows import Window

LASTING = timedelta(days=3)
"""An alarm that lasts longer is a change of the world; a shorter one belongs to how restless it is."""
LASTING_WINDOWS = 4
LEAST_DAYS = 3
"""Quiet days from which their mean says something of how restless a column is."""
KEPT = 2.0
"""How many budgets of days are remembered, at most a year."""
UNIT = 1_000.0
"""PSI is kept in thousandths as half floats: three digits are enough for a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """A day of windows, or one longer window. ``mean`` and ``peak``: half floats in the order of the signals."""

    since: datetime
    windows: int
    mean: bytes
    peak: bytes
    alarmed: bool = False
    trained: bool = False
    """Of the rows that the champion learned from: it is over, and quiet by what it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Oldest day first; the last one may not be over. JSON through ``records.encode``."""

    signals: tuple[str, ...] = ()
    days: tuple[Day, ...] = ()
    alarmed_since: datetime | None = None
    """When the alarm that is open now began."""
    alarmed_windows: int = 0


def added(
    history: History,
    window: Window,
    now: Sequence[Signal],
    before: Sequence[Signal],
    *,
    alarmed: bool,
    false_alarm_every: timedelta,
) -> History:
    """The history with one more window. ``before``: the window before it, for what two windows running reach."""
    values = {each.name: each.psi for each in now}
    earlier = {each.name: each.psi for each in before}
    pairs = {name: min(value, earlier.get(name, value)) for name, value in values.items()}
    known = dict.fromkeys((*history.signals, *values))
    signals = tuple(known)
    start = window.since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = list(history.days)
    if days and days[-1].since == start and window.until - window.since <= DAY:
        day = days.pop()
        mean, peak = _unpacked(day.mean, len(signals)), _unpacked(day.peak, len(signals))
        new, reached = _row(values, signals), _row(pairs, signals)
        mean = np.where(np.isnan(mean), new, mean + (np.nan_to_num(new) - mean) / (day.windows + 1))
        days.append(
            replace(
                day,
                windows=day.windows + 1,
                mean=_packed(mean),
                peak=_packed(np.fmax(peak, reached)),
                alarmed=day.alarmed or alarmed,
            )
        )
    else:
        row, reached = _row(values, signals), _row(pairs, signals)
        days.append(Day(since=start, windows=1, mean=_packed(row), peak=_packed(reached), alarmed=alarmed))
    most = min(365, max(int(KEPT * (false_alarm_every / DAY)), 2 * CALIBRATION_DAYS))
    history = replace(history, signals=signals, days=tuple(days[-most:]))
    if alarmed:
        since = history.alarmed_since or window.since
        return replace(history, alarmed_since=since, alarmed_windows=history.alarmed_windows + 1)
    return _closed(history, window.since)


def begun(
    history: History,
    signals: Sequence[str],
    means: npt.NDArray[np.float64],
    peaks: npt.NDArray[np.float64],
    days: Sequence[datetime],
) -> History:
    """The history with the days of the champion's own training rows before it, instead of those of whoever was before.

    ``means`` and ``peaks`` [days, signals]; ``days``: when each began, oldest first. Days that requests are known of are
    left out: they were the same days, and what was served says more.
    """
    own = tuple(day for day in history.days if not day.trained)
    names = tuple(dict.fromkeys((*history.signals, *signals)))
    place = [names.index(each) for each in signals]
    before: list[Day] = []
    for since, mean, peak in zip(days, means, peaks, strict=True):
        if own and since >= own[0].since:
            break
        wide_mean, wide_peak = np.full(len(names), np.nan), np.full(len(names), np.nan)
        wide_mean[place], wide_peak[place] = mean, peak
        before.append(Day(since=since, windows=1, mean=_packed(wide_mean), peak=_packed(wide_peak), trained=True))
    return replace(history, signals=names, days=(*before, *own))


def needed(history: History) -> int:
    """How many more quiet days are needed before limits come from them; 0 when they may."""
    days = quiet(history)
    spacing = _spacing(days)
    return max(0, max(CALIBRATION_DAYS, int(LEAST_BLOCKS * (spacing / DAY))) - int(len(days) * (spacing / DAY)))


def _closed(history: History, now: datetime) -> History:
    """No alarm any more: days of one that passed soon are quiet days after all."""
    since = history.alarmed_since
    if since is None:
        return history
    days = history.days
    if now - since <= LASTING or history.alarmed_windows < LASTING_WINDOWS:
        begun = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        days = tuple(replace(day, alarmed=False) if day.alarmed and day.since >= begun else day for day in days)
    return replace(history, days=days, alarmed_since=None, alarmed_windows=0)


def answered(history: History) -> History:
    """A new champion serves: an alarm that was open then was a change of the world, however short."""
    return replace(history, alarmed_since=None, alarmed_windows=0)


def quiet(history: History) -> tuple[Day, ...]:
    """The days that are over and had no lasting alarm."""
    over = (*history.days[:-1], *(day for day in history.days[-1:] if day.trained))
    return tuple(day for day in over if not day.alarmed)


def trained(history: History) -> int:
    """How many of the days are those of training rows."""
    return sum(day.trained for day in history.days)


def left_out(history: History) -> int:
    return sum(day.alarmed for day in history.days[:-1])


def calibrated(history: History, *, false_alarm_every: timedelta) -> Calibration | None:
    """Limits from the quiet days; None below 28 days or 14 windows that are longer than a day."""
    days = quiet(history)
    if len(days) < LEAST_BLOCKS:
        return None
    spacing = _spacing(days)
    if len(days) * spacing < CALIBRATION_DAYS * DAY:
        return None
    count = len(history.signals)
    means, peaks = (
        np.array([_unpacked(each, count) for each in side])
        for side in zip(*((day.mean, day.peak) for day in days), strict=True)
    )
    return calibrate_blocks(history.signals, means, peaks, budget=max(false_alarm_every / spacing, 2.0))


def allowed(history: History, signals: Sequence[Signal]) -> tuple[Signal, ...]:
    """The signals with their clumping at least what the few quiet days so far show of it.

    For limits from formulas, before there are days enough to calibrate: the mean PSI so far over what independent rows
    would give. Windows within one day share the day's mood, which no window shows by itself.
    """
    days = quiet(history)
    if len(days) < LEAST_DAYS:
        return tuple(signals)
    means = np.array([_unpacked(day.mean, len(history.signals)) for day in days])
    known = ~np.isnan(means)
    usual = np.where(known, means, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    found = dict(zip(history.signals, usual.tolist(), strict=True))
    return tuple(
        replace(each, clumping=max(each.clumping, found.get(each.name, 0.0) / max(expected_psi(each), 1e-12)))
        for each in signals
    )


def _spacing(days: Sequence[Day]) -> timedelta:
    """From one block to the next, usually: a day, or the length of a window."""
    gaps = sorted(after.since - before.since for before, after in pairwise(days))
    return max(DAY, gaps[len(gaps) // 2]) if gaps else DAY


def _row(values: Mapping[str, float], signals: Sequence[str]) -> npt.NDArray[np.float64]:
    return np.array([values.get(name, np.nan) for name in signals])


def _packed(row: npt.NDArray[np.float64]) -> bytes:
    return np.minimum(row * UNIT, 60_000).astype("<f2").tobytes()


def _unpacked(data: bytes, count: int) -> npt.NDArray[np.float64]:
    found = np.frombuffer(data, dtype="<f2").astype(np.float64) / UNIT
    return np.concatenate([found, np.full(count - len(found), np.nan)])
