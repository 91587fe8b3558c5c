"""Ten minutes of all that goes wrong at once: is every answer right, and every acknowledged prediction in the log once?

Run: python -m bench.soak [--minutes 10] [--quick] [--json] [--processes 2] [--connections 32]

A real supervisor with its processes answers a closed loop of clients while the release file changes every second
between three sealed packages whose answers tell them apart, one of the processes is killed (SIGKILL) every twenty
seconds, other clients leave in the middle of a request or of an answer, and others again send what is malformed or too
large. One process is never killed: its memory and its files are held against what they were after a tenth of the time.

Held in the end: no answer with a 5xx; none from a version that was not live at some moment between its request and its
answer; every acknowledged prediction in the log exactly once, but for those of a killed process's last second; memory
and files flat. It ends with 1 when one of these does not hold.
"""

import json
import os
import random
import selectors
import signal
import socket
import statistics
import struct
import sys
import tempfile
import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench.rows import Row, parser, show

from everloop.store import segments
from everloop.testing.serving import ServedHome, ServerProcess, expected, message, signature_of

VERSIONS = (1, 2, 3)
SWAP_SECONDS = 1.0
KILL_SECONDS = 20.0
RUDE_SECONDS = 0.02
SAMPLE_SECONDS = 0.25
LOST_SECONDS = 1.0
"""What a killed process may take with it."""
PATIENCE = 20.0
X = 0.25
MOVES = 500
"""Requests of one connection before it is made anew."""
MEMORY_GROWTH = 24 * 2**20
FILES_GROWTH = 24
SHARE_WARM = 0.1


@dataclass(frozen=True, slots=True)
class Lap:
    """A version from when the release file named it until every process served what came after."""

    version: int
    begin: float
    end: float


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
        self.broken: list[list[tuple[int, float]]] = [[] for _ in range(connections)]
        """Of each connection, when its process took it along: after which turn, and when that was seen."""
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
            self.broken[number].append((len(self.sent[number]) - 1, time.monotonic()))
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


@dataclass(slots=True)
class Samples:
    """Of each process, by its id: when, resident bytes, open files."""

    of: dict[int, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, process: int) -> None:
        with suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208
            self.of[process].append((time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), files))


