"""Requests as servers sketched them, where they are not logged: windows are added up from whole stretches of time.

A stretch belongs to the window in which it ends, so that only what is over is judged. Counts in the bins of the version
that answered are exact; where another one is champion by now, its bins are counted from the sketches (KS within .005).
How much a column clumps by day comes from the counts of each day. Reads what is new; removes what no window asks for
any more, and puts together what only long windows ask for. Knows no limits and no triggers.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from everloop.clock import microseconds
from everloop.errors import StoreError
from everloop.measure import season
from everloop.measure.drift import Signal
from everloop.measure.profile import PREDICTION, Profile
from everloop.measure.sketch import CategorySketch, NumberSketch, Sketch, from_bytes, to_bytes
from everloop.spec.retrain import Drift
from everloop.store import sketches
from everloop.store.sketches import LATE, Head
from everloop.watch.drift import Against, signals_of
from everloop.watch.observed import DAY_US, Days, Observed
from everloop.watch.windows import Arrivals, Window, full

SETTLED = 60_000_000
"""Microseconds after which a process that says nothing more is taken to be gone."""
LOOKS = 5
TOGETHER = "together"
STRETCHES = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360)
"""Minutes; each divides a day."""
A_WINDOW = 24
OF_ROWS = 5
"""Minutes of a stretch where a window is a number of rows."""


def stretch(lengths: Sequence[timedelta | int]) -> timedelta:
    """How long servers sketch into one file, for windows of these lengths: a twenty-fourth of the shortest, and less.

    >>> stretch([timedelta(days=7)]), stretch([timedelta(days=1), 1_000])
    (datetime.timedelta(seconds=21600), datetime.timedelta(seconds=300))
    """
    shortest = min(OF_ROWS if isinstance(each, int) else each / timedelta(minutes=A_WINDOW) for each in lengths)
    return timedelta(minutes=max((each for each in STRETCHES if each <= shortest), default=STRETCHES[0]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What one trigger may still ask for: windows of this length, none before ``since``."""

    length: timedelta | int
    since: datetime
    edges: tuple[datetime, ...] = ()
    """Where its windows begin and end."""


@dataclass(frozen=True, slots=True)
class _File:
    mark: tuple[int, int]
    """Changes whenever the file is replaced."""
    until: int
    """When its stretch ends, by its name."""
    head: Head | None
    """None: it is damaged."""


