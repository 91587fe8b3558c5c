"""Windows of a history as drift sees them: each is read and sketched once, and counted in any reference's bins.

What `watch.observed` does with the log of servers, from the rows themselves. Knows no triggers and no limits.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from everloop.clock import microseconds
from everloop.loop.backtest.fits import Fits
from everloop.loop.backtest.timeline import Timeline
from everloop.measure import profile as profiles
from everloop.measure import season, space
from everloop.measure.coded import Values
from everloop.measure.drift import Signal
from everloop.measure.profile import ColumnProfile, Profile, counted, kind_of, places
from everloop.measure.season import Season
from everloop.records import ColumnType
from everloop.spec.resolve import Resolved
from everloop.spec.retrain import Drift
from everloop.watch import windows
from everloop.watch.drift import Against, signals_of
from everloop.watch.observed import DAY_US, PREDICTION, Observed, array_of, clumping
from everloop.watch.windows import Window

Array = npt.NDArray[Any]
Integers = npt.NDArray[np.int64]
KEPT_BYTES = 256 << 20
"""Columns of windows that are held in memory."""


@dataclass(slots=True)
class Sketched:
    """One window: its columns, and what is the same for every reference."""

    low: int
    high: int
    columns: dict[str, Array]
    days: Integers
    times: Integers
    plain: Profile
    """In bins of its own."""
    categories: dict[str, tuple[dict[str, int], int]]
    """Of category columns: rows of each value, and how many are missing."""
    weights: dict[Season, npt.NDArray[np.float64]] = field(default_factory=dict)


class Sketches:
    """Of one history, shared by all policies."""

    def __init__(self, timeline: Timeline, resolved: Resolved, fits: Fits) -> None:
        self._timeline, self._resolved, self._fits = timeline, resolved, fits
        self._types: dict[str, ColumnType] = {name: resolved.schema[name] for name in resolved.inputs}
        self._kept: dict[tuple[int, int], Sketched] = {}
        self._bytes = 0
        self._observed: dict[tuple[Any, ...], Observed] = {}
        self._signals: dict[tuple[int, tuple[str, ...] | None], tuple[Signal, ...]] = {}
        """By the identity of what was observed, which is kept, and the columns that are watched."""
        self._closed: dict[tuple[Any, ...], list[Window]] = {}

    def closed(self, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
        key = (opened, length, now)
        if key not in self._closed:
            low, high = self._places(Window(since=opened, until=now))
            times = np.asarray(self._timeline.times[low:high], dtype=np.int64)
            arrivals = windows.Arrivals(times, np.arange(1, len(times) + 1))
            self._closed[key] = windows.full(arrivals, opened, length, now)
        return self._closed[key]

    def observed(self, window: Window, reference: Profile, *, fit: str, served_from: int) -> Observed:
        """The window in the reference's bins, with what ``fit`` said of the rows from ``served_from`` on."""
        low, high = self._places(window)
        own = min(max(low, served_from), high)
        key = (low, high, own, fit, reference.season)
        if key not in self._observed:
            self._observed[key] = self._counted(self._sketched(low, high), reference, fit, own)
        return self._observed[key]

    def signals(self, seen: Observed, reference: Profile, trigger: Drift) -> tuple[Signal, ...]:
        """What triggers with these columns see there: whatever their alarm budget is."""
        key = (id(seen), trigger.columns)
        if key not in self._signals:
            self._signals[key] = signals_of(reference, seen, trigger)
        return self._signals[key]

    def _places(self, window: Window) -> tuple[int, int]:
        line = self._timeline
        return line.place(microseconds(window.since)), line.place(microseconds(window.until))

    def _sketched(self, low: int, high: int) -> Sketched:
        if (low, high) not in self._kept:
            line = self._timeline
            raw = line.raw(low, high)
            columns = {name: array_of(raw[name]) for name in self._types}
            times = np.asarray(line.times[low:high])
            self._kept[low, high] = Sketched(
                low=low,
                high=high,
                columns=columns,
                days=times // DAY_US,
                times=times,
                plain=profiles.build(columns, types=self._types),
                categories={
                    name: counted(values, self._types[name])
                    for name, values in columns.items()
                    if kind_of(values, self._types[name]) == "category"
                },
            )
            self._bytes += _size(columns)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _size(self._kept.pop(next(iter(self._kept))).columns)
        return self._kept[low, high]

    def _counted(self, seen: Sketched, reference: Profile, fit: str, own: int) -> Observed:
        made: dict[str, ColumnProfile] = {}
        values: dict[str, float] = {}
        missing: dict[str, float] = {}
        newcomers: dict[str, tuple[tuple[str, int], ...]] = {}

        def count(name: str, column: Values, plain: ColumnProfile, days: Integers) -> None:
            known = reference.columns[name]
            place = places(column, known)
            width = 2 + (len(known.edges) if known.kind == "number" else len(known.values))
            _, day = np.unique(days, return_inverse=True)
            flat = np.bincount(day * width + place + 1, minlength=(int(day.max(initial=-1)) + 1) * width)
            table = flat.reshape(-1, width).astype(np.float64)
            bins = table[:, 1:].sum(axis=0).astype(np.int64).tolist()
            if known.kind == "number":
                made[name] = replace(plain, edges=known.edges, counts=tuple(bins))
            else:
                made[name] = replace(
                    plain, values=known.values, value_counts=tuple(bins[:-1]), other=bins[-1]
                )  # fmt: skip
            values[name] = clumping(table[:, 1:])
            missing[name] = clumping(np.stack([table[:, 0], table[:, 1:].sum(axis=1)], axis=1).astype(np.float64))

        columns: dict[str, Values] = dict(seen.columns)
        own_plain = seen.plain
        if reference.spaces:
            columns = space.replaced(columns, reference.spaces)
            fresh = {name: values for name, values in columns.items() if name not in seen.columns}
            own_plain = replace(own_plain, columns={**own_plain.columns, **profiles.build(fresh).columns})
        for name, column in columns.items():
            known = reference.columns.get(name)
            plain = own_plain.columns.get(name)
            if known is None or plain is None or plain.kind != known.kind:
                continue
            count(name, column, plain, seen.days)
            if name in seen.categories:
                newcomers[name] = _newcomers(seen.categories[name][0], known.values)
        if PREDICTION in reference.columns:
            said = self._said(fit, own, seen.high)
            plain = profiles.build({PREDICTION: said}).columns[PREDICTION]
            count(PREDICTION, said, plain, seen.days[own - seen.low :])
        if reference.season not in seen.weights:
            seen.weights[reference.season] = season.weights(seen.times, reference.season)
        return Observed(
            profile=Profile(rows=seen.high - seen.low, columns=made),
            values=values,
            missing=missing,
            weights=seen.weights[reference.season],
            newcomers=newcomers,
        )

    def _said(self, fit: str, low: int, high: int) -> Array:
        if high <= low:
            return np.zeros(0)
        answers = self._fits.answers(fit, low, high)
        return answers if answers.ndim == 1 else answers[:, self._resolved.positive or 0]


@dataclass(frozen=True, slots=True)
class Replayed:
    """The requests that one champion sees: what `watch.drift.advance` asks."""

    sketches: Sketches
    fit: str
    served_from: int
    """The place of the first row that it answered."""

    def closed(self, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
        return self.sketches.closed(opened, length, now)

    def observed(self, window: Window, against: Against, reference: Profile) -> Observed:
        return self.sketches.observed(window, reference, fit=self.fit, served_from=self.served_from)

    def signals(self, seen: Observed, reference: Profile, trigger: Drift) -> tuple[Signal, ...]:
        return self.sketches.signals(seen, reference, trigger)


def _size(columns: dict[str, Array]) -> int:
    return sum(each.nbytes for each in columns.values())


def _newcomers(found: dict[str, int], known: tuple[str, ...]) -> tuple[tuple[str, int], ...]:
    fresh = sorted(
        ((value, count) for value, count in found.items() if value not in set(known)), key=lambda each: -each[1]
    )
    return tuple(fresh[:5])
