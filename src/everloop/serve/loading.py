"""What loading one package may take, and the watch that ends what takes more. Knows nothing of requests or releases.

A graph is a program. Nothing in its file says what it will take: a few nodes that double one another fill a machine,
a loop of 2⁶² turns never ends. Three things hold together: an arena of ONNX Runtime that gives a model no more than
its share, for as long as it lives; no folding of constants where that could grow, for the arena does not hold there
(store/folding.py); and while a package is loaded and tried, a look every few milliseconds at the clock and at the
memory of the process.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import onnxruntime

from everloop.errors import PackageError
from everloop.serve.memory import resident
from everloop.store.files import write_all

LOOK_SECONDS = 0.02
GRACE_SECONDS = 10.0
COPIES = 4
"""The weights of a graph may lie in memory so many times while it is loaded: bytes, parsed, arranged for the run."""
LARGE_GRAPH = 2**20
_DESCRIPTORS = Path("/proc/self/fd")
_REGISTERING = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """``package_bytes``: all files together. ``model_bytes``: memory of the runs of one model, beside its weights.

    ``load_seconds``: from the first byte parsed to the last trial run.
    """

    package_bytes: int = 4 * 2**30
    model_bytes: int = 4 * 2**30
    load_seconds: float = 120.0

    @property
    def patience(self) -> float:
        """Seconds after which a load that did not stop when it was told to is left behind."""
        return self.load_seconds + GRACE_SECONDS


@contextmanager
def _taken_from(graph: bytes) -> Iterator[bytes | str]:
    """The same bytes in the form in which the runtime parses them without holding up the interpreter.

    It holds on to it for all of its parsing when it is given bytes, up to a tenth of a second for a large graph, in
    which nothing is answered; a file it reads by itself. The file is in memory and nobody else's: what was verified is
    what is read.
    """
    if len(graph) < LARGE_GRAPH or not hasattr(os, "memfd_create") or not _DESCRIPTORS.exists():
        yield graph
        return
    descriptor = os.memfd_create("graph", os.MFD_CLOEXEC)
    try:
        write_all(descriptor, graph)
        yield str(_DESCRIPTORS / str(descriptor))
    finally:
        os.close(descriptor)


class Watch:
    """Around a load and its trial runs. ``options`` and ``run`` are what a session and a run are to be given.

    Leaving it raises PackageError with what was too much, whatever the runtime raised when it was told to stop.
    """

    def __init__(self, allowance: Allowance, graph_bytes: int) -> None:
        self.options = onnxruntime.SessionOptions()
        self.run = onnxruntime.RunOptions()
        self._seconds = allowance.load_seconds
        self._bytes = allowance.model_bytes + COPIES * graph_bytes
        self._exceeded: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="load watch", daemon=True)

    def session(self, graph: bytes) -> Any:
        """A session whose runs take their memory from an arena of their own, of bounded size."""
        self.options.add_session_config_entry("session.use_env_allocators", "1")
        place = onnxruntime.OrtMemoryInfo(
            "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
        )
        arena = onnxruntime.OrtArenaCfg({"max_mem": self._bytes})
        with _REGISTERING, _taken_from(graph) as source:  # a session takes the arena registered last, and keeps it
            onnxruntime.create_and_register_allocator(place, arena)
            session = onnxruntime.InferenceSession(source, self.options, providers=["CPUExecutionProvider"])
        if hasattr(session, "_model_bytes"):
            session._model_bytes = b""  # kept for another try with other providers: as large as the whole graph
        return session

    def _watch(self) -> None:
        begin, before = time.monotonic(), resident()
        while not self._ended.wait(LOOK_SECONDS):
            if time.monotonic() - begin > self._seconds:
                self._exceeded = f"it was not ready after {self._seconds:g} seconds"
            elif resident() - before > self._bytes:
                self._exceeded = f"it took more than {self._bytes} bytes of memory"
            else:
                continue
            self.options.set_load_cancellation_flag(True)
            self.run.terminate = True
            return

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        if self._exceeded is not None:
            raise PackageError(
                f"The graph was stopped while it was loaded: {self._exceeded}. Make it smaller, or allow more: "
                "model_bytes and load_seconds in [ENV.serve] of everloop.toml."
            ) from error


class Loader:
    """Loads one package after the other, beside the event loop.

    What cannot be stopped (one operator of a graph that never ends) is left behind: it keeps nobody from loading
    another package after ``patience`` seconds, nor the process from ending.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._turn = threading.Semaphore()
        self._threads: list[threading.Thread] = []

    @property
    def running(self) -> bool:
        return any(each.is_alive() for each in self._threads)

    def submit(self, work: Callable[[], object]) -> None:
        self._threads = [each for each in self._threads if each.is_alive()]
        thread = threading.Thread(target=self._work, args=(work,), name="loader", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self, work: Callable[[], object]) -> None:
        ours = self._turn.acquire(timeout=self._patience)
        try:
            work()
        finally:
            if ours:
                self._turn.release()