@dataclass(slots=True)
class Sketched:
    """May stand wherever `watch.drift.Logged` does. Remembers the heads of files, no sketch."""

    folder: Path
    _known: dict[str, _File] = field(default_factory=dict)
    _files: dict[str, _File] = field(default_factory=dict)
    """Of those known the ones that count: of each stretch of a process the fullest, and what is damaged."""
    _tidied: tuple[Wanted, ...] = ()

    def closed(self, opened: datetime, length: timedelta | int, now: datetime) -> list[Window]:
        """As `windows.closed`, of whole stretches: a window of rows has at least as many."""
        self._look()
        over = microseconds(now - LATE)
        ended: dict[int, int] = {}
        for each in self._heads():
            if each.until <= over:
                ended[each.until - 1] = ended.get(each.until - 1, 0) + each.rows
        times = np.array(sorted(ended), dtype=np.int64)
        rows = np.array([ended[time] for time in times.tolist()], dtype=np.int64)
        return full(Arrivals(times, np.cumsum(rows)), opened, length, now - LATE)

    def observed(self, window: Window, against: Against, reference: Profile) -> Observed:
        """As `observed.observe`, with the champion's own answers."""
        self._look()
        whole, days, notes = Sketch(), dict[str, Days](), list[str]()
        weights = season.weights(np.zeros(0, np.int64), reference.season)
        since, until = microseconds(window.since), microseconds(window.until)
        damaged = []
        for name, file in sorted(self._files.items()):
            head = file.head
            if not since < file.until <= until:
                continue
            found = None if head is None else self._sketch(name, head, against, reference)
            if head is None or found is None:
                damaged.append(name)
                continue
            whole.merge(found)
            weights = weights + _weights(head.hours, reference)
            for column, counted in _counts(found).items():
                days.setdefault(column, Days()).count(head.since // DAY_US, counted)
        if damaged:
            notes.append(f"{len(damaged)} damaged files of sketches are not counted, such as {damaged[0]}")
        if lost := self._lost(since, until):
            notes.append(
                f"{lost:,} rows that were answered are in no sketch: a server was killed, or its disk took nothing"
            )
        clumped = {name: each.clumping() for name, each in days.items()}
        return Observed(
            profile=whole.profile(like=reference),
            values={name: each[0] for name, each in clumped.items()},
            missing={name: each[1] for name, each in clumped.items()},
            weights=weights,
            newcomers={
                name: column.newcomers(reference.columns[name].values)
                for name, column in whole.columns.items()
                if isinstance(column, CategorySketch)
            },
            notes=tuple(notes),
        )

    def signals(self, seen: Observed, reference: Profile, trigger: Drift) -> tuple[Signal, ...]:
        """As `drift.signals_of`."""
        return signals_of(reference, seen, trigger)

    def tidy(self, wanted: Sequence[Wanted]) -> None:
        """Remove what nobody asks for any more, and put short stretches together that only longer windows ask for.

        Costs nothing while no window closes. Nothing is lost or counted twice by a kill. Raises StoreError.
        """
        asked = tuple(wanted)
        if not asked or asked == self._tidied:
            return
        sketches.remove(self.folder, microseconds(min(each.since for each in asked)))
        widths = {each: stretch([each.length]) for each in asked}
        edges = [microseconds(instant) for each in asked for instant in each.edges]
        for width in sorted(set(widths.values()))[1:]:
            before = min(each.since for each in asked if widths[each] < width)
            with sketches.alone(self.folder) as nobody_else:
                if nobody_else:
                    self._put_together(width // timedelta(microseconds=1), microseconds(before), edges)
        self._tidied = asked

    def _put_together(self, width: int, before: int, edges: Sequence[int]) -> None:
        self._look()
        groups: dict[tuple[int, int], list[str]] = {}
        for name, file in self._files.items():
            if file.head is None or file.head.until - file.head.since >= width:
                continue
            begin = file.head.since // width * width
            if begin + width <= before and not any(begin < edge < begin + width for edge in edges):
                groups.setdefault((begin, file.head.version), []).append(name)
        for (begin, version), names in sorted(groups.items()):
            whole, hours, parts = Sketch(), dict[int, int](), list[tuple[str, int, int, int, int]]()
            done = []
            for name in names:
                try:
                    head, data = sketches.read(self.folder / name)
                    whole.merge(from_bytes(data))
                except (StoreError, OSError, ValueError):
                    continue  # it is told of when a window asks for it
                for hour, rows in head.hours.items():
                    hours[hour] = hours.get(hour, 0) + rows
                parts += [head.part, *head.parts]
                done.append(name)
            if not done:
                continue
            number = 1
            while (path := self.folder / sketches.name(version, TOGETHER, begin, begin + width, number)).exists():
                number += 1
            made = Head(
                version=version, tag=TOGETHER, first=number, since=begin, until=begin + width, rows=whole.rows, sketched=0,
                written=begin + width, hours=hours, parts=tuple(parts),
            )  # fmt: skip
            sketches.write(path, made, to_bytes(whole), sync=True)
            for name in done:
                with suppress(OSError):
                    (self.folder / name).unlink()

    def _look(self) -> None:
        """Read what is new, and what has changed since it was read."""
        for _ in range(LOOKS):
            there, gone = self._there()
            if not gone:  # else its next one may have come after this look at the folder had passed its place
                break
        within = {
            (*part[:4], file.head.version)
            for file in there.values()
            if file.head is not None
            for part in file.head.parts
        }
        fullest: dict[tuple[str, int, int, int, int], str] = {}
        for name, file in there.items():
            if file.head is not None and file.head.key not in within:
                known = fullest.get(file.head.key)
                other = None if known is None else there[known].head
                if other is None or file.head.rows > other.rows:
                    fullest[file.head.key] = name
        chosen = set(fullest.values())
        self._known = there
        self._files = {name: file for name, file in there.items() if file.head is None or name in chosen}

    def _there(self) -> tuple[dict[str, _File], bool]:
        """All files, and whether one was removed while they were looked at."""
        there, gone = dict[str, _File](), False
        with os.scandir(self.folder) as entries:
            for entry in entries:
                known = self._known.get(entry.name)
                until = sketches.ends(entry.name) if known is None else known.until
                if until is None:
                    continue
                try:
                    found = entry.stat()
                    mark = found.st_mtime_ns, found.st_ino
                    if known is None or known.mark != mark:
                        known = _File(mark, until, _head(Path(entry.path)))
                    there[entry.name] = known
                except OSError:
                    gone = True
        return there, gone

    def _heads(self) -> list[Head]:
        return [each.head for each in self._files.values() if each.head is not None]

    def _sketch(self, name: str, head: Head, against: Against, reference: Profile) -> Sketch | None:
        try:
            found = from_bytes(sketches.read(self.folder / name)[1])
        except (StoreError, OSError, ValueError):
            return None
        if head.version != against.version:
            found.columns.pop(PREDICTION, None)  # what another version answered
            return found.recounted(reference)
        for column in list(found.columns):
            if column not in reference.columns:
                del found.columns[column]
        return found

    def _lost(self, since: int, until: int) -> int:
        """Rows of processes that ended within the window, as far as no file holds them."""
        sketched: dict[str, int] = {}
        for each in self._heads():
            for tag, _, _, _, count in (each.part, *each.parts):
                sketched[tag] = max(sketched.get(tag, 0), count)
        taken = sketches.taken(self.folder)
        latest = max([until, *(each.at for each in taken.values())])
        return sum(
            max(0, each.rows - max(each.written, sketched.get(tag, 0)))
            for tag, each in taken.items()
            if since <= each.at < until and each.at < latest - SETTLED
        )


def _head(path: Path) -> Head | None:
    try:
        return sketches.read(path)[0]
    except StoreError:
        return None


def _counts(sketch: Sketch) -> dict[str, npt.NDArray[np.float64]]:
    """Of each column the rows that miss it, then those in each bin, or of each listed value and of all others."""
    found: dict[str, npt.NDArray[np.float64]] = {}
    for name, column in sketch.columns.items():
        if column.counts is None:
            continue
        other = [] if isinstance(column, NumberSketch) else [column.present - int(column.counts.sum())]
        found[name] = np.array([column.missing, *column.counts.tolist(), *other], dtype=np.float64)
    return found


def _weights(hours: Mapping[int, int], reference: Profile) -> npt.NDArray[np.float64]:
    """Rows in each slot of the reference's season."""
    made = np.zeros(season.SLOTS[reference.season])
    for hour, rows in hours.items():
        made[hour % len(made)] += rows
    return made
