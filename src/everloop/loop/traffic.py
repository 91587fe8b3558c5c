"""Sends a history's rows to a server as its clients would have: one row a request, pipelined on one connection.

Knows the wire, nothing of models or of time. Uses the channel that takes event times, which only replay opens.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from typing import Any

import httptools
import msgspec

from everloop.clock import instant
from everloop.errors import ServeError

BURST = 256
"""Requests on the wire at once: enough to keep both sides busy, few enough to fit the socket buffers' patience."""


class Answer(msgspec.Struct):
    id: str = ""
    version: int = 0
    decision: Any = None
    probability: dict[str, float] | None = None
    value: float | None = None
    error: str | None = None


class _Responses:
    """Collects whole responses from the parser's callbacks."""

    def __init__(self) -> None:
        self.bodies: list[tuple[int, bytes]] = []
        self._parts: list[bytes] = []
        self.parser = httptools.HttpResponseParser(self)

    def on_body(self, body: bytes) -> None:
        self._parts.append(body)

    def on_message_complete(self) -> None:
        self.bodies.append((self.parser.get_status_code(), b"".join(self._parts)))
        self._parts = []


class Traffic:
    """One keep-alive connection to the server on loopback."""

    def __init__(self, port: int, loop: str, token: str) -> None:
        self._address = ("127.0.0.1", port)
        self._loop = loop
        self._token = token
        self._socket: socket.socket | None = None
        self.requests = 0
        self.failed = 0
        self._decoder = msgspec.json.Decoder(Answer)

    def predict(self, rows: Sequence[dict[str, Any]], at: Sequence[int], ids: Sequence[str]) -> list[Answer]:
        """Answers in the order of ``rows``; ``at`` are event times in microseconds since 1970 in UTC.

        An answer that is not a success carries ``error``.
        """
        answers: list[Answer] = []
        encode = msgspec.json.Encoder().encode
        head = (
            f"POST /predict/{self._loop} HTTP/1.1\r\nhost: loopback\r\ncontent-type: application/json\r\n"
            f"x-everloop-replay: {self._token}\r\nx-everloop-event-time: "
        ).encode()
        for start in range(0, len(rows), BURST):
            messages = []
            stop = start + BURST
            for row, time, key in zip(rows[start:stop], at[start:stop], ids[start:stop], strict=True):
                body = encode(row)
                line = b"%b%d\r\nx-prediction-id: %b\r\ncontent-length: %d\r\n\r\n"
                messages.append(line % (head, time, key.encode(), len(body)) + body)
            for status, body in self._exchange(b"".join(messages), len(messages)):
                answers.append(self._answer(status, body))
        self.requests += len(rows)
        return answers

    def outcomes(
        self, ids: Sequence[str], values: Sequence[Any], at: Sequence[int], *, names: Sequence[str] | None = None
    ) -> None:
        """Report what came true; returns once the server has it on disk. ``names`` of the outcomes; None: the label's."""
        for start in range(0, len(ids), 5_000):
            stop = start + 5_000
            content = [
                {"id": key, "value": value, "at": instant(time).isoformat()}
                for key, value, time in zip(ids[start:stop], values[start:stop], at[start:stop], strict=True)
            ]
            if names is not None:
                content = [{**each, "name": name} for each, name in zip(content, names[start:stop], strict=True)]
            body = msgspec.json.encode(content)
            head = (
                f"POST /outcomes/{self._loop} HTTP/1.1\r\nhost: loopback\r\ncontent-type: application/json\r\n"
                f"x-everloop-replay: {self._token}\r\ncontent-length: {len(body)}\r\n\r\n"
            )
            ((status, answer),) = self._exchange(head.encode() + body, 1)
            if status != 200:
                raise ServeError(f"The server refused {len(content)} outcomes with {status}: {answer[:300]!r}")

    def settle(self) -> None:
        """Return once all that was asked before is in the server's log."""
        head = f"POST /settled/{self._loop} HTTP/1.1\r\nhost: loopback\r\nx-everloop-replay: {self._token}\r\ncontent-length: 0\r\n\r\n"
        ((status, answer),) = self._exchange(head.encode(), 1)
        if status != 200:
            raise ServeError(f"The server could not write its log ({status}): {answer[:300]!r}")

    def _answer(self, status: int, body: bytes) -> Answer:
        if status == 200:
            return self._decoder.decode(body)
        self.failed += 1
        return Answer(error=f"{status}: {body[:300].decode('utf-8', 'replace')}")

    def _exchange(self, message: bytes, count: int) -> list[tuple[int, bytes]]:
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self.close()  # nothing was asked, so it was closed: a long fit lay between, and connections rest so long only
        if self._socket is None:
            self._socket = socket.create_connection(self._address, timeout=60)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(message)
        responses = _Responses()
        while len(responses.bodies) < count:
            data = self._socket.recv(1 << 18)
            if not data:
                self.close()
                raise ServeError(f"The server closed the connection after {len(responses.bodies)} of {count} answers.")
            responses.parser.feed_data(data)
        return responses.bodies

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
