"""What one process was asked, as sketches for the drift watch, where predictions are not logged. Knows nothing of HTTP.

A thread takes what the requests leave (a reference to the packed batch), and once a second or so writes a sketch of each
stretch of time, in the bins of the profile that came with the package: counts there are exact, however many processes
and stretches are added up. A kill loses what came since the last writing; `store.sketches.Taken` says how many rows
that were. This file and its library are loaded only where a release asks for sketches.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.errors import PackageError, StoreError
from everloop.measure import season, space
from everloop.measure.coded import Coded, Values
from everloop.measure.profile import PREDICTION, ColumnProfile, Profile
from everloop.measure.sketch import Sketch, to_bytes
from everloop.records import MISSING_INTEGER, ColumnType, Signature, digest_of
from everloop.serve.journal import say
from everloop.serve.live import Live, Part
from everloop.serve.model import Model
from everloop.store import sketches
from everloop.store.home import Home
from everloop.store.packages import folder_of

PROFILE = "profile.json"
ASKED = frozenset({"champion", "challenger", "experiment", "route"})
"""The roles of requests that came from the world, each request once."""
TURN_SECONDS = 0.05
"""How often it is said how many rows were taken."""
SKETCH_SECONDS = 0.5
GROUP_ROWS = 512
"""Rows that are sketched in one go: more would hold up the event loop, which shares the interpreter, and memory."""
WRITE_SECONDS = 1.0
WRITE_BYTES = 65_536
"""Written in a second on average, at most: large sketches are written less often, but for the end of a stretch."""
NOTED_BYTES = 32 * 2**20
"""What waits to be sketched; beyond it the oldest rows are lost, and counted."""
ROW_BYTES = 16


class _Column(msgspec.Struct):
    kind: Literal["number", "category"]
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()


class _Profile(msgspec.Struct):
    """What is wanted of a package's profile: its quantiles and seasons would only take memory here."""

    columns: dict[str, _Column]
    spaces: dict[str, space.Space] = {}


