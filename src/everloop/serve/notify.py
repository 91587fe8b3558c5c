"""Says at once when a file in one of some folders was put in its place or went. Knows nothing of what is in them.

The kernel's inotify through the C library: an idle server does not look at all. Where there is none, whoever wants to
know has to look now and then; on a network file system it may stay silent.
"""

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

CLOSED_AFTER_WRITING, MOVED_FROM, MOVED_TO, DELETED = 0x8, 0x40, 0x80, 0x200
NOT_BLOCKING, CLOSED_AT_EXEC = os.O_NONBLOCK, os.O_CLOEXEC
READ_BYTES = 1 << 16


class Notify:
    """``descriptor`` becomes readable when something changed in a folder that is watched; then call `clear`."""

    def __init__(self) -> None:
        self.descriptor = -1

    def watch(self, folders: Iterable[Path]) -> bool:
        """Begin. False where the system cannot say what changes."""
        library = ctypes.CDLL(None, use_errno=True)
        begin = getattr(library, "inotify_init1", None)
        if begin is None:
            return False
        self.descriptor = begin(NOT_BLOCKING | CLOSED_AT_EXEC)
        mask = CLOSED_AFTER_WRITING | MOVED_FROM | MOVED_TO | DELETED
        for folder in dict.fromkeys(folders):
            if self.descriptor >= 0 and library.inotify_add_watch(self.descriptor, os.fsencode(folder), mask) < 0:
                self.close()
        return self.descriptor >= 0

    def clear(self) -> None:
        """Forget what was said so far."""
        with suppress(BlockingIOError):
            while len(os.read(self.descriptor, READ_BYTES)) > READ_BYTES // 2:
                pass

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
