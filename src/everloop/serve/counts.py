"""What the processes of one server counted, as if it were one: each keeps its counts in a file, a scrape adds them up;
so does a controller that looks at all servers of a home.

A scrape reaches any of the processes. It writes its own file before it answers and reads those of the others, so that
no later scrape of another process can show less: counters rise, whoever is asked. What a process had counted when it
ended, or was killed, is added to the past; a kill loses at most its last second.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from everloop.errors import StoreError
from everloop.serve.families import Families
from everloop.serve.parent import gone
from everloop.store.files import write_atomically
from everloop.store.home import Home

PAST = "past"
REMEMBERED = 1000
"""Processes that went, by number: so many files might still lie there after they were added up."""


class Past(msgspec.Struct):
    """``families`` as encoded; ``pids`` are the processes in it."""

    pids: list[int]
    families: bytes


class Counts:
    """The files of one server, whose supervisor has the number ``leader``."""

    def __init__(self, home: Home, leader: int) -> None:
        self._folder = home.servers / "counts"
        self._folder.mkdir(exist_ok=True)
        self._leader = leader
        self._written = b""

    def write(self, ours: Families) -> None:
        """Keep what this process has counted so far; nothing is written when nothing has changed."""
        data = ours.encode()
        if data != self._written:
            write_atomically(self._place(os.getpid()), data, sync=False)
            self._written = data

    def together(self, ours: Families) -> Families:
        """What all processes counted, this one and those that went among them. Writes ``ours`` first."""
        with suppress(StoreError, OSError):  # a full disk is no reason to say nothing
            self.write(ours)
        found = Families.decode(ours.encode())
        self._add_others(found, os.getpid())
        return found

    def written(self) -> Families:
        """What all processes had counted when they last wrote, at most a second ago."""
        found = Families()
        self._add_others(found)
        return found

    def _add_others(self, found: Families, *without: int) -> None:
        # The present first, then the past: what moves from one to the other meanwhile is seen in both, and taken once.
        present = {pid: data for pid in self._pids() if (data := _read(self._place(pid))) is not None}
        past = self._past()
        for data in (*(data for pid, data in present.items() if pid not in (*without, *past.pids)), past.families):
            with suppress(msgspec.MsgspecError):
                if data:
                    found.merge(Families.decode(data))

    def bury(self, pid: int) -> None:
        """Add what an ended process had counted to the past. Only the supervisor does, one at a time."""
        data = _read(self._place(pid))
        if data is None:
            return
        past = self._past()
        if pid not in past.pids:
            with suppress(msgspec.MsgspecError):
                rising = Families.decode(data).rising
                if past.families:
                    rising.merge(Families.decode(past.families))
                content = Past([*past.pids[-REMEMBERED:], pid], rising.encode())
                write_atomically(self._place(PAST), msgspec.msgpack.encode(content), sync=False)
        with suppress(OSError):
            self._place(pid).unlink()

    def clear(self) -> None:
        """Remove the files of this server."""
        for file in self._folder.glob(f"{self._leader}-*"):
            with suppress(OSError):
                file.unlink()

    def _pids(self) -> list[int]:
        names = (file.stem.partition("-")[2] for file in self._folder.glob(f"{self._leader}-*.counts"))
        return [int(name) for name in names if name.isdigit()]

    def _place(self, what: int | str) -> Path:
        return self._folder / f"{self._leader}-{what}.counts"

    def _past(self) -> Past:
        data = _read(self._place(PAST))
        with suppress(msgspec.MsgspecError):
            if data is not None:
                return msgspec.msgpack.decode(data, type=Past)
        return Past([], b"")


def of_servers(home: Home) -> dict[int, Families]:
    """What each server of a home that lives has counted, by the number of its supervisor or only process."""
    names = (file.stem.partition("-")[0] for file in (home.servers / "counts").glob("*.counts"))
    leaders = {int(name) for name in names if name.isdigit()}
    return {each: Counts(home, each).written() for each in sorted(leaders) if not gone(each)}


def clear_left(home: Home) -> None:
    """Remove the files of servers that were killed."""
    for file in (home.servers / "counts").glob("*.counts"):
        leader = file.stem.partition("-")[0]
        if leader.isdigit() and gone(int(leader)):
            with suppress(OSError):
                file.unlink()


def _read(place: Path) -> bytes | None:
    try:
        return place.read_bytes()
    except OSError:
        return None
