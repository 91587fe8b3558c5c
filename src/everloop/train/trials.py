"""The trials of one search as files in a folder, so that any number of processes do them together.

``trial-0007.json`` is a trial that has ended; it is renamed into place and never done again. ``claim-0007`` is held by a
lock while its trial runs: a lock ends with its holder, so a killed trial is free at once, without waiting for a heartbeat
to be missed. Knows nothing of parameters or scores.
"""

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from everloop.records import encode

MOST_ATTEMPTS = 3
"""A trial that was begun so often and never ended is left out: its parameters kill whoever tries them."""


@dataclass(frozen=True, kw_only=True)
class Ended:
    """One trial that has ended."""

    number: int
    parameters: dict[str, Any]
    state: Literal["complete", "pruned", "failed"]
    score: float | None = None
    """None unless it is complete."""
    seconds: float = 0.0
    steps: tuple[tuple[int, float], ...] = ()
    """Step and score on the way, in their order."""
    marks: dict[str, Any] = field(default_factory=dict)
    """What the pruner has written down about it."""
    problem: str | None = None


class Claim:
    """The right to do one trial. ``attempt`` counts from 1."""

    def __init__(self, folder: Path, number: int, attempt: int) -> None:
        self.number, self.attempt = number, attempt
        self._folder = folder

    def end(self, ended: Ended) -> None:
        beside = self._folder / f".trial-{self.number:04d}.{os.getpid()}"
        with beside.open("wb") as file:
            file.write(encode(ended))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(_path(self._folder, self.number))


class Trials:
    """``lag``: a trial is free once all but the ``lag`` - 1 before it have ended."""

    def __init__(self, folder: Path, *, count: int, lag: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._count, self._lag = folder, count, lag
        self._known: dict[int, Ended] = {}

    def ended(self, below: int | None = None) -> tuple[Ended, ...]:
        """Those that have ended, by number; only those with a number less than ``below``."""
        limit = self._count if below is None else min(below, self._count)
        for number in range(limit):
            if number not in self._known:
                try:
                    content = _path(self._folder, number).read_bytes()
                    self._known[number] = msgspec.json.decode(content, type=Ended)
                except FileNotFoundError:
                    continue
                except msgspec.MsgspecError:  # damaged: it is done again
                    _path(self._folder, number).unlink(missing_ok=True)
        return tuple(self._known[number] for number in sorted(self._known) if number < limit)

    @property
    def done(self) -> bool:
        return len(self.ended()) == self._count

    @contextmanager
    def claim(self) -> Iterator[Claim | None]:
        """The first trial that is free, held until the context ends; None where others do all that can be done now."""
        have = {each.number for each in self.ended()}
        first = next((number for number in range(self._count) if number not in have), self._count)
        for number in range(first, min(first + self._lag, self._count)):
            if number in have:
                continue
            descriptor = os.open(self._folder / f"claim-{number:04d}", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                if _path(self._folder, number).exists():
                    continue  # it ended between the look and the lock
                before = os.read(descriptor, 16)
                attempt = int(before) + 1 if before.isdigit() else 1
                os.pwrite(descriptor, str(attempt).encode(), 0)
                yield Claim(self._folder, number, attempt)
                return
            finally:
                os.close(descriptor)
        yield None


def _path(folder: Path, number: int) -> Path:
    return folder / f"trial-{number:04d}.json"


def of(folder: Path) -> Mapping[int, Ended]:
    """Every trial that has ended in the folder, by number."""
    found = (msgspec.json.decode(path.read_bytes(), type=Ended) for path in sorted(folder.glob("trial-*.json")))
    return {each.number: each for each in found}
