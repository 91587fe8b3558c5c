"""Goodput at 1.3 times what a server can do, beside two servers that batch as others do.

Run: python -m bench.overload [--quick] [--json]. Real server processes, one after another, serve a graph that burns
o + a·rows of processor time: like a convolutional network (2 ms + 3 ms a row), and one whose fixed cost dominates
(10 ms + .5 ms). Requests of one row come open-loop, as a Poisson process; a fifth is of the high class. They want their
answer within 100 ms (high) or 400 ms, and say so. An answer counts when it is right, a success and in time, counted
from the moment at which the request was to be sent. Possible is what ONNX Runtime alone does with batches that take
half of the tightest time, as a share of what comes. The peers are this server with another queue: *greedy* takes what
is there in the order it came and refuses nobody; *fixed delay* waits 5 ms for a batch to fill, too.
"""

import asyncio
import gc
import multiprocessing
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
import onnxruntime
from bench.rows import Row, parser, show

from everloop.serve import admission, batch, predictor
from everloop.serve.urgency import HIGH, NORMAL
from everloop.testing.burning import burning_graph, turn_seconds
from everloop.testing.serving import ServedHome, expected, message, signature_of

LOAD = 1.3
HIGH_SHARE = 0.2
BUDGETS = {HIGH: 0.100, NORMAL: 0.400}
DELAY = 0.005
SIGNATURE = signature_of({"x": "number"})
VALUE = 0.5
WARM_SECONDS = 2.0
PATIENCE = 3.0
"""How long answers are waited for after the last request."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model by its cost in seconds, and the share of the possible that was promised."""

    name: str
    overhead: float
    each: float
    target: float

    @property
    def rows(self) -> int:
        """The batch that takes half of the tightest time."""
        return int((min(BUDGETS.values()) / 2 - self.overhead) / self.each)


CASES = (
    Case(name="2 ms + 3 ms a row", overhead=0.002, each=0.003, target=95.0),
    Case(name="10 ms + .5 ms a row", overhead=0.010, each=0.0005, target=75.0),
)


# The peers: our server with another queue


class Greedy(admission.Queue[Any]):
    """First in, first out, as many as go best together; nobody is refused."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: deque[Any] = deque()

    def __len__(self) -> int:
        return len(self.jobs)

    def push(self, job: Any, now: float) -> None:
        self.jobs.append(job)
        self.rows += job.size

    def take(self, now: float) -> tuple[list[Any], list[Any]]:
        taken = [self.jobs.popleft() for _ in range(min(len(self.jobs), self.most()))]
        self.taken = len(taken)
        self.rows -= self.taken
        return taken, []

    def most(self) -> int:
        return self.jobs[0].group.cost.size(len(self.jobs)) if self.jobs else 1


class Delaying(batch.Batcher[Any, Any]):
    """Waits for a batch to fill, for `DELAY` at the most."""

    def _turn(self) -> None:
        queue = self.queue
        assert isinstance(queue, Greedy)
        self._scheduled = False
        if queue and not self._busy and len(queue) < queue.most():
            left = queue.jobs[0].exchange.arrived + DELAY - time.perf_counter()
            if left > 0:
                self._scheduled = True
                self._loop.call_later(left, self._turn)
                return
        super()._turn()

    def submit(self, job: Any) -> None:
        super().submit(job)
        queue = self.queue
        if isinstance(queue, Greedy) and not self._busy and len(queue) >= queue.most():
            self._turn()


def install(policy: str) -> None:
    """Called in a server's process before it starts."""
    if policy != OURS:
        batch.Queue = Greedy  # type: ignore[misc, assignment]
    if policy == DELAYED:
        predictor.Batcher = Delaying  # type: ignore[misc, assignment]


OURS, GREEDY, DELAYED = "everloop", "greedy", "fixed delay"
POLICIES = (OURS, GREEDY, DELAYED)


# The load


@dataclass
class Told:
    """What came of the requests of one run, by class."""

    sent: dict[int, int]
    good: dict[int, int]
    late: int
    refused: int
    refusal_ms: float
    """Until a refusal was there, median."""
    p99_high_ms: float

    @property
    def goodput(self) -> float:
        return sum(self.good.values()) / sum(self.sent.values())

    @property
    def high(self) -> float:
        return self.good[HIGH] / self.sent[HIGH]


class Line(asyncio.Protocol):
    """A connection on which one request at a time is under way."""

    def __init__(self, done: Callable[["Line", bytes], None]) -> None:
        self.done = done
        self.transport: Any = None
        self.what: tuple[float, int] | None = None
        """When it was to be sent, and its class."""
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        head = self._data.find(b"\r\n\r\n")
        place = self._data.find(b"content-length: ")
        if head > 0 and len(self._data) >= head + 4 + int(self._data[place + 16 : self._data.find(b"\r", place)]):
            answer, self._data = self._data, b""
            self.done(self, answer)


