"""Many connections that say what no client should, and a strict reader of what was said. Knows nothing of the server.

`volley` sends shots and gathers what came back, `requests_in` says which requests RFC 9112 lets anybody see in the
same bytes: whoever answers more has taken one client's bytes for another's.
"""

import json
import os
import re
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

PATIENCE = 20.0
WIDTH = 48
TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
START = re.compile(rb"([!-~]+) +([!-~]+) +HTTP/(\d)\.(\d)")
CHUNK = re.compile(rb"([0-9A-Fa-f]+)(;[\t\x20-\x7e\x80-\xff]*)?")


@dataclass(slots=True)
class Shot:
    """What one connection sends, piece by piece. ``leaves``: it resets the connection without reading."""

    pieces: list[bytes]
    name: str = ""
    leaves: bool = False
    refused: bool = False
    """After ``sound`` requests that are answered it must get one 4xx and an end."""
    sound: int = 0

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)


@dataclass(slots=True)
class Outcome:
    shot: Shot
    received: bytes
    seconds: float
    ended: str
    """eof, reset or silence."""
    answers: list[tuple[int, bytes]] = field(default_factory=list)


def volley(port: int, shots: Iterable[Shot], width: int = WIDTH) -> Iterator[Outcome]:
    """Send every shot on a connection of its own, ``width`` at a time; each with what came back until the end."""
    waiting = iter(shots)
    flights: dict[int, _Flight] = {}
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                while len(flights) < width and (shot := next(waiting, None)) is not None:
                    flight = _Flight(port, shot)
                    flights[flight.socket.fileno()] = flight
                    selector.register(flight.socket, selectors.EVENT_READ | selectors.EVENT_WRITE)
                if not flights:
                    return
                landed: list[tuple[int, str]] = []
                for key, events in selector.select(1.0):
                    flight = flights[key.fd]
                    ended = flight.step(events)
                    if ended is not None:
                        landed.append((key.fd, ended))
                    elif flight.sent and key.events != selectors.EVENT_READ:
                        selector.modify(flight.socket, selectors.EVENT_READ)
                late = time.monotonic() - PATIENCE
                landed += [(place, "silence") for place, flight in flights.items() if flight.began < late]
                for place, ended in dict(reversed(landed)).items():
                    flight = flights.pop(place)
                    selector.unregister(flight.socket)
                    yield flight.land(ended)
        finally:
            for flight in flights.values():
                flight.socket.close()


class _Flight:
    def __init__(self, port: int, shot: Shot) -> None:
        self.shot = shot
        self.began = time.monotonic()
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.sent = False
        self._pieces = [memoryview(piece) for piece in reversed(shot.pieces) if piece]
        self._received: list[bytes] = []

    def step(self, events: int) -> str | None:
        """Send a piece, take what came. How it ended, if it did."""
        try:
            if events & selectors.EVENT_READ:
                part = self.socket.recv(1 << 18)
                if not part:
                    return "eof"
                self._received.append(part)
            if events & selectors.EVENT_WRITE and not self.sent:
                self._send()
                if self.sent and self.shot.leaves:
                    self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return "left"
        except BlockingIOError:
            return None
        except OSError:
            # Nobody takes any more of what we say; what was said to us may still be there.
            return "reset" if self.sent or not self._drain() else "eof"
        return None

    def _send(self) -> None:
        if self._pieces:
            piece = self._pieces.pop()
            rest = piece[self.socket.send(piece) :]
            if rest:
                self._pieces.append(rest)
        if not self._pieces:
            self.sent = True
            if not self.shot.leaves:
                self.socket.shutdown(socket.SHUT_WR)

    def _drain(self) -> bool:
        self.socket.settimeout(PATIENCE)
        try:
            while part := self.socket.recv(1 << 18):
                self._received.append(part)
        except OSError:
            return False
        return True

    def land(self, ended: str) -> Outcome:
        self.socket.close()
        received = b"".join(self._received)
        return Outcome(self.shot, received, time.monotonic() - self.began, ended, list(answers_in(received)))