class Soak:
    def __init__(self, root: Path, *, seconds: float, processes: int, connections: int, kill_seconds: float) -> None:
        self.seconds = seconds
        self.kill_seconds = kill_seconds
        self.connections = connections
        self.served = ServedHome(root)
        signature = signature_of({"x": "number"}, key=("k",))
        for version in VERSIONS:
            self.served.seal(version, signature, bias=float(version))
        self.served.release(1)
        self.processes = processes
        self.begun: list[tuple[float, int]] = [(time.monotonic(), 1)]
        """When each revision was released, and its version; the first is revision 1."""
        self.reached: list[float] = [0.0]
        """When every process served each revision."""
        self.kills: list[tuple[float, int]] = []
        self.samples = Samples()
        self.load: Load
        self.rude: Rude

    def run(self) -> int:
        """Everything at once. Returns the exit code of the supervisor."""
        with self.served.serve("--processes", str(self.processes)) as server:
            self.load, self.rude = Load(server.port, self.connections), Rude(server.port)
            self.load.start()
            self.rude.start()
            begin = time.monotonic()
            swap, kill = begin + SWAP_SECONDS, begin + self.kill_seconds
            survivor = min(self._processes(server))
            while (now := time.monotonic()) - begin < self.seconds:
                if now >= swap:
                    swap += SWAP_SECONDS
                    self._swap()
                if now >= kill:
                    kill += self.kill_seconds
                    self._kill(server, survivor)
                for process in (server.process.pid, *self._processes(server)):
                    self.samples.take(process)
                self._look(server)
                time.sleep(SAMPLE_SECONDS)
            self.survivor = survivor
            self.load.stopping.set()
            self.rude.stopping.set()
            self.load.join()
            self.rude.join()
            self.ended = time.monotonic()
            return server.terminate()

    def _processes(self, server: ServerProcess) -> list[int]:
        return [int(each) for each in server.told().get("processes", [])]

    def _swap(self) -> None:
        before = self.begun[-1][1]
        version = random.Random(len(self.begun)).choice([each for each in VERSIONS if each != before])
        self.begun.append((time.monotonic(), version))
        self.served.release(version)

    def _look(self, server: ServerProcess) -> None:
        revision = server.told().get("loops", {}).get("made", 0)
        while len(self.reached) < revision:
            self.reached.append(time.monotonic())

    def _kill(self, server: ServerProcess, survivor: int) -> None:
        others = [each for each in self._processes(server) if each != survivor]
        if not others:
            return
        process = max(others)
        self.kills.append((time.monotonic(), process))
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    # What came of it

    def laps(self) -> dict[int, list[Lap]]:
        found: dict[int, list[Lap]] = defaultdict(list)
        for place, (begin, version) in enumerate(self.begun):
            end = self.reached[place + 1] if place + 1 < len(self.reached) else float("inf")
            found[version].append(Lap(version, begin, end))
        return found

    def wrong_versions(self) -> int:
        """Answers from a version that was not live at any moment between request and answer."""
        wrong = 0
        sent, received, versions = self._answered()
        for version, laps in self.laps().items():
            ours = versions == version
            begins = np.array([lap.begin for lap in laps])
            ends = np.array([lap.end for lap in laps])
            last = np.searchsorted(begins, received[ours], side="right") - 1
            wrong += int(((last < 0) | (sent[ours] > ends[last])).sum())
        return wrong

    def _answered(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        sent = np.concatenate([np.frombuffer(each) for each in self.load.sent])
        received = np.concatenate([np.frombuffer(each) for each in self.load.received])
        versions = np.concatenate([np.frombuffer(each, np.uint8) for each in self.load.versions])
        there = ~np.isnan(received)
        return sent[there], received[there], versions[there]

    def logged(self) -> Iterator[tuple[str, int]]:
        for path in segments.files(self.served.home.segments("made")):
            for payload, _ in segments.read(path):
                frame = segments.decode(payload)
                if isinstance(frame, segments.PredictionFrame):
                    for id in frame.ids:
                        yield id, frame.version

    def held_against_the_log(self) -> tuple[list[float], int, int, int]:
        """Of acknowledged predictions: ages (s) at a kill of those that are missing, how many are missing and were not
        a killed process's last, how many are there twice, how many with another version."""
        counts = [bytearray(len(each)) for each in self.load.sent]
        other = 0
        for id, version in self.logged():
            if id.startswith("rude"):
                continue
            number, turn = map(int, id.split("-"))
            counts[number][turn] += 1
            acknowledged = self.load.versions[number][turn]
            other += acknowledged not in (0, version)
        ages, lost, twice = [], 0, 0
        for number, (received, count) in enumerate(zip(self.load.received, counts, strict=True)):
            there = np.frombuffer(count, np.uint8)
            moments = np.frombuffer(received)
            twice += int((there > 1).sum())
            for turn in np.flatnonzero(~np.isnan(moments) & (there == 0)):
                age = self._age(number, int(turn), float(moments[turn]))
                ages.append(age)
                lost += age > LOST_SECONDS
        return ages, int(lost), twice, other

    def _age(self, number: int, turn: int, moment: float) -> float:
        """Seconds from an answer to the next kill; 0 for one that we read when its process was gone already."""
        after = min((kill - moment for kill, _ in self.kills if kill >= moment), default=float("inf"))
        before = max((kill for kill, _ in self.kills if kill < moment), default=float("-inf"))
        gone = next((seen for last, seen in self.load.broken[number] if last >= turn), float("inf"))
        read_late = moment - before < LOST_SECONDS and gone - moment < LOST_SECONDS
        return 0.0 if read_late else after

    def growth(self, process: int, place: int) -> tuple[float, float]:
        """The most of a process after its first tenth and at its end, by ``place`` in its samples."""
        samples = self.samples.of[process]
        warm = max(1, int(len(samples) * SHARE_WARM))
        tail = samples[-warm:]
        return max(each[place] for each in samples[: 2 * warm]), max(each[place] for each in tail)


def rows_of(soak: Soak, code: int) -> tuple[list[Row], list[str]]:
    """The figures, and what does not hold."""
    sent, received, _ = soak._answered()
    seconds = received - sent
    order = np.sort(seconds) * 1e3
    ages, lost, twice, other = soak.held_against_the_log()
    wrong = soak.wrong_versions()
    failures = [*soak.load.failures[:5], *soak.rude.failures[:5]]
    problems = list(failures)
    memory = soak.growth(soak.survivor, 1)
    files = soak.growth(soak.survivor, 2)
    parent = soak.growth(min(soak.samples.of), 1)
    for bad, words in (
        (lost, "acknowledged predictions are not in the log, and no process had been killed within a second"),
        (twice, "predictions are in the log twice"),
        (other, "predictions are in the log with another version than was answered"),
        (wrong, "answers came from a version that was not live"),
        (code, "was the supervisor's exit code"),
        (memory[1] - memory[0] > MEMORY_GROWTH, f"memory went from {memory[0]:,} to {memory[1]:,} bytes"),
        (files[1] - files[0] > FILES_GROWTH, f"open files went from {files[0]} to {files[1]}"),
        (parent[1] - parent[0] > MEMORY_GROWTH, f"the supervisor's memory went from {parent[0]:,} to {parent[1]:,}"),
        (not len(sent), "no answer at all"),
    ):
        if bad:
            problems.append(f"{int(bad)} {words}")
    count = len(sent)

    def percentile(share: float) -> float:
        return float(order[min(count - 1, int(count * share))]) if count else 0.0

    name = f"soak, c={soak.connections}, {soak.processes} processes: "
    return [
        Row(what=name + "answers", ours=count, unit="answers", rounds=1),
        Row(what=name + "a second", ours=count / soak.seconds, unit="1/s", rounds=count),
        Row(what=name + "p50", ours=percentile(0.5), unit="ms", rounds=count),
        Row(what=name + "p99", ours=percentile(0.99), unit="ms", rounds=count),
        Row(what=name + "slowest", ours=percentile(1.0), unit="ms", rounds=count),
        Row(what="hot swaps", ours=len(soak.begun) - 1, unit="", rounds=1),
        Row(what="median seconds until every process serves a release", ours=_settled(soak), unit="s", rounds=len(soak.begun)),
        Row(what="processes killed", ours=len(soak.kills), unit="", rounds=1),
        Row(what="clients that left", ours=soak.rude.left, unit="", rounds=1),
        Row(what="malformed or too large, refused", ours=sum(soak.rude.statuses.values()), unit="", rounds=1),
        Row(what="answers with a 5xx, or none", ours=len(soak.load.failures) + len(soak.rude.failures), unit="", target=0, rounds=count),
        Row(what="answers from a version that was not live", ours=wrong, unit="", target=0, rounds=count),
        Row(what="acknowledged and not in the log (killed process's last second excepted)", ours=lost, unit="", target=0, rounds=count),
        Row(what="acknowledged and lost with a killed process", ours=len(ages) - lost, unit="", rounds=len(soak.kills)),
        Row(what="the oldest of them at the kill", ours=max(ages, default=0.0), unit="s", target=LOST_SECONDS, rounds=len(ages)),
        Row(what="in the log twice", ours=twice, unit="", target=0, rounds=count),
        Row(what="memory, after a tenth of the time", ours=memory[0] / 2**20, unit="MiB", rounds=1),
        Row(what="memory, growth until the end", ours=(memory[1] - memory[0]) / 2**20, unit="MiB", target=MEMORY_GROWTH / 2**20, rounds=1),
        Row(what="open files, growth until the end", ours=files[1] - files[0], unit="", target=FILES_GROWTH, rounds=1),
    ], problems  # fmt: skip


def _settled(soak: Soak) -> float:
    waits = [reached - begin for (begin, _), reached in zip(soak.begun, soak.reached, strict=False)][1:]
    return statistics.median(waits) if waits else 0.0


def main(arguments: list[str]) -> int:
    options = parser(__doc__ or "")
    options.add_argument("--minutes", type=float, default=None, help="ten unless --quick, then half a minute")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--connections", type=int, default=32)
    given = options.parse_args(arguments)
    seconds = 60 * (given.minutes if given.minutes is not None else 0.5 if given.quick else 10.0)
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(
            Path(folder), seconds=seconds, processes=given.processes, connections=given.connections,
            kill_seconds=min(KILL_SECONDS, seconds / 4),
        )  # fmt: skip
        code = soak.run()
        rows, problems = rows_of(soak, code)
        if problems:
            print((soak.served.home.root / "server.log").read_text()[-3000:], file=sys.stderr)
    show(rows, as_json=given.json)
    for problem in problems:
        print(f"does not hold: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