async def offered(port: int, rate: float, seconds: float, seed: int) -> Told:
    """Requests as they come, whether or not the server keeps up."""
    random = Random(seed)
    loop = asyncio.get_running_loop()
    messages = {
        priority: message(
            "POST", "/predict", {"x": VALUE}, x_everloop_deadline_ms=f"{budget * 1e3:.0f}",
            x_everloop_priority="high" if priority == HIGH else "normal",
        )
        for priority, budget in BUDGETS.items()
    }  # fmt: skip
    right = b'"true":%.6f' % expected(VALUE)
    rest: list[Line] = []
    answers: list[tuple[float, int, float, bytes]] = []

    def done(line: Line, answer: bytes) -> None:
        assert line.what is not None
        answers.append((line.what[0], line.what[1], loop.time(), answer))
        line.what = None
        rest.append(line)

    begin = loop.time() + 0.1
    planned: list[tuple[float, int]] = []
    at = begin + random.expovariate(rate)
    while at < begin + WARM_SECONDS + seconds:
        planned.append((at, HIGH if random.random() < HIGH_SHARE else NORMAL))
        at += random.expovariate(rate)

    async def sent(each: tuple[float, int]) -> None:
        if rest:
            line = rest.pop()
        else:
            _, line = await loop.create_connection(lambda: Line(done), "127.0.0.1", port)
        line.what = each
        line.transport.write(messages[each[1]])

    tasks = set()
    place = 0
    gc.disable()
    while place < len(planned):
        await asyncio.sleep(max(planned[place][0] - loop.time(), 0.0))
        while place < len(planned) and planned[place][0] <= loop.time():
            task = loop.create_task(sent(planned[place]))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            place += 1
    end = loop.time() + PATIENCE
    while len(answers) < len(planned) and loop.time() < end:
        await asyncio.sleep(0.05)
    counted = [each for each in planned if each[0] >= begin + WARM_SECONDS]
    told = Told({HIGH: 0, NORMAL: 0}, {HIGH: 0, NORMAL: 0}, 0, 0, float("nan"), float("nan"))
    for _, priority in counted:
        told.sent[priority] += 1
    refusals, high = [], []
    for at, priority, now, answer in answers:
        if at < begin + WARM_SECONDS:
            continue
        if answer.startswith(b"HTTP/1.1 503"):
            told.refused += 1
            refusals.append(now - at)
        elif not (answer.startswith(b"HTTP/1.1 200") and right[:-1] in answer):
            raise SystemExit(f"not what was asked for: {answer[:300]!r}")
        elif now - at > BUDGETS[priority]:
            told.late += 1
        else:
            told.good[priority] += 1
        if priority == HIGH and answer.startswith(b"HTTP/1.1 200"):
            high.append(now - at)
    told.refusal_ms = median(refusals) * 1e3 if refusals else float("nan")
    told.p99_high_ms = float(np.quantile(high, 0.99)) * 1e3 if high else float("nan")
    return told


def load(port: int, rate: float, seconds: float, seed: int, out: Connection) -> None:
    """In a process of its own."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        out.send(runner.run(offered(port, rate, seconds, seed)))


def told(port: int, rate: float, seconds: float, seed: int) -> Told:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=load, args=(port, rate, seconds, seed, theirs))
    process.start()
    theirs.close()
    try:
        found: Told = ours.recv()
    finally:
        process.join(10)
    return found


# What is possible


def capacity(graph: bytes, rows: int, seconds: float) -> float:
    """Rows a second of ONNX Runtime alone, one thread, in batches of so many."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    given = {"numbers": np.full((rows, 1), VALUE)}
    session.run(None, given)
    runs = []
    while sum(runs) < seconds:
        began = time.perf_counter()
        session.run(None, given)
        runs.append(time.perf_counter() - began)
    return rows / median(runs)


def measured(case: Case, folder: Path, *, seconds: float, rounds: int) -> list[Row]:
    turn = turn_seconds(SIGNATURE)
    graph = burning_graph(SIGNATURE, fixed=round(case.overhead / turn), each=round(case.each / turn))
    served = ServedHome(folder, "overload")
    served.seal(1, SIGNATURE, graph=graph)
    served.release(1)
    found: dict[str, list[Told]] = {policy: [] for policy in POLICIES}
    shares: list[float] = []
    for turn_number in range(rounds):
        possible = capacity(graph, case.rows, 1.0)
        for policy in POLICIES:
            with served.serve(before=f"from bench import overload; overload.install({policy!r})") as server:
                one = told(server.port, LOAD * possible, seconds, turn_number)
            found[policy].append(one)
            if policy == OURS:
                shares.append((possible + capacity(graph, case.rows, 1.0)) / 2 / (LOAD * possible))
    share = median(shares)

    def row(what: str, value: Callable[[Told], float], unit: str, peer: str | None, **more: Any) -> Row:
        theirs = median(map(value, found[peer])) if peer else None
        return Row(
            what=f"{case.name}, {LOAD} × load: {what}", ours=median(map(value, found[OURS])), unit=unit, peer=theirs,
            peer_name=peer, rounds=rounds, **more,
        )  # fmt: skip

    promised = {"target": case.target, "greater_is_better": True}
    rows = []
    for peer in (GREEDY, DELAYED):
        rows.append(row("in time, of what is possible", lambda each: 100 * each.goodput / share, "%", peer, **promised))
    for peer in (GREEDY, DELAYED):
        rows.append(
            row("high class in time", lambda each: 100 * each.high, "%", peer, target=90.0, greater_is_better=True)
        )
    rows.append(row("p99 of the high class", lambda each: each.p99_high_ms, "ms", GREEDY, target=100.0))
    rows.append(row("answered too late", lambda each: 100 * each.late / sum(each.sent.values()), "%", GREEDY))
    rows.append(row("a refusal, median", lambda each: each.refusal_ms, "ms", None))
    return rows


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
    rows: list[Row] = []
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            rows += measured(case, Path(folder), seconds=3.0 if given.quick else 10.0, rounds=1 if given.quick else 3)
    show(rows, as_json=given.json)


if __name__ == "__main__":
    main()
