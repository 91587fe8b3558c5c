"""Other processes that decode pictures into memory that both sides see. Knows nothing of who asks, or of networks.

Threads decode small pictures hardly faster than one does, for most of such a picture's time is Python's: two threads give
1.1 times as many as one, two processes 1.9. They are processes of their own rather than forked ones, which would inherit the
locks of every library's threads, and are not started again by a script that has no ``if __name__ == "__main__"``.
"""

import gc
import math
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from queue import SimpleQueue

import msgspec
import numpy as np
from numpy.typing import NDArray

from everloop.forms import Image
from everloop.measure import images
from everloop.measure.pictures import AT_ONCE, Pictures

ENDS_SECONDS = 5.0
SELDOM = 100_000
"""Objects, a hundred a picture, after which garbage is looked for in a process that does nothing but decode."""
PROBED = 4 * AT_ONCE
"""Pictures that are decoded to see how long one takes."""
WORTH_SECONDS = 2.0
"""Less decoding than that in all is done before processes have started."""


class Decoders:
    """``workers`` processes, each for one who asks at a time; at most ``at_once`` pictures are asked for."""

    def __init__(self, form: Image, workers: int, *, at_once: int) -> None:
        self.askers = workers
        memory = _memory(workers * at_once * form.height * form.width * form.channels)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._free: SimpleQueue[tuple[Connection, NDArray[np.uint8]]] = SimpleQueue()
        self._lines: list[Connection] = []
        try:
            for worker, pixels in enumerate(_pixels(memory, form, workers, at_once)):
                self._lines.append(self._begin(form, workers, at_once, worker, memory))
                self._free.put((self._lines[-1], pixels))
        finally:
            os.close(memory)

    @contextmanager
    def decoded(self, files: Sequence[bytes]) -> Iterator[NDArray[np.uint8]]:
        """uint8 [files, height, width, channels], which is overwritten once the context has ended.

        Raises `images.NotAnImage` for the first file that is none, and ConnectionError where the process is gone.
        """
        line, pixels = free = self._free.get()
        try:
            try:
                line.send_bytes(struct.pack(f"<Q{len(files)}Q", len(files), *map(len, files)) + b"".join(files))
                said = line.recv_bytes()
            except (EOFError, OSError) as error:
                raise ConnectionError("a process that decodes pictures is gone") from error
            if said:
                raise images.NotAnImage(said.decode())
            yield pixels[: len(files)]
        finally:
            self._free.put(free)

    def close(self) -> None:
        for each in self._lines:
            each.close()
        for process in self._processes:
            try:
                process.wait(ENDS_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _begin(self, form: Image, workers: int, at_once: int, worker: int, memory: int) -> Connection:
        ours, theirs = socket.socketpair()
        numbers = [workers, at_once, worker, memory, theirs.fileno()]
        with theirs:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", __name__, msgspec.json.encode(form).decode(), *map(str, numbers)],
                    pass_fds=[memory, theirs.fileno()], stdin=subprocess.DEVNULL,
                    env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                )
            )  # fmt: skip
        return Connection(ours.detach())


@contextmanager
def helping(pictures: Pictures, epochs: int) -> Iterator[None]:
    """Processes that decode for as long as the context, one a thread that the column has, where they are worth starting."""
    began = time.perf_counter()
    first = min(PROBED, pictures.missing, pictures.shape[0])
    pictures.pixels(np.arange(first))
    each = (time.perf_counter() - began) / max(1, first)
    often = 1 if pictures.keeps else epochs
    if pictures.workers < 2 or each * pictures.missing * often < WORTH_SECONDS:
        yield
        return
    found = Decoders(pictures.form, pictures.workers, at_once=AT_ONCE)
    pictures.decoded_by(found)
    try:
        yield
    finally:
        pictures.decoded_by(None)
        found.close()


def _memory(size: int) -> int:
    """A file without a name that lies in memory where the system has such files."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("pictures")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, size)
    return descriptor


def _pixels(memory: int, form: Image, workers: int, at_once: int) -> NDArray[np.uint8]:
    shape = (workers, at_once, form.height, form.width, form.channels)
    return np.frombuffer(mmap.mmap(memory, math.prod(shape)), np.uint8).reshape(shape)


def main(form: Image, workers: int, at_once: int, worker: int, memory: int, line: int) -> None:
    """What each of the processes does, until nobody is there to ask."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who started it says when it ends
    pixels = _pixels(memory, form, workers, at_once)[worker]
    asked = Connection(line)
    settle()
    while True:
        try:
            asked.send_bytes(_answer(memoryview(asked.recv_bytes()), form, pixels))
        except (EOFError, OSError):
            return


def settle() -> None:
    """Garbage of a picture is found seldom: looking for it after every few pictures costs a sixth of decoding them."""
    gc.freeze()
    gc.set_threshold(SELDOM, 10, 10)


def _answer(message: memoryview, form: Image, pixels: NDArray[np.uint8]) -> bytes:
    """Nothing, or what is wrong."""
    (count,) = struct.unpack_from("<Q", message)
    begin = 8 * (1 + count)
    for number, length in enumerate(struct.unpack_from(f"<{count}Q", message, 8)):
        try:
            pixels[number] = images.decode(message[begin : begin + length], form)
        except images.NotAnImage as problem:
            return str(problem).encode()
        begin += length
    return b""


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Image), *map(int, sys.argv[2:]))