@dataclass(frozen=True, slots=True)
class Held:
    """What the requests of one package are held like."""

    version: int
    signature: Signature
    reference: Profile
    """Bins, values and spaces of its profile, and nothing else of it."""
    types: Mapping[str, ColumnType]

    def columns(self, packed: Mapping[str, NDArray[Any]]) -> dict[str, Values]:
        """The columns that the reference describes, of a packed batch."""
        found: dict[str, Values] = {}
        known, spaces = self.reference.columns, self.reference.spaces
        for column in self.signature.inputs:
            if column.name in known or column.name in spaces:
                kind = "numbers" if column.type == "number" else "texts" if column.type == "text" else "integers"
                found[column.name] = packed[kind][:, column.index]
        for tensor in self.signature.tensors:
            if tensor.name in spaces:
                found[tensor.name] = space.summary(packed[tensor.name])
        return space.replaced(found, spaces) if spaces else found

    def hours(self, packed: Mapping[str, NDArray[Any]], at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The hour of the week of each row: of its event time where it brings one, else of when it came."""
        own = next((each for each in self.signature.inputs if each.name == self.signature.event_time), None)
        if own is not None and own.type == "instant":
            told = packed["integers"][:, own.index]
            at = np.where(told == MISSING_INTEGER, at, told)
        return season.slot_of(at, "week")


def held(home: Home, model: Model, version: int) -> Held:
    """Raises PackageError where the package's profile is not there or not what its manifest says."""
    file = model.manifest.files.get(PROFILE)
    try:
        data = (folder_of(home.packages, model.digest) / PROFILE).read_bytes()
    except OSError as error:
        raise PackageError(f"{PROFILE} of package {model.digest[:12]} cannot be read: {error.strerror}.") from None
    if file is None or digest_of(data) != file.sha256:
        raise PackageError(f"{PROFILE} of package {model.digest[:12]} does not match its manifest.")
    try:
        found = msgspec.json.decode(data, type=_Profile)
    except (ValueError, RecursionError) as error:
        raise PackageError(f"{PROFILE} of package {model.digest[:12]} describes no rows: {error}.") from None
    columns = {
        name: ColumnProfile(kind=each.kind, rows=0, missing=0, edges=each.edges, values=each.values)
        for name, each in found.columns.items()
    }
    types: dict[str, ColumnType] = {each.name: each.type for each in model.signature.inputs}
    return Held(version, model.signature, Profile(rows=0, columns=columns, spaces=found.spaces), types)


def hold(home: Home, live: Live) -> list[str]:
    """Have what every arm is asked sketched; why it cannot be, of which."""
    problems = []
    for arm in live.arms:
        try:
            arm.held = held(home, arm.model, arm.version)
        except PackageError as error:
            problems.append(str(error))
    return problems


@dataclass(slots=True)
class Stretch:
    """What is known so far of one stretch of time, of one version."""

    held: Held
    since: int
    until: int
    first: int
    """The number of its first file."""
    path: Path | None = None
    """The file that holds it as it was written last."""
    sketch: Sketch = field(default_factory=Sketch)
    hours: NDArray[np.int64] = field(default_factory=lambda: np.zeros(season.SLOTS["week"], np.int64))
    unwritten: int = 0
    """Rows that no file holds yet."""
    next: float = 0.0
    """When it may be written again, on the clock of time.monotonic."""


@dataclass(frozen=True, slots=True)
class Note:
    """One arm's rows of one batch. ``at`` in microseconds."""

    part: Part
    at: Sequence[int]
    seconds: int
    size: int


class Sketcher:
    """Of one loop in one process. ``rows`` are on disk as sketches, ``lost_rows`` never will be; ``trouble`` is the
    present error of the disk, None when the last write went well.
    """

    def __init__(self, folder: Path, tag: str) -> None:
        self.rows = 0
        self.lost_rows = 0
        self.trouble: StoreError | None = None
        self._folder = folder
        self._tag = tag
        self._notes: list[Note] = []
        self._bytes = 0
        self._count = 0
        self._waiting = 0
        """Rows that are not sketched yet; those in ``_count`` are all that ever came."""
        self._sketched = 0
        self._files = 0
        self._taken = sketches.Taken(folder, tag)
        self._open: dict[tuple[int, int, int], Stretch] = {}
        self._guard = threading.Lock()  # over the notes: held for moments only
        self._making = threading.Lock()  # over the stretches
        self._wake = threading.Event()
        self._full = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sketches", daemon=True)
        self._thread.start()

    def add(self, part: Part, at: Sequence[int], seconds: int) -> None:
        """One arm's rows of one batch, in stretches of so many seconds. Shadows and fallbacks are no requests."""
        if part.role not in ASKED or not len(at):
            return
        note = Note(part, at, seconds, len(at) * ROW_BYTES + sum(array.nbytes for array in part.packed.values()))
        with self._guard:
            self._notes.append(note)
            self._bytes += note.size
            self._count += len(at)
            self._waiting += len(at)
            if self._bytes > NOTED_BYTES:
                self._drop()
        if not self._wake.is_set():
            self._wake.set()
        if self._waiting >= GROUP_ROWS and not self._full.is_set():
            self._full.set()

    def _drop(self) -> None:
        dropped = 0
        while self._bytes > NOTED_BYTES and dropped < len(self._notes) - 1:
            self._bytes -= self._notes[dropped].size
            self.lost_rows += len(self._notes[dropped].at)
            dropped += 1
        del self._notes[:dropped]

    # What the thread does

    def _run(self) -> None:
        sketched = 0.0
        while not self._stop.is_set():
            if not self._notes and not any(each.unwritten for each in list(self._open.values())):
                self._wake.wait()
            self._wake.clear()
            self._full.wait(TURN_SECONDS)
            self._full.clear()
            self._taken.say(self._count, self.rows)
            now = time.monotonic()
            if now - sketched >= SKETCH_SECONDS or self._waiting >= GROUP_ROWS:
                sketched = now
                with self._making:
                    self._sketch()
                    self._write(now)
                # It may rest now for as long as nobody asks anything: what stands on disk is what it has written.
                self._taken.say(self._count, self.rows)

    def _sketch(self) -> None:
        with self._guard:
            notes, self._notes = self._notes, []
            self._bytes = self._waiting = 0
        for group in grouped(notes):
            rows = sum(len(note.at) for note in group)
            try:
                self._add(group)
            except Exception as error:  # the thread goes on, and what it could not sketch is counted
                say("rows not sketched", rows=rows, because=repr(error))
                self.lost_rows += rows

    def _add(self, notes: Sequence[Note]) -> None:
        part, width = notes[0].part, notes[0].seconds * 1_000_000
        reference: Held = part.arm.held
        packed = {
            kind: array if len(notes) == 1 else np.concatenate([note.part.packed[kind] for note in notes])
            for kind, array in part.packed.items()
        }
        at = np.concatenate([np.asarray(note.at, dtype=np.int64) for note in notes])
        columns, hours, own = reference.columns(packed), reference.hours(packed, at), _own(notes, reference)
        places = at // width
        if places[0] == places[-1] and (places == places[0]).all():
            self._take(reference, int(places[0]), width, len(at), columns, hours, own[0])
            return
        for place in np.unique(places).tolist():
            here = places == place
            self._take(
                reference,
                place,
                width,
                int(here.sum()),
                {name: values[here] for name, values in columns.items() if not isinstance(values, Coded)},
                hours[here],
                own[0][here[own[1]]],
            )

    def _take(
        self,
        reference: Held,
        place: int,
        width: int,
        rows: int,
        columns: Mapping[str, Values],
        hours: NDArray[np.int64],
        own: NDArray[np.float64],
    ) -> None:
        key = place * width, (place + 1) * width, reference.version
        stretch = self._open.get(key)
        if stretch is None:
            stretch = self._open[key] = self._begun(reference, place * width, width)
        sketch, before = stretch.sketch, stretch.sketch.rows
        sketch.update(columns, types=reference.types, like=reference.reference)
        if len(own):
            sketch.update({PREDICTION: own}, like=reference.reference)
        sketch.rows = before + rows
        stretch.hours += np.bincount(hours, minlength=len(stretch.hours))
        stretch.unwritten += rows
        self._sketched += rows

    def _begun(self, reference: Held, since: int, width: int) -> Stretch:
        return Stretch(reference, since, since + width, self._files + 1)

    def _head(self, stretch: Stretch) -> sketches.Head:
        return sketches.Head(
            version=stretch.held.version,
            tag=self._tag,
            first=stretch.first,
            since=stretch.since,
            until=stretch.until,
            rows=stretch.sketch.rows,
            sketched=self._sketched,
            written=time.time_ns() // 1000,
            hours={int(hour): int(stretch.hours[hour]) for hour in np.flatnonzero(stretch.hours)},
        )

    def _write(self, now: float, *, all_of_them: bool = False) -> None:
        """Write what may be written again. A stretch that is over is forced to disk, and forgotten."""
        newest = max((since for since, _, _ in self._open), default=0)
        for key, stretch in list(self._open.items()):
            over = stretch.since < newest
            if stretch.unwritten and (over or all_of_them or now >= stretch.next):
                self._put(stretch, sync=over)
            if over and not stretch.unwritten:
                del self._open[key]

    def _put(self, stretch: Stretch, *, sync: bool) -> None:
        data, before = to_bytes(stretch.sketch), stretch.path
        self._files += 1
        name = sketches.name(stretch.held.version, self._tag, stretch.since, stretch.until, self._files)
        try:
            sketches.write(self._folder / name, self._head(stretch), data, sync=sync)
        except StoreError as error:
            if self.trouble is None:
                say("sketches not written", because=str(error))
            self.trouble = error
            stretch.next = time.monotonic() + WRITE_SECONDS
            return
        stretch.path = self._folder / name
        if before is not None:
            with suppress(OSError):
                before.unlink()
        self.trouble = None
        self.rows += stretch.unwritten
        stretch.unwritten = 0
        stretch.next = time.monotonic() + _wait(len(data), stretch.until / 1e6 - time.time())

    # What others ask of it

    def flush(self) -> None:
        """Write all that was taken. Raises StoreError; what was not written waits on."""
        self._taken.say(self._count, self.rows)
        with self._making:
            self._sketch()
            self._write(time.monotonic(), all_of_them=True)
            self._taken.say(self._count, self.rows)
            if self.trouble is not None:
                raise self.trouble

    def close(self) -> None:
        """Stop the thread and write the rest; what the disk refuses is lost, and counted."""
        self._stop.set()
        self._wake.set()
        self._full.set()
        self._thread.join()
        try:
            self.flush()
        except StoreError:
            self.lost_rows += sum(each.unwritten for each in self._open.values())
        self._taken.close()


def _wait(size: int, left: float) -> float:
    """Seconds until a stretch may be written again that has so many bytes, and so many seconds left.

    When it ends, and a little after for answers that were slow, it is written however large it is, though nobody should
    ask anything more: it would be judged without its last rows. A replay lives long ago: there nothing ends just now.
    """
    usual = max(WRITE_SECONDS, size / WRITE_BYTES)
    return min(usual, max(WRITE_SECONDS, left)) if left > -sketches.LATE.total_seconds() else usual


def grouped(notes: Iterable[Note]) -> list[list[Note]]:
    """What is sketched together: of one arm, at most `GROUP_ROWS` or one note."""
    groups: list[list[Note]] = []
    rows: list[int] = []
    place: dict[tuple[int, bool, int], int] = {}
    for note in notes:
        key = id(note.part.arm), note.part.role == "route", note.seconds
        at = place.get(key)
        if at is not None and rows[at] + len(note.at) <= GROUP_ROWS:
            groups[at].append(note)
            rows[at] += len(note.at)
        else:
            place[key] = len(groups)
            groups.append([note])
            rows.append(len(note.at))
    return groups


def _own(notes: Sequence[Note], reference: Held) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """The version's own answers, and which rows have one: none that failed, and none that a route gave it for what they are."""
    rows = np.array([len(note.at) for note in notes])
    if notes[0].part.role == "route" or PREDICTION not in reference.reference.columns:
        return np.zeros(0), np.zeros(rows.sum(), dtype=np.bool_)
    place = 0 if reference.signature.task == "regression" else reference.signature.positive or 0
    values = np.concatenate(
        [
            np.full(len(note.at), np.nan) if note.part.prediction is None else note.part.prediction[:, place]
            for note in notes
        ]
    )
    there = np.isfinite(values)
    return values[there], there
