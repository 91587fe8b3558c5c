"""Load on a server: whole requests in turn, one at a time on each connection. Knows nothing of what they ask.

wrk does it where it is installed (4–5 µs a request, against about 20 of the Python client that stands in for it). A
load that could not keep up says so: ``client`` near 1 means that the server may have had to wait for it. wrk corrects
its percentiles for requests that it should have sent while it waited; the Python client does not.
"""

import json
import multiprocessing
import os
import select
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LUA = Path(__file__).with_name("rotate.lua")
SATURATED = 0.95
NUMBER = b"@@@@@@@@"
"""Where a message has this stands a number that no other request has."""
Messages = Sequence[bytes]


@dataclass(frozen=True, kw_only=True)
class Load:
    """Latencies in milliseconds. ``refused``: answers that are not 2xx or 3xx; ``broken``: connections that failed."""

    answers: int
    seconds: float
    refused: int
    broken: int
    late: int
    p50: float
    p90: float
    p99: float
    longest: float
    client: float
    """CPU seconds of the client a second."""

    @property
    def good(self) -> int:
        return self.answers - self.refused

    @property
    def failures(self) -> int:
        return self.refused + self.broken + self.late


def generator() -> str:
    return "wrk" if shutil.which("wrk") else "python"


class Loader:
    """``messages``: whole HTTP requests. They lie in a file as long as this lives. Use with ``with``."""

    def __init__(self, messages: Messages, *, secure: bool = False) -> None:
        self.messages = list(messages)
        self._scheme = "https" if secure else "http"
        with tempfile.NamedTemporaryFile(suffix=".requests", delete=False) as file:
            for each in self.messages:
                file.write(b"%d\n" % len(each) + each)
        self.file = Path(file.name)
        self._turn = 0

    def run(self, port: int, connections: int, seconds: float, core: int | None) -> Load:
        """Load ``port`` for ``seconds``, from ``core``. Each run goes on with the messages where the last one ended."""
        self._turn = (self._turn + 97) % len(self.messages)
        run = self._wrk if generator() == "wrk" else self._python
        return run(port, connections, seconds, core)

    def _wrk(self, port: int, connections: int, seconds: float, core: int | None) -> Load:
        command = [
            "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "20s", "-s", str(LUA),
            f"{self._scheme}://127.0.0.1:{port}/", "--", str(self.file), str(self._turn),
        ]  # fmt: skip
        pin = (lambda: os.sched_setaffinity(0, {core})) if core is not None else None
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=pin)
        with process.stdout as output, process.stderr as errors:  # type: ignore[union-attr]
            said, wrong = output.read(), errors.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        line = said.strip().rpartition(b"\n")[2]
        if process.returncode or not line.startswith(b"{"):
            raise RuntimeError(f"wrk failed: {(said + wrong).decode(errors='replace')[-500:]}")
        found = json.loads(line)
        return Load(**found, client=(used.ru_utime + used.ru_stime) / found["seconds"])

    def _python(self, port: int, connections: int, seconds: float, core: int | None) -> Load:
        if self._scheme == "https":
            raise RuntimeError("load by TLS needs wrk; install it (apt-get install wrk)")
        ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("fork")
        messages = self.messages[self._turn :] + self.messages[: self._turn]
        client = context.Process(target=_send, args=(port, messages, connections, seconds, core, theirs))
        client.start()
        found: Load | str = ours.recv()
        client.join()
        if isinstance(found, str):
            raise RuntimeError(found)
        return found

    def close(self) -> None:
        self.file.unlink(missing_ok=True)

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _send(port: int, messages: Messages, connections: int, seconds: float, core: int | None, out: Any) -> None:
    try:
        out.send(_sent(port, messages, connections, seconds, core))
    except Exception as error:
        out.send(f"the client failed: {error!r}")


def _sent(port: int, messages: Messages, connections: int, seconds: float, core: int | None) -> Load:
    if core is not None:
        os.sched_setaffinity(0, {core})
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    sent: dict[int, float] = {}
    waiting: dict[int, bytes] = {}
    latencies: list[float] = []
    turn = refused = broken = 0

    def ask(number: int) -> None:
        nonlocal turn
        sent[number] = time.perf_counter()
        sockets[number].sendall(messages[turn % len(messages)].replace(NUMBER, b"%08x" % turn, 1))
        turn += 1

    def connect() -> None:
        each = socket.create_connection(("127.0.0.1", port))
        each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets[each.fileno()] = each
        poll.register(each, select.EPOLLIN)
        ask(each.fileno())

    began, used = time.perf_counter(), time.process_time()
    for _ in range(connections):
        connect()
    while (now := time.perf_counter()) < began + seconds:
        for number, _ in poll.poll(0.2):
            taken = sockets[number].recv(1 << 20)
            if not taken:
                broken += 1
                waiting.pop(number, None)
                poll.unregister(number)
                sockets.pop(number).close()
                connect()
                continue
            data = waiting.pop(number, b"") + taken
            head = data.find(b"\r\n\r\n")
            place = data.lower().find(b"content-length:", 0, head) if head >= 0 else -1
            if head < 0 or len(data) < head + 4 + int(data[place + 15 : data.find(b"\r", place)]):
                waiting[number] = data
                continue
            refused += not data.startswith((b"HTTP/1.1 2", b"HTTP/1.1 3"))
            latencies.append(time.perf_counter() - sent[number])
            ask(number)
    wall, used = now - began, time.process_time() - used
    ordered = sorted(latencies) or [float("nan")]

    def at(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] * 1e3

    for each in sockets.values():
        each.close()
    return Load(
        answers=len(latencies), seconds=wall, refused=refused, broken=broken, late=0, p50=at(0.5), p90=at(0.9),
        p99=at(0.99), longest=ordered[-1] * 1e3, client=used / wall,
    )  # fmt: skip
