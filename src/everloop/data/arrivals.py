"""Which files of a source are new since they were last dealt with. Knows nothing of what is in them.

A file is told by its place, size, time of change and number on its disk: one look at a year of daily files asks the
disk for these and opens none.
"""

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from everloop.data import sources
from everloop.spec.source import Source

Stamp = tuple[int, int, int]


@dataclass(slots=True)
class Arrivals:
    """What it remembers is only saved work: after a restart every file is new, and its content tells that it is known."""

    source: Source
    folder: Path
    _done: dict[str, Stamp] = field(default_factory=dict)
    _seen: dict[str, Stamp] = field(default_factory=dict)

    def new(self) -> list[Path]:
        """Files that came or changed, sorted by path. Until `done` is said of one, it is new again the next time."""
        self._seen = {}
        for place in sources.places(self.source, self.folder):
            try:
                found = os.stat(place)  # noqa: PTH116 — a Path for each of a year's files would cost more than the look
            except OSError:
                continue  # It went away since; whoever reads it next would say so.
            if stat.S_ISREG(found.st_mode):
                stamp = (found.st_ino, found.st_size, found.st_mtime_ns)
                if self._done.get(place) != stamp:
                    self._seen[place] = stamp
        return [Path(place) for place in self._seen]

    def done(self, path: Path) -> None:
        """Its content, as it was when `new` saw it, needs no second look."""
        place = str(path)
        if place in self._seen:
            self._done[place] = self._seen.pop(place)
