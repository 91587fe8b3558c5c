"""Reads and checks the packages of a start in a thread, while the server's own modules are still being loaded.

Nothing runs before it is checked: a model is built only from bytes whose signature and digests were found right. What
cannot be read here is left to whoever loads it next, with the error that says why.
"""

import threading
from collections.abc import Sequence
from contextlib import suppress

from everloop.errors import EverloopError
from everloop.serve import releases
from everloop.store.home import Home
from everloop.store.packages import Opened, folder_of, open_package, trusted_keys

MOST_BYTES = 512 * 2**20
"""No more than this waits in memory for the server to be ready for it."""


class Ahead:
    def __init__(self, home: Home, loops: Sequence[str]) -> None:
        self._home = home
        self._loops = loops
        self._opened: dict[str, Opened] = {}
        self._thread = threading.Thread(target=self._read, name="ahead", daemon=True)
        self._thread.start()

    def take(self, package: str) -> Opened | None:
        """A package that was read and found sound, once; None for any other. Waits for the reading."""
        self._thread.join()
        return self._opened.pop(package, None)

    def forget(self) -> None:
        """What nobody took is not wanted."""
        self._thread.join()
        self._opened.clear()

    def _read(self) -> None:
        size = 0
        for loop in self._loops:
            with suppress(EverloopError, OSError):
                release = releases.read(self._home.release_file(loop))
                for served in (release.champion, release.challenger):
                    if served is None or served.package in self._opened:
                        continue
                    folder = folder_of(self._home.packages, served.package)
                    size += sum(file.stat().st_size for file in folder.iterdir())
                    if size > MOST_BYTES:
                        return
                    self._opened[served.package] = open_package(folder, trusted_keys(self._home.keys))
