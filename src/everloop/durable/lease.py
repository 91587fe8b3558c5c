"""Who works on a run, and that they still live. Knows nothing of what a run does.

A lease is renewed by a thread, because a step may last for hours. A worker that dies on this machine is recognised
at once; one that hangs, or dies on another machine, when its lease ends. Leases count real time, whatever clock
the runs go by.
"""

import hashlib
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from everloop.errors import StoreError


class Keeper:
    """Renews the leases of the runs that are held, from a thread of its own, until one is lost."""

    def __init__(self, renew: Callable[[str], bool], every: float) -> None:
        self._renew = renew
        self._every = every
        self._lost: dict[str, threading.Event] = {}
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextmanager
    def holding(self, run: str, lost: threading.Event) -> Iterator[None]:
        """Keep the lease of ``run`` until the block ends; ``lost`` is set if another worker has it."""
        with self._lock:
            self._lost[run] = lost
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="everloop leases", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                self._lost.pop(run, None)

    def _beat(self) -> None:
        while not self._closed.wait(self._every):
            with self._lock:
                held = list(self._lost.items())
                if not held:  # Begun again with the next run: an idle engine keeps no thread.
                    self._thread = None
                    return
            for run, lost in held:
                # A ledger that is busy or full now may not be at the next beat, well before the lease ends.
                with suppress(StoreError):
                    if not self._renew(run):
                        lost.set()

    def lose(self, run: str) -> None:
        """Say at once that ``run`` is lost, if it is held here."""
        with self._lock:
            if run in self._lost:
                self._lost[run].set()

    def close(self) -> None:
        self._closed.set()
        thread = self._thread
        if thread is not None:
            thread.join()


def owner() -> str:
    """A name for one worker in this process: machine, process, process start, and a number drawn at random."""
    return f"{_machine()}:{os.getpid()}:{_started(os.getpid())}:{secrets.token_hex(4)}"


def surely_dead(name: str) -> bool:
    """True if that owner was a process of this machine that is gone; False also when nobody can tell."""
    machine, process, started, _ = name.split(":")
    if not machine or machine != _machine():
        return False
    return _started(int(process)) != started


def _started(process: int) -> str:
    """When the process started, in clock ticks; empty if there is none or it is only waiting to be reaped."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _machine() -> str:
    """A digest of the machine's present boot and process namespace, not its name; empty where that cannot be known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii")
        namespace = Path("/proc/self/ns/pid").readlink()
    except OSError:
        return ""
    return hashlib.sha256(f"{boot}{namespace}".encode()).hexdigest()[:12]
