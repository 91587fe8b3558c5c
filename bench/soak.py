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

import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from bench.rows import Row, parser, show
from bench.soak_clients import Load, Rude

from everloop.store import segments
from everloop.testing.serving import ServedHome, ServerProcess, signature_of

VERSIONS = (1, 2, 3)
SWAP_SECONDS = 1.0
KILL_SECONDS = 20.0
SAMPLE_SECONDS = 0.25
LOST_SECONDS = 1.0
"""What a killed process may take with it."""
MEMORY_GROWTH = 24 * 2**20
FILES_GROWTH = 24
SHARE_WARM = 0.1


@dataclass(frozen=True, slots=True)
class Lap:
    """A version from when the release file named it until every process served what came after."""

    version: int
    begin: float
    end: float


@dataclass(slots=True)
class Samples:
    """Of each process, by its id: when, resident bytes, open files."""

    of: dict[int, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))

    def take(self, process: int) -> None:
        with suppress(OSError, IndexError):
            pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
            files = len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208
            self.of[process].append((time.monotonic(), pages * os.sysconf("SC_PAGE_SIZE"), files))


@dataclass(slots=True)
class Held:
    """What came of holding the acknowledged predictions against the log."""

    last: int = 0
    """Acknowledged by a killed process within its last second."""
    ages: list[float] = field(default_factory=list)
    """Of those that are missing: seconds from the answer to the kill of the process that gave it, if it was killed."""
    twice: int = 0
    other: int = 0
    """In the log with another version than was answered."""

    @property
    def lost(self) -> int:
        """Missing, and not of a killed process's last second."""
        return sum(age > LOST_SECONDS for age in self.ages)

    def take(
        self,
        sent: np.ndarray[Any, Any],
        received: np.ndarray[Any, Any],
        there: np.ndarray[Any, Any],
        processes: np.ndarray[Any, Any],
        kills: dict[int, float],
    ) -> None:
        """One connection, from its first request to its last: one process answered all of them.

        That process is the one that wrote what is in the log. If none of it is there, it can only be the one that was
        killed next after it was asked for the last time: what a process that lives on loses is never excused.
        """
        answered = ~np.isnan(received)
        if not answered.any():
            return
        wrote = processes[there]
        if len(wrote):
            kill = kills.get(int(wrote[-1]), float("inf"))
        else:
            kill = min((moment for moment in kills.values() if moment >= sent[answered][-1]), default=float("inf"))
        ages = np.maximum(kill - received, 0.0)  # what it sent before it was killed may be read after
        self.last += int((answered & (ages <= LOST_SECONDS)).sum())
        self.ages += ages[answered & ~there].tolist()


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

    def logged(self) -> Iterator[tuple[str, int, int]]:
        """Of each prediction in the log its id, its version and the process that wrote it."""
        for path in segments.files(self.served.home.segments("made")):
            process = int(path.name.split("-")[1])
            for payload, _ in segments.read(path):
                frame = segments.decode(payload)
                if isinstance(frame, segments.PredictionFrame):
                    for id in frame.ids:
                        yield id, frame.version, process

    def held_against_the_log(self) -> "Held":
        load, kills = self.load, {process: moment for moment, process in self.kills}
        counts = [bytearray(len(each)) for each in load.sent]
        processes = [np.zeros(len(each), np.int64) for each in load.sent]
        held = Held()
        for id, version, process in self.logged():
            if id.startswith("rude"):
                continue
            number, turn = map(int, id.split("-"))
            counts[number][turn] = min(255, counts[number][turn] + 1)
            processes[number][turn] = process
            held.other += load.versions[number][turn] not in (0, version)
        for number, count in enumerate(counts):
            there = np.frombuffer(count, np.uint8)
            sent, received = np.frombuffer(load.sent[number]), np.frombuffer(load.received[number])
            held.twice += int((there > 1).sum())
            ends = [*load.begins[number][1:], len(received)]
            for begin, end in zip(load.begins[number], ends, strict=True):
                life = slice(begin, end)
                held.take(sent[life], received[life], there[life] > 0, processes[number][life], kills)
        return held

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
    held = soak.held_against_the_log()
    wrong = soak.wrong_versions()
    failures = [*soak.load.failures[:5], *soak.rude.failures[:5]]
    problems = list(failures)
    memory = soak.growth(soak.survivor, 1)
    files = soak.growth(soak.survivor, 2)
    parent = soak.growth(min(soak.samples.of), 1)
    for bad, words in (
        (held.lost, "acknowledged predictions are not in the log, and their process was not killed within a second"),
        (held.twice, "predictions are in the log twice"),
        (held.other, "predictions are in the log with another version than was answered"),
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
        Row(what="acknowledged and not in the log (killed process's last second excepted)", ours=held.lost, unit="", target=0, rounds=count),
        Row(what="acknowledged by killed processes within their last second", ours=held.last, unit="", rounds=len(soak.kills)),
        Row(what="of these lost", ours=len(held.ages) - held.lost, unit="", target=held.last, rounds=len(soak.kills)),
        Row(what="the oldest of them at the kill", ours=max(held.ages, default=0.0), unit="s", target=LOST_SECONDS, rounds=len(held.ages)),
        Row(what="in the log twice", ours=held.twice, unit="", target=0, rounds=count),
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
