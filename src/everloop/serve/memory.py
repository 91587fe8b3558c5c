"""How much memory this process has, and how it gives back what it no longer needs. Knows nothing of models."""

import ctypes
import os
from functools import cache
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
ARENA_MAX = -8
"""M_ARENA_MAX of mallopt(3)."""


def resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123  (no path object for a file of the kernel)
            return int(file.read().split()[1]) * PAGE
    except OSError:
        return 0


def one_arena() -> None:
    """Let all threads take their memory from one place, where the C library can be told so. Call before there are any.

    By itself it gives each thread a heap of its own, and `trim` does not reach the end of any but the first: the
    weights of a model that was let go stayed resident, in half of all cases.
    """
    call = getattr(ctypes.CDLL(None), "mallopt", None)
    if call is not None:
        call(ARENA_MAX, 1)


def trim() -> None:
    """Give freed memory back to the system where the C library can: loading a model leaves holes as large as itself."""
    call = _trim()
    if call is not None:
        call(0)


@cache
def _trim() -> Any:
    return getattr(ctypes.CDLL(None), "malloc_trim", None)
