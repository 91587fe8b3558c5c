"""Knows when another process is gone. Knows nothing of what it was for."""

import os
import select
from contextlib import suppress


class Parent:
    """``descriptor`` becomes readable when process ``pid`` ends; −1 where the system has no such thing."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.descriptor = -1
        with suppress(OSError, AttributeError):  # gone already, or another system: then `gone` is asked now and then
            self.descriptor = os.pidfd_open(pid)

    @property
    def gone(self) -> bool:
        if self.descriptor >= 0:
            ended = select.poll()
            ended.register(self.descriptor, select.POLLIN)
            return bool(ended.poll(0))
        return gone(self.pid)


def gone(pid: int) -> bool:
    """Whether no process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
