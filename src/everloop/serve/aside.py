"""Pictures that take long to decode, decoded by threads beside the event loop while it answers others.

Small ones are decoded where they are read: to change the thread costs more. A request with much to decode is given up
by `pictures` with `Large` and goes through its handler once more when all is decoded. Knows nothing of what is asked.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar

from everloop.errors import RequestError
from everloop.forms import Image
from everloop.measure import images
from everloop.serve.exchange import Exchange
from everloop.serve.journal import say
from everloop.serve.parked import Cause, Parked

HERE = 2**16
"""So much `work` of one request is done in the event loop: 1.6 ms of a PNG, .6 ms of a JPEG."""
MOST = 4 * images.LARGEST_PIXELS
"""More `work` is not taken in one request: 3 s of a core. A flat PNG of 100 KB may be 33 megapixels."""
THREADS = 2
"""A PNG of the largest size that is taken needs a hundred megabytes while it is decoded."""
DECODING = Cause(
    now="The pictures of other requests are being decoded",
    at_deadline="Its pictures were still being decoded at the deadline.",
    reason="decoding",
    requests=64,
)

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
    """Requests whose pictures are being decoded. Made anywhere, used in one event loop."""

    def __init__(self) -> None:
        self._threads: ThreadPoolExecutor | None = None
        self._parked = Parked(DECODING)

    def add(self, exchange: Exchange, large: Large, again: Callable[[], None]) -> None:
        """``again`` is called when all is decoded. Raises RequestError (503) when too many wait, or it comes too late."""

        def known() -> None:
            failed = asyncio.CancelledError() if made.cancelled() else made.exception()
            if failed is not None:
                say("decoding failed", error=repr(failed))
                exchange.refuse(500, "The server failed on this request; its log says more.")
                return
            before = _known.set((*large.known, (large.files, made.result())))
            try:
                again()
            finally:
                _known.reset(before)

        self._parked.add(exchange, sum(len(data) for data, _ in large.files), known)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1), "picture")
        made = asyncio.get_running_loop().run_in_executor(self._threads, _decode, exchange, large.files)
        made.add_done_callback(lambda _: self._parked.go_on_with(exchange))


def _decode(exchange: Exchange, files: Files) -> Decoded:
    """Fewer than there are files, where nobody waits any more."""
    found: Decoded = []
    for data, form in files:
        if exchange.response is not None:
            break
        try:
            found.append(images.decode(data, form).tobytes())
        except images.NotAnImage as error:
            found.append(error)
    return found
