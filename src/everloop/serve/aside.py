"""Pictures that take long to decode, decoded by threads beside the event loop while it answers others.

Small ones are decoded where they are read: to change the thread costs more. A request with much to decode is given up
by `pictures` with `Large` and goes through its handler once more when all is decoded. Knows nothing of what is asked.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from time import perf_counter

from everloop.errors import RequestError
from everloop.forms import Image
from everloop.measure import images
from everloop.serve.exchange import Exchange
from everloop.serve.urgency import NEVER

HERE = 2**16
"""So much `work` of one request is done in the event loop: 1.6 ms of a PNG, .6 ms of a JPEG."""
MOST = 4 * images.LARGEST_PIXELS
"""More `work` is not taken in one request: 3 s of a core. A flat PNG of 100 KB may be 33 megapixels."""
THREADS = 2
"""A PNG of the largest size that is taken needs a hundred megabytes while it is decoded."""
REQUESTS, BYTES = 64, 64 * 2**20
"""So many requests, and files of so many bytes, wait at most."""

Files = Sequence[tuple[bytes, Image]]
Decoded = list[bytes | images.NotAnImage]
Known = tuple[tuple[Files, Decoded], ...]
_known: ContextVar[Known] = ContextVar("decoded", default=())


class Large(Exception):
    """No error: these files are to be decoded, then the request goes on."""

    def __init__(self, files: Files, known: Known) -> None:
        self.files = files
        self.known = known
        """Of the same request: an input before this one."""


def pictures(files: Files) -> Decoded | None:
    """The arrays of some files as bytes, in their order; None: there is little to do, decode them here.

    Raises `Large` where an event loop would be held up, RequestError (413) where it is too much for one request.
    """
    work = sum(images.work(data) for data, _ in files)
    if work <= HERE:
        return None
    if work > MOST:
        raise RequestError(
            f"The pictures of this request are {work:,} pixels together; at most {MOST:,} are taken at once.",
            status=413,
        )
    known = _known.get()
    for before, decoded in known:
        if before == files:
            return decoded
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None  # nobody is held up
    raise Large(files, known)


class Aside:
    """Requests whose pictures are being decoded. Made and used in one event loop."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._requests = self._bytes = 0

    def add(self, exchange: Exchange, large: Large, again: Callable[[], None]) -> None:
        """``again`` is called when all is decoded. Raises RequestError (503) when too many wait."""
        size = sum(len(data) for data, _ in large.files)
        if self._requests and (self._requests >= REQUESTS or self._bytes + size > BYTES):
            raise RequestError("Too many large pictures wait to be decoded; ask again.", status=503, reason="decoding")
        if self._threads is None:
            self._threads = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "picture")
        self._requests += 1
        self._bytes += size
        done = asyncio.get_running_loop().run_in_executor(self._threads, _decode, exchange, large.files)
        done.add_done_callback(lambda made: self._go_on(made, exchange, large, size, again))

    def _go_on(
        self, made: "asyncio.Future[Decoded]", exchange: Exchange, large: Large, size: int, again: Callable[[], None]
    ) -> None:
        self._requests -= 1
        self._bytes -= size
        if made.cancelled():
            return
        decoded = made.result()
        if len(decoded) < len(large.files):
            exchange.refuse(503, "Its pictures were still being decoded at the deadline.", reason="deadline")
            return
        before = _known.set((*large.known, (large.files, decoded)))
        try:
            again()
        finally:
            _known.reset(before)


def _decode(exchange: Exchange, files: Files) -> Decoded:
    """Fewer than there are files, where nobody waits any more."""
    found: Decoded = []
    for data, form in files:
        if exchange.response is not None or (exchange.deadline != NEVER and perf_counter() > exchange.deadline):
            break
        try:
            found.append(images.decode(data, form).tobytes())
        except images.NotAnImage as error:
            found.append(error)
    return found
