"""HTTP/1.1 and 1.0 on an asyncio protocol: callbacks, no coroutine per request. Knows nothing of paths or predictions.

Requests on one connection may be pipelined; their answers go out in order. Whatever a client does wrong is answered
with a 4xx and, when the rest of the stream cannot be trusted, the connection is closed after it.
"""

import asyncio
from collections import deque
from time import perf_counter
from typing import Any, Protocol

import httptools

from everloop.errors import RequestError
from everloop.serve.bounds import EARLY_BYTES, Bounds
from everloop.serve.exchange import Exchange, Observer
from everloop.serve.heads import ALONE, LISTS, WANTED, Head, Headers, Heads, Place
from everloop.serve.urgency import GONE

PIPELINED = 128
"""Requests of one connection that may wait before it is no longer read."""
PIECE = 4 * 2**10
"""Bytes that are parsed at once, but for a body whose length is known: between two pieces it shows whether the client
has asked for too much already."""
TURN_SECONDS = 0.002
"""Requests of one connection that came together are worked on for so long before the others have their turn."""
PROBES = 2
PROBE_SECONDS = 0.05
"""How often, and with what pauses, a client that closed its side while it waits is asked whether it is still there."""
PARTS = 64
"""Parts of a body that are kept as they came; a body in smaller parts goes into one buffer: each part has its price."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Application(Protocol):
    """What answers. ``handle`` must not raise and must finish or refuse every exchange, now or later."""

    bounds: Bounds
    draining: bool
    observer: Observer | None
    tick: int
    refused: dict[tuple[int, str], int]
    connections: set["Connection"]

    def handle(self, exchange: Exchange, method: bytes, url: bytes, headers: Headers, body: bytes) -> None: ...

    def turned_away(self, exchange: Exchange, headers: Headers) -> RequestError | None:
        """Why a request need not be read to its end; header lines for that are written to the exchange."""
        ...


known = Heads()
"""Shared by all connections: what a head says does not depend on who sends it."""


class Connection(asyncio.Protocol):
    """One client. The parser calls the ``on_`` methods."""

    __slots__ = (
        "_began", "_body", "_body_bytes", "_bounds", "_chunked", "_completed", "_cutting", "_ended", "_headers", "_inside", "_lingers",
        "_near", "_parser", "_paused", "_queue", "_rest", "_stuck", "_unfinished", "_url", "application", "peer", "seen", "transport",
    )  # fmt: skip

    def __init__(self, application: Application) -> None:
        self.application = application
        self._bounds = application.bounds
        self.transport: Any = None
        self.peer = ""
        """The client's address, once somebody asked for it."""
        self.seen = 0
        """The tick of the last byte."""
        self._queue: deque[Exchange] = deque()
        self._parser = httptools.HttpRequestParser(self)
        self._paused = False
        """The transport does not read for now."""
        self._stuck = False
        """The client does not read what we write."""
        self._ended = False
        """Nothing more is read: the connection closes when what waits is answered."""
        self._inside = False
        """The parser is in the middle of a request."""
        self._near: Place = (0, 0, 0)
        """Where the last head ended."""
        self._completed: Head | None = None
        """The last request that the parser found whole, if its head may be known from then on."""
        self._unfinished = 0
        """Bytes of a request that is not whole yet."""
        self._began = 0
        """The tick of its first byte."""
        self._lingers = False
        """The last answer is out; what still comes is read and thrown away, so that the client gets to read it."""
        self._cutting = False
        """What was received is handed on piece by piece."""
        self._rest: memoryview | None = None
        """What was received and is not parsed while the connection is paused."""
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: Headers = {}
        self._body: list[Any] = []
        self._body_bytes = 0
        self._chunked = False
        """A chunk has begun: whatever header comes now is a trailer."""

    # What the transport calls

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.seen = self.application.tick
        self.application.connections.add(self)
        excess = len(self.application.connections) - self._bounds.connections
        if excess > self._bounds.connections:
            transport.abort()  # also those who are told why take room
        elif excess > 0:
            self._reject(
                503,
                f"More than {self._bounds.connections} connections are open here; try again in a moment.",
                reason="connections",
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self.application.connections.discard(self)
        for exchange in self._queue:
            exchange.deadline = GONE

    def data_received(self, data: bytes | memoryview) -> None:
        if self._ended:
            return
        if len(data) > PIECE and not self._cutting:
            self._in_pieces(memoryview(data))
            return
        self.seen = self.application.tick
        fresh = not self._inside
        if fresh:
            if type(data) is bytes:
                data = self._take_known(data)
                if not data:
                    if len(self._queue) > PIPELINED:
                        self._pause()
                    return
            self._began = self.seen
            self._unfinished = 0
        self._unfinished += len(data)
        self._completed = None
        try:
            self._feed(data)
        except httptools.HttpParserError as error:
            self._reject(400, f"This is not HTTP as it should be: {error}.")
        if fresh and type(data) is bytes and self._completed is not None and not (self._inside or self._ended):
            self._learn(data, self._completed)
        if self._unfinished - self._body_bytes > self._bounds.header_bytes + 16 * self._body_bytes:
            self._reject(431, f"The header is longer than {self._bounds.header_bytes} bytes.")
        if len(self._queue) > PIPELINED:
            self._pause()

    def _in_pieces(self, data: memoryview) -> None:
        end = perf_counter() + TURN_SECONDS
        while data and not self._ended:
            if self._paused:
                self._rest = data
                return
            size = self._piece()
            self._cutting = True
            self.data_received(data[:size])
            self._cutting = False
            data = data[size:]
            if data and not self._paused and perf_counter() > end:
                self._pause()
                self._rest = data
                asyncio.get_running_loop().call_soon(self._go_on)
                return

    def _piece(self) -> int:
        if self._inside and not self._chunked:
            length = self._headers.get(b"content-length", b"0")
            return max(PIECE, int(length) - self._body_bytes) if length.isdigit() else PIECE
        return PIECE

    def _go_on(self) -> None:
        if self._rest and not self._stuck and len(self._queue) <= PIPELINED:
            self._resume()

    def _take_known(self, data: bytes) -> bytes:
        """Take the requests at the beginning of ``data`` whose heads are known and whose bodies are there; the rest."""
        while data:
            found = known.near(data, self._near) or known.find(data)
            if found is None:
                return data
            head, headers, self._near = found
            end = self._near[0]
            whole = end + head.length
            if whole == len(data):
                body, data = data[end:], b""
            elif whole > len(data):
                return data
            else:
                body, data = data[end:whole], data[whole:]
            exchange = Exchange(self, head.method, head.url)
            exchange.plain, exchange.urgent = head.plain, head.urgent
            self._queue.append(exchange)
            self.application.handle(exchange, head.method, head.url, headers, body)
            if self._ended:
                return b""
        return data

    def _learn(self, data: bytes, head: Head) -> None:
        """Keep a head if ``data`` was it, its body and nothing else, all as plain as most requests are."""
        end = data.find(b"\r\n\r\n") + 4
        if end + head.length == len(data):
            known.learn(data[:end], head)

    def _feed(self, data: bytes | memoryview) -> None:
        while True:
            try:
                self._parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as upgrade:
                if self._parser.get_method() == b"CONNECT":
                    self._reject(400, "This is not a proxy: CONNECT has nothing to connect to.")
                    return
                # We may ignore an offer to upgrade (Java's client makes one with each first request), but the parser
                # has taken the body for the other protocol: the same request again, without the offer.
                data = self._without_upgrade() + data[upgrade.args[0] :]
                self._parser = httptools.HttpRequestParser(self)

    def _without_upgrade(self) -> bytes:
        parser = self._parser
        lines = [b"%b %b HTTP/%b" % (parser.get_method(), self._url, parser.get_http_version().encode())]
        left_out = (b"upgrade", b"connection", b"expect")  # the go-ahead was given when the header was first read
        lines += [b"%b: %b" % each for each in self._headers.items() if each[0] not in left_out]
        lines.append(b"connection: keep-alive" if parser.should_keep_alive() else b"connection: close")
        self._reset()
        return b"\r\n".join([*lines, b"", b""])

    def eof_received(self) -> bool:
        if self._queue and self.transport.can_write_eof():  # half closed, which TLS has not: it wants its answers
            self._ended = True
            self._probe(PROBES)
            return True
        return False

    def _probe(self, times: int) -> None:
        """Find out whether a client that has closed its side is still there: only what is written to it tells.

        The first interim answer makes the system of a client that left say so, the second is when we hear it.
        """

        def write() -> None:
            if self._queue and not self.transport.is_closing():
                self.transport.write(CONTINUE)
                if times > 1:
                    self._probe(times - 1)

        if self._parser.get_http_version() != "1.0":  # which knows no interim answers; a known head is never of it
            asyncio.get_running_loop().call_later(PROBE_SECONDS, write)

    def pause_writing(self) -> None:
        self._stuck = True
        self._pause()

    def resume_writing(self) -> None:
        self._stuck = False
        if not self._queue:
            self._resume()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            rest, self._rest = self._rest, None
            if rest:
                self._in_pieces(rest)
            if not (self._paused or self._ended):
                self.transport.resume_reading()

    # What the parser calls

    def on_message_begin(self) -> None:
        self._inside = True
        self._completed = None  # two in one piece: neither is learnt

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Too long a header is found in data_received: this runs several times a request.
        name = name.lower()
        if name in WANTED:
            headers = self._headers
            if name in headers or self._chunked:
                if self._chunked:  # a trailer says nothing here: no key, no version, no length
                    return
                if name not in LISTS:
                    self._reject(400, f"The header {name.decode()} is there twice; send it once.")
                    return
                value = headers[name] + b", " + value
            headers[name] = value
            if name == b"content-length":
                if value.isdigit() and int(value[:20]) > self._bounds.body_bytes:
                    most = self._bounds.body_bytes
                    self._reject(413, f"The body has {value.decode()} bytes; at most {most} are taken at once.")
            elif name == b"transfer-encoding":
                self._check_encoding(value)
            elif name == b"expect":
                self._go_ahead(value)

    def _go_ahead(self, expected: bytes) -> None:
        asked = expected.lower() == b"100-continue" and self._parser.get_http_version() == "1.1"
        if asked and not (self._queue or self._ended):
            self.transport.write(CONTINUE)

    def _check_encoding(self, value: bytes) -> None:
        # RFC 9112 §6.1 and §6.3: what we do not undo, and chunks in HTTP/1.0, make the end of the body a guess.
        if value.strip(b" \t").lower() != b"chunked":
            shown = value[:80].decode(errors="replace")
            self._reject(400, f"The transfer-encoding is {shown!r}; a body comes with a content-length or chunked.")
        elif self._parser.get_http_version() != "1.1":
            self._reject(400, "HTTP/1.0 knows no transfer-encoding; send a content-length.")

    def on_chunk_header(self) -> None:
        self._chunked = True

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        parts = self._body
        if self._body_bytes > self._bounds.body_bytes:
            most = self._bounds.body_bytes
            self._reject(413, f"The body is longer than the {most} bytes that are taken at once.")
            parts.clear()
        elif self._body_bytes - len(body) <= EARLY_BYTES < self._body_bytes and self._turned_away():
            parts.clear()
        elif len(parts) < PARTS:
            parts.append(body)
        elif len(parts) == PARTS:
            parts.append(bytearray(body))
        else:
            parts[PARTS] += body

    def _turned_away(self) -> bool:
        exchange = Exchange(self, self._parser.get_method(), self._url)
        error = self.application.turned_away(exchange, self._headers)
        if error is not None:
            self._reject(error.status, str(error), reason=error.reason, lines=exchange.lines)
        return error is not None

    def _sound(self, headers: Headers) -> bool:
        """Whether it is HTTP/1.0, or HTTP/1.1 with a host; refused when not."""
        version = self._parser.get_http_version()
        if version == "1.0" or (version == "1.1" and b"host" in headers):
            return True
        if version == "1.1":
            self._reject(400, "The request has no host header; send one.")
        else:
            self._reject(400, f"HTTP/{version} is not spoken here; send version 1.1.")
        return False

    def on_message_complete(self) -> None:
        parser, headers = self._parser, self._headers
        method: bytes = parser.get_method()
        if self._ended or method == b"CONNECT" or (b"upgrade" in headers and parser.should_upgrade()):
            return
        alive = parser.should_keep_alive()
        # Anything but HTTP/1.1 is kept alive only by a connection header.
        if (not alive or b"host" not in headers or b"connection" in headers) and not self._sound(headers):
            return
        self._inside = False
        self._unfinished = 0
        exchange = Exchange(self, method, self._url)
        if not alive:
            exchange.close = self._ended = True
        elif b"connection" in headers:
            exchange.kept = parser.get_http_version() == "1.0"
        exchange.bare = method == b"HEAD"
        self._queue.append(exchange)
        parts = self._body
        url, body = self._url, parts[0] if len(parts) == 1 else b"".join(parts)
        plain = not (exchange.close or exchange.kept or exchange.bare) and ALONE.isdisjoint(headers)
        if plain and headers.get(b"content-length", b"0") == b"%d" % len(body):
            self._completed = Head(method, url, headers, len(body))
        self._reset()
        self.application.handle(exchange, method, url, headers, body)

    # Answers

    def send(self) -> None:
        """Write every answer whose turn it is."""
        queue, transport = self._queue, self.transport
        if len(queue) == 1 and not (self._ended or self._paused):  # by far the most frequent case
            (response, close) = queue[0].response, queue[0].close
            if response is not None and not close:
                queue.popleft()
                transport.write(response)
                return
        while queue and (response := queue[0].response) is not None:
            close = queue.popleft().close
            if transport.is_closing():
                continue
            transport.write(response)
            if close:
                self._ended = True
                queue.clear()
                if transport.can_write_eof():
                    # RFC 9112 §9.6: to close at once costs the answer, where the client still sends.
                    self._lingers = True
                    self.seen = self.application.tick
                    transport.write_eof()
                    if self._paused:
                        self._paused, self._rest = False, None
                        transport.resume_reading()
                else:  # TLS
                    transport.close()
                return
        if not queue:
            if self._ended:
                transport.close()
            elif self._paused and not self._stuck:
                self._resume()

    def _reject(self, status: int, message: str, *, reason: str = "", lines: bytes = b"") -> None:
        """Answer to a stream that cannot be read on: after what already waits, then close."""
        if self._ended:
            return
        self._ended = True
        exchange = Exchange(self)
        exchange.close = True
        exchange.observer = self.application.observer
        exchange.lines = lines
        self._queue.append(exchange)
        exchange.refuse(status, message, reason=reason)

    # What the application calls

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return len(self._queue)

    def look_at_time(self) -> None:
        """Close what has rested for too long, or what never becomes a whole request."""
        bounds = self._bounds
        silent = self.application.tick - self.seen
        if self._lingers:
            if silent > bounds.linger_ticks:
                self.transport.abort()
            return
        if self._stuck:
            if silent > bounds.idle_ticks:
                self.transport.abort()
        elif self._queue:
            pass  # it waits for us
        elif self._unfinished:
            if self.application.tick - self._began > bounds.request_ticks:
                self._reject(408, f"The request was not whole after {bounds.request_seconds:g} seconds.")
        elif silent > bounds.idle_ticks:
            self.transport.close()

    def end(self) -> None:
        """Read nothing more; close when what waits is answered."""
        self._ended = True
        if not self._queue:
            self.transport.close()
