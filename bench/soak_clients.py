"""The clients of the soak: one that asks and waits, and one that leaves, talks nonsense or too much.

Knows nothing of releases, processes and the log: `bench.soak` holds what they saw against those.
"""

import json
import random
import selectors
import socket
import struct
import threading
import time
from array import array
from collections import Counter
from contextlib import suppress
from typing import Any

from everloop.testing.serving import expected, message

RUDE_SECONDS = 0.02
PATIENCE = 20.0
X = 0.25
MOVES = 500
"""Requests of one connection before it is made anew."""


class Load(threading.Thread):
    """A closed loop of ``connections``: each sends a request, waits for its answer and sends the next."""

    def __init__(self, port: int, connections: int) -> None:
        super().__init__(name="load", daemon=True)
        self.stopping = threading.Event()
        self.failures: list[str] = []
        self.sent: list[array[float]] = [array("d") for _ in range(connections)]
        self.received: list[array[float]] = [array("d") for _ in range(connections)]
        """Of each request of each connection; NaN where no answer came."""
        self.versions: list[bytearray] = [bytearray() for _ in range(connections)]
        self.begins: list[list[int]] = [[] for _ in range(connections)]
        """Of each connection, the turns at which it was made anew: between two of them one process answered all."""
        self._port = port
        self._known: dict[bytes, int] = {}

    def run(self) -> None:
        try:
            with selectors.DefaultSelector() as selector:
                for number in range(len(self.sent)):
                    self._connect(selector, number)
                while not self.stopping.is_set():
                    for key, _ in selector.select(0.1):
                        self._read(selector, key.fileobj, key.data)
                end = time.monotonic() + PATIENCE
                while selector.get_map() and time.monotonic() < end:  # what is on its way still counts
                    for key, _ in selector.select(0.1):
                        self._read(selector, key.fileobj, key.data)
                for key in list(selector.get_map().values()):
                    self.failures.append(f"no answer within {PATIENCE} s")
                    key.fileobj.close()  # type: ignore[union-attr]
        except Exception as error:
            self.failures.append(f"the load ended: {error!r}")

    def _connect(self, selector: selectors.BaseSelector, number: int) -> None:
        end = time.monotonic() + PATIENCE
        while True:
            connection = socket.socket()
            connection.settimeout(PATIENCE)
            try:
                connection.connect(("127.0.0.1", self._port))
                break
            except OSError:  # killed between the kernel's word and ours
                connection.close()
                if time.monotonic() > end:
                    raise
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection, selectors.EVENT_READ, (number, bytearray()))
        self.begins[number].append(len(self.sent[number]))
        self._ask(selector, connection, number)

    def _ask(self, selector: selectors.BaseSelector, connection: Any, number: int) -> None:
        turn = len(self.sent[number])
        self.sent[number].append(time.monotonic())
        self.received[number].append(float("nan"))
        self.versions[number].append(0)
        with suppress(OSError):  # then the next look at it finds it closed
            connection.sendall(message("POST", "/predict/made", b'{"x":0.25,"k":"%d-%d"}' % (number, turn)))

    def _read(self, selector: selectors.BaseSelector, connection: Any, data: tuple[int, bytearray]) -> None:
        number, buffer = data
        try:
            part = connection.recv(1 << 16)
        except OSError:
            part = b""
        if not part:
            selector.unregister(connection)
            connection.close()
            if not self.stopping.is_set():
                self._connect(selector, number)
            return
        buffer += part
        head = buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        place = buffer.find(b"content-length: ") + 16
        whole = head + 4 + int(buffer[place : buffer.find(b"\r", place)])
        if len(buffer) < whole:
            return
        self._take(number, bytes(buffer[:head]), bytes(buffer[head + 4 : whole]))
        del buffer[:whole]
        # A new connection now and then: else all of them would end up at the process that is never killed.
        moves = len(self.sent[number]) % MOVES == number
        if self.stopping.is_set() or moves or b"connection: close" in part:
            selector.unregister(connection)
            connection.close()
            if not self.stopping.is_set():
                self._connect(selector, number)
        else:
            self._ask(selector, connection, number)

    def _take(self, number: int, head: bytes, body: bytes) -> None:
        turn = len(self.sent[number]) - 1
        now = time.monotonic()
        key = b'{"id":"%d-%d"' % (number, turn)
        rest = body[len(key) :]
        version = self._known.get(rest)
        if version is None and head.startswith(b"HTTP/1.1 200 "):
            told = json.loads(body)
            version = int(told["version"])
            if abs(told["probability"]["true"] - expected(X + version)) > 1e-12:
                self.failures.append(f"version {version} answered {told['probability']}")
            self._known[rest] = version
        if version is None or not body.startswith(key):
            self.failures.append(f"{head[:60]!r} {body[:200]!r}")
            return
        self.received[number][turn] = now
        self.versions[number][turn] = version


class Rude(threading.Thread):
    """Clients that leave in the middle, and clients that say what nobody should."""

    def __init__(self, port: int) -> None:
        super().__init__(name="rude", daemon=True)
        self.stopping = threading.Event()
        self.failures: list[str] = []
        self.statuses: Counter[int] = Counter()
        self.left = 0
        self._port = port
        self._dice = random.Random(3)

    def run(self) -> None:
        while not self.stopping.wait(RUDE_SECONDS):
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=PATIENCE) as connection:
                    self._behave(connection, self._dice.randrange(8))
            except TimeoutError:
                self.failures.append("a rude client was neither answered nor sent away")
            except OSError:
                self.left += 1  # killed, or it did not let us finish

    def _behave(self, connection: socket.socket, way: int) -> None:
        one = message("POST", "/predict/made", {"x": X, "k": f"rude-{self._dice.random()}"})
        many = message("POST", "/predict/made", [{"x": X, "k": f"rude-{self._dice.random()}"} for _ in range(500)])
        malformed = [
            b"GET / HTTP/1.1\nhost: a\n\n", one.replace(b"host: test", b"host: test\r\ntransfer-encoding: chunked"),
            one.replace(b"host", b"ho st"), b"\x16\x03\x01" + bytes(50), one.replace(b"content-length: ", b"content-length: -"),
            message("POST", "/predict/made", b'{"x": NaN'), message("POST", "/predict/made", {"x": "a"}),
            message("POST", "/nowhere", {}), message("POST", "/v2/models/made/infer", {"inputs": [{}]}), b"[" * 5000,
        ]  # fmt: skip
        oversized = [
            b"POST /predict/made HTTP/1.1\r\nhost: a\r\ncontent-length: 99999999999\r\n\r\n",
            b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nhost: a\r\n\r\n", one.replace(b"host: test", b"host: test\r\n" + b"x: y\r\n" * 20_000),
            message("POST", "/predict/made", b"[" + b"{}," * 30_000 + b"{}]"),
        ]  # fmt: skip
        if way == 0:  # half a request
            connection.sendall(one[: self._dice.randrange(1, len(one))])
        elif way == 1:  # a request, and gone
            connection.sendall(one)
        elif way == 2:  # in the middle of the answer
            connection.sendall(many * 4)
            connection.recv(100)
        elif way == 3:  # and without a word
            connection.sendall(many)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif way == 4:  # connected for nothing
            pass
        else:
            connection.sendall(self._dice.choice(oversized if way == 5 else malformed))
            connection.shutdown(socket.SHUT_WR)
            told = b""
            while part := connection.recv(1 << 16):
                told += part
            if told:
                status = int(told[9:12])
                self.statuses[status] += 1
                if not 400 <= status < 500:
                    self.failures.append(f"what nobody should say was answered {told[:200]!r}")
            return
        self.left += 1
