"""Files of what one server process was asked within a stretch of time: a head, then a sketch as bytes. Knows no bins.

A file is never changed. While its stretch goes on a process writes one more that holds all of it, then removes the one
before: what is removed soon never reaches the disk, where a file that is replaced would be forced to it. Whoever reads
takes the fullest of one stretch, and adds up those of many processes and stretches.
``<begin>-<minutes>m-v<version>-<tag>-<number>.sketch``: `MAGIC`, then two frames as in a segment. Beside them each
process keeps in ``<tag>.taken`` how many rows it has taken and written, so that it can be said how many a kill has lost.
"""

from __future__ import annotations

import fcntl
import os
import re
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import msgspec

from everloop.clock import EPOCH
from everloop.errors import StoreError
from everloop.store.files import write_atomically
from everloop.store.segments import HEAD, framed

MAGIC = b"EVLSKT1\n"
SUFFIX = ".sketch"
TAKEN = ".taken"
LATE = timedelta(seconds=10)
"""What was asked until a stretch was over is on disk by then: whoever reads takes what is there for all of it."""
NAME = re.compile(r"(\d{8}T\d{4})-(\d+)m-v(\d+)-(.+)-(\d+)\.sketch")


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a file is about. Instants in microseconds since 1970, UTC."""

    version: int
    """Whose columns, and in the bins of whose profile."""
    tag: str
    """The process."""
    first: int
    """The number of its first file of this stretch: the fullest that says the same holds what all of them hold."""
    since: int
    until: int
    rows: int
    sketched: int
    """Rows that the process had sketched in all when it wrote this."""
    written: int
    """When."""
    hours: dict[int, int]
    """Hours of the week from Monday 0:00 UTC → rows of that event time."""
    parts: tuple[tuple[str, int, int, int, int], ...] = ()
    """Of a file that was put together from others what they were, as `part`: they count no more, should they still be there."""

    @property
    def part(self) -> tuple[str, int, int, int, int]:
        return self.tag, self.first, self.since, self.until, self.sketched

    @property
    def key(self) -> tuple[str, int, int, int, int]:
        """The same for all files of which only the fullest counts."""
        return self.tag, self.first, self.since, self.until, self.version


def name(version: int, tag: str, since: int, until: int, number: int) -> str:
    """Of a file; ``number`` rises from one that its process writes to the next."""
    begin = EPOCH + timedelta(microseconds=since)
    return f"{begin:%Y%m%dT%H%M}-{(until - since) // 60_000_000}m-v{version}-{tag}-{number}{SUFFIX}"


def write(path: Path, head: Head, sketch: bytes, *, sync: bool = False) -> None:
    """Whole or not at all. Raises StoreFull or StoreError."""
    write_atomically(path, MAGIC + framed(msgspec.json.encode(head)) + framed(sketch), sync=sync)


def files(folder: Path) -> Iterator[tuple[Path, int]]:
    """Every file and when its stretch ends, by its name alone."""
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        until = ends(path.name)
        if until is not None:
            yield path, until


def ends(name: str) -> int | None:
    """When the stretch of a file ends, in microseconds since 1970; None where that is no name of one."""
    found = NAME.fullmatch(name)
    if found is None:
        return None
    try:
        begin = datetime.strptime(found[1], "%Y%m%dT%H%M").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (begin - EPOCH) // timedelta(microseconds=1) + int(found[2]) * 60_000_000


def read(path: Path) -> tuple[Head, bytes]:
    """A file's head and its sketch. Raises StoreError for one that is damaged, OSError where it cannot be read."""
    data = path.read_bytes()
    head, place = _head(path, data)
    return head, _payload(path, data, place)[0]


class Count(NamedTuple):
    """What one process has said: rows that it took, and of these the ones that were in sketches, tidied away by now or not."""

    rows: int
    written: int
    at: int
    """When it said so last, in microseconds since 1970."""


def taken(folder: Path) -> dict[str, Count]:
    """By the tag of each process."""
    found: dict[str, Count] = {}
    for path in folder.glob(f"*{TAKEN}"):
        with suppress(OSError, ValueError):
            rows, *written = map(int, path.read_bytes().split())
            found[path.name.removesuffix(TAKEN)] = Count(rows, sum(written), path.stat().st_mtime_ns // 1000)
    return found


def remove(folder: Path, before: int) -> int:
    """Remove the files whose stretch was over by then, and what is left of processes that have no other.

    Returns how many stretches. What was half written when its process was killed goes with them.
    """
    gone = 0
    left: set[str] = set()
    for path, until in list(files(folder)):
        found = NAME.fullmatch(path.name)
        assert found is not None
        if until > before:
            left.add(found[4])
            continue
        with suppress(OSError):
            path.unlink()
            gone += 1
    for path in (*folder.glob(f"*{TAKEN}"), *folder.glob(f".*{SUFFIX}.*")):
        with suppress(OSError):
            if path.name.removesuffix(TAKEN) not in left and path.stat().st_mtime * 1e6 < before:
                path.unlink()
    return gone


@contextmanager
def alone(folder: Path) -> Iterator[bool]:
    """Whether nobody else puts files together in this folder meanwhile."""
    with (folder / "together.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True


class Taken:
    """How many rows this process has taken, on disk: what is in no sketch when it is killed can be counted.

    May be told so by several threads.
    """

    def __init__(self, folder: Path, tag: str) -> None:
        self._path = folder / f"{tag}{TAKEN}"
        self._descriptor = -1
        self._said = 0, 0
        self._guard = threading.Lock()

    def say(self, rows: int, written: int) -> None:
        """Never raises: a full disk must not end the serving."""
        with self._guard, suppress(OSError):
            if (rows, written) == self._said:
                return
            self._put(rows, written)
            if os.fstat(self._descriptor).st_nlink == 0:  # it was silent for so long that somebody tidied its file away
                self._close()
                self._put(rows, written)
            self._said = rows, written

    def close(self) -> None:
        with self._guard:
            self._close()

    def _put(self, rows: int, written: int) -> None:
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o644)
        os.pwrite(self._descriptor, b"%020d %020d" % (rows, written), 0)

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _head(path: Path, data: bytes) -> tuple[Head, int]:
    if not data.startswith(MAGIC):
        raise _damaged(path)
    payload, place = _payload(path, data, len(MAGIC))
    try:
        return msgspec.json.decode(payload, type=Head), place
    except (msgspec.MsgspecError, ValueError):
        raise _damaged(path) from None


def _payload(path: Path, data: bytes, place: int) -> tuple[bytes, int]:
    if len(data) < place + HEAD.size:
        raise _damaged(path)
    length, checksum = HEAD.unpack_from(data, place)
    begin = place + HEAD.size
    payload = data[begin : begin + length]
    if len(payload) < length or zlib.crc32(payload, length) != checksum:
        raise _damaged(path)
    return payload, begin + length


def _damaged(path: Path) -> StoreError:
    return StoreError(f"{path} is no whole sketch; what it held is not counted. Nobody reads it: it may be removed.")
