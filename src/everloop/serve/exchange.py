"""A request that waits for its answer, and how an answer is written. Knows nothing of how requests are read."""

from collections.abc import Callable
from math import ceil
from time import perf_counter
from typing import Any, Protocol

import msgspec

from everloop.serve.urgency import NEVER, NORMAL

REASONS = {
    200: b"OK", 204: b"No Content", 304: b"Not Modified", 400: b"Bad Request", 401: b"Unauthorized", 403: b"Forbidden", 404: b"Not Found", 405: b"Method Not Allowed",
    408: b"Request Timeout", 413: b"Content Too Large", 415: b"Unsupported Media Type",
    429: b"Too Many Requests", 431: b"Request Header Fields Too Large", 499: b"Client Closed Request", 500: b"Internal Server Error", 503: b"Service Unavailable",
    507: b"Insufficient Storage",
}  # fmt: skip
REFUSALS = {
    401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method", 408: "timeout", 413: "too_large",
    429: "rate_limit", 431: "too_large", 500: "failed", 503: "unavailable", 507: "disk_full",
}  # fmt: skip
"""What a refusal is counted under when nothing more exact is said."""
OK_LINES = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
OK_BEGINS = [OK_LINES % length for length in range(2048)]
OK_HEADS = [begin + b"\r\n" for begin in OK_BEGINS]
"""The head of a good answer by the length of its body: put together once, not at each answer."""
JSON = b"application/json"
MESSAGE_LENGTH = 2_000


class Answering(Protocol):
    """What a connection answers for."""

    draining: bool
    refused: dict[tuple[int, str], int]


class Wire(Protocol):
    """Where an answer goes."""

    @property
    def application(self) -> Answering: ...

    @property
    def transport(self) -> Any: ...

    peer: str

    def send(self) -> None:
        """Write every answer whose turn it is."""
        ...


Observer = Callable[["Exchange", int, int], None]
"""Is told of an exchange, its status and the bytes of its body when it is answered."""


class Exchange:
    """A request that waits for its answer. ``arrived`` is on the clock of time.perf_counter."""

    # What most requests leave as it is stands on the class: an instance is made for every request.
    deadline = NEVER
    """An answer after this, on the same clock, is of no use."""
    priority = NORMAL
    caller: Any = None
    """Whoever asked, as the gate knows them; None: nobody was asked for a key."""
    kind = JSON
    """The content type of a good answer."""
    lines = b""
    """Whole header lines that go out with whatever is answered."""
    observer: "Observer | None" = None
    request_id = b""
    """What the access log, the answer and the client call this request; empty when nobody asked for one."""
    traced: Any = None
    """Its place in a trace; None: it is not traced."""
    ran: tuple[float, float] | None = None
    """When the model began and ended, for a request that is traced."""
    plain = False
    """None of the headers that make a request special is there (everloop.serve.heads)."""
    urgent = True
    """A deadline or a class may be among the headers."""
    response: bytes | None = None
    close = False
    bare = False
    """Answer without a body: to HEAD."""
    kept = False
    """Say that the connection stays open: HTTP/1.0 asks for it."""

    def __init__(self, connection: Wire, method: bytes = b"", url: bytes = b"") -> None:
        self.connection = connection
        self.method = method
        self.url = url
        self.arrived = perf_counter()

    def finish(self, status: int, body: bytes, kind: bytes = JSON, extra: bytes = b"") -> None:
        """Answer. ``extra`` are whole header lines."""
        if self.response is not None:
            return
        connection = self.connection
        if connection.application.draining:
            self.close = True
        extra += self.lines
        if kind is JSON:
            kind = self.kind
        if status == 200 and kind is JSON and not (self.close or self.bare or self.kept):
            length = len(body)
            if length >= 2048:
                self.response = b"%b%b\r\n%b" % (OK_LINES % length, extra, body)
            elif extra:
                self.response = OK_BEGINS[length] + extra + b"\r\n" + body
            else:
                self.response = OK_HEADS[length] + body
        else:
            if self.close:
                extra += b"connection: close\r\n"
            elif self.kept:
                extra += b"connection: keep-alive\r\n"
            self.response = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\ncontent-length: %d\r\n%b\r\n%b" % (
                status, REASONS[status], kind, len(body), extra, b"" if self.bare else body,
            )  # fmt: skip
        if self.observer is not None:
            self.observer(self, status, len(body))
        connection.send()

    def refuse(
        self, status: int, message: str, extra: bytes = b"", *, reason: str = "", retry_after: float | None = None
    ) -> None:
        """Answer with ``{"error": message}``; counted under ``reason``. ``retry_after`` is in seconds."""
        refused = self.connection.application.refused
        counted = (status, reason or REFUSALS.get(status, "invalid"))
        refused[counted] = refused.get(counted, 0) + 1
        if status in (429, 503):
            extra += b"retry-after: %d\r\n" % max(1, ceil(retry_after or 1))
        if len(message) > MESSAGE_LENGTH:  # a name in it may be as long as a body
            message = message[:MESSAGE_LENGTH] + "…"
        self.finish(status, msgspec.json.encode({"error": message}), JSON, extra)