def answers_in(received: bytes) -> Iterator[tuple[int, bytes]]:
    """Status and body of each whole answer; interim ones are left out. To HEAD there is none of ours here."""
    place = 0
    while place < len(received):
        end = received.find(b"\r\n\r\n", place)
        if end < 0:
            return
        head = received[place:end]
        assert head.startswith(b"HTTP/1.1 "), head[:200]
        status = int(head[9:12])
        place = end + 4
        if status < 200:
            continue
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length is not None, head
        stop = place + int(length[1])
        if stop > len(received):
            return
        yield status, received[place:stop]
        place = stop


# What was said


@dataclass(frozen=True, slots=True)
class Request:
    method: bytes
    target: bytes
    body: bytes

    @property
    def marked(self) -> str | None:
        """The key in its body, if it has one."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value.get("k") if isinstance(value, dict) else None


class Unclear(Exception):
    """Nobody may say where this message ends, or whether it is one."""


def requests_in(data: bytes) -> tuple[list[Request], bool]:
    """The requests that are whole and clear, up to the first that is not; and whether all of ``data`` was clear.

    Lenient only where RFC 9112 lets a reader be: empty lines before a request, more than one space in its first line.
    """
    found: list[Request] = []
    place = 0
    try:
        while True:
            while data[place : place + 1] in (b"\r", b"\n") and place < len(data):
                place += 1
            if place >= len(data):
                return found, True
            request, place, last = _request(data, place)
            found.append(request)
            if last:
                return found, True
    except Unclear:
        return found, False


def _line(data: bytes, place: int) -> tuple[bytes, int]:
    end = data.find(b"\n", place)
    if end < 0 or data[end - 1 : end] != b"\r" or end == place:
        raise Unclear
    return data[place : end - 1], end + 1


def _request(data: bytes, place: int) -> tuple[Request, int, bool]:
    line, place = _line(data, place)
    start = START.fullmatch(line)
    if start is None or (start[3], start[4]) not in ((b"1", b"0"), (b"1", b"1")) or start[1] == b"CONNECT":
        raise Unclear
    old = start[4] == b"0"
    headers: list[tuple[bytes, bytes]] = []
    while True:
        line, place = _line(data, place)
        if not line:
            break
        name, colon, value = line.partition(b":")
        value = value.strip(b" \t")
        if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value):
            raise Unclear
        headers.append((name.lower(), value))
    if [name for name, _ in headers].count(b"host") != 1 and not (old and b"host" not in dict(headers)):
        raise Unclear
    lengths = [value for name, value in headers if name == b"content-length"]
    codings = [value.lower() for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if lengths or codings != [b"chunked"] or old:
            raise Unclear
        body, place = _chunks(data, place)
    else:
        if len(lengths) > 1 or any(not each.isdigit() for each in lengths):
            raise Unclear
        size = int(lengths[0]) if lengths else 0
        body = data[place : place + size]
        if len(body) < size:
            raise Unclear
        place += size
    options = [each.strip().lower() for name, value in headers if name == b"connection" for each in value.split(b",")]
    last = b"close" in options or (old and b"keep-alive" not in options)
    return Request(start[1], start[2], body), place, last


def _chunks(data: bytes, place: int) -> tuple[bytes, int]:
    parts = []
    while True:
        line, place = _line(data, place)
        size = CHUNK.fullmatch(line)
        if size is None:
            raise Unclear
        count = int(size[1], 16)
        if not count:
            break
        parts.append(data[place : place + count])
        if data[place + count : place + count + 2] != b"\r\n":
            raise Unclear
        place += count + 2
    while True:
        line, place = _line(data, place)
        if not line:
            return b"".join(parts), place
        name, colon, value = line.partition(b":")
        if not colon or not TOKEN.fullmatch(name) or not VALUE.fullmatch(value.strip(b" \t")):
            raise Unclear


# What a server is


def memory(process: int) -> int:
    """Resident bytes."""
    with open(f"/proc/{process}/statm", "rb") as file:  # noqa: PTH123  (read thousands of times)
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def most_memory(process: int) -> int:
    """The most bytes that were ever resident."""
    with open(f"/proc/{process}/status", "rb") as file:  # noqa: PTH123
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(b"VmHWM"))


def descriptors(process: int) -> int:
    return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208
