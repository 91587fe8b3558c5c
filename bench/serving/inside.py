"""What a request costs in the server's own code: parser, gate, rows, graph, answer, without sockets or system calls.

The server's own parts, as `everloop.serve.process` puts them together, are fed from memory, 64 requests at a time. The
least of many short measurements is taken: on a wire a single microsecond is lost in the noise.
Run as a process of its own: python -m bench.serving.inside ROUNDS HOME=REQUESTS … prints µs a request for each home.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.serving.load import NUMBER

from everloop.serve import settings
from everloop.serve.http import Connection
from everloop.serve.process import Process, Settings
from everloop.store.home import Home

TOGETHER = 64
SECONDS = 0.1
IDS = 16
"""Every row comes with so many request ids."""


def microseconds(homes: Mapping[Path, Path], *, rounds: int, core: int) -> list[float]:
    """Of each home (with its settings.json) for the whole requests in a file, as `Loader` writes it."""
    command = [
        sys.executable,
        "-m",
        "bench.serving.inside",
        str(rounds),
        *(f"{home}={sent}" for home, sent in homes.items()),
    ]
    said = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    ).stdout  # fmt: skip
    found: list[float] = json.loads(said)
    return found


class Wire:
    """A transport that counts answers."""

    def __init__(self) -> None:
        self.answers = 0
        self.last = b""

    def write(self, data: bytes) -> None:
        self.answers += 1
        self.last = bytes(data)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 1) if name in ("peername", "sockname") else default

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


class Inside:
    """A server without a socket."""

    def __init__(self, home: Path, sent: Path) -> None:
        file = home / "settings.json"
        self.process = Process(
            Settings(home=Home(home), loops=("bench",), server=settings.read(file), server_file=file)
        )
        self.process.loops.start()
        self.wires = [Wire() for _ in range(TOGETHER)]
        self.connections = [Connection(self.process.application) for _ in self.wires]
        for connection, wire in zip(self.connections, self.wires, strict=True):
            connection.connection_made(wire)
        # More than any server would remember: as on a wire, no request id comes twice.
        whole = read(sent)
        self.messages = [
            each.replace(NUMBER, b"%08x" % (n * len(whole) + m), 1) for n in range(IDS) for m, each in enumerate(whole)
        ]
        self.turn = 0

    def once(self) -> None:
        """One request on each connection, until all are answered."""
        loop, wires = self.process.loop, self.wires
        wanted = wires[-1].answers + 1
        for connection in self.connections:
            connection.data_received(self.messages[self.turn])
            self.turn = (self.turn + 1) % len(self.messages)
        while any(wire.answers < wanted for wire in wires):
            loop.call_soon(loop.stop)
            loop.run_forever()

    def measure(self) -> float:
        began, done = time.process_time(), 0
        while (now := time.process_time()) < began + SECONDS:
            self.once()
            done += TOGETHER
        return (now - began) / done * 1e6

    def close(self) -> None:
        for service in self.process.loops.services.values():
            service.close()


def read(file: Path) -> list[bytes]:
    found = []
    with file.open("rb") as opened:
        while length := opened.readline():
            found.append(opened.read(int(length)))
    return found


def main(rounds: int, pairs: list[str]) -> None:
    made = [Inside(*map(Path, pair.split("=", 1))) for pair in pairs]
    for each in made:
        each.once()
        if not each.wires[-1].last.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"not a success: {each.wires[-1].last[:300]!r}")
    gc.collect()
    gc.freeze()
    least = [min(each.measure() for _ in range(2)) for each in made]
    for _ in range(rounds):
        least = [min(before, each.measure()) for before, each in zip(least, made, strict=True)]
    for each in made:
        each.close()
    print(json.dumps(least))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
