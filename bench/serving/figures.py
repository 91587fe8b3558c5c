"""The figures of the promise, one function a part: each gives rows, and the cells that they come from."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.rows import Row
from bench.serving import contenders as peers
from bench.serving import safety
from bench.serving.alone import measured as graph_alone
from bench.serving.cells import Cell, Measured, measure, say, side_by_side
from bench.serving.contenders import ROOT, Contender
from bench.serving.load import Loader
from bench.serving.models import Model, models
from bench.serving.ours import Ours
from bench.serving.processes import cores


@dataclass(kw_only=True)
class Part:
    rows: list[Row] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """What is kept beside: limits, absent peers."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long to measure. ``peers``: beside others, or ours alone."""

    folder: Path
    quick: bool
    peers: bool

    @property
    def rounds(self) -> int:
        return 1 if self.quick else 3

    def contenders(self) -> list[Contender]:
        return [Ours(), *(peers.EACH if self.peers else ())]


TABULAR = (1, 16, 64, 256)
TARGETS = {"FastAPI": 8.0, "MLServer": 25.0, "LitServe": 50.0, "BentoML": 60.0}


class Alone:
    """The graph alone, by batch: rows a second. The best batch is measured again in each round, beside the servers."""

    def __init__(self, plan: Plan, model: Model) -> None:
        say(f"{model.name}: ONNX Runtime alone")
        self._path, self._model = model.write(plan.folder), model
        heavy = model.name != "tabular"
        short = (1, 16, 64, 1024) if not heavy else (4, 8, 16)
        self._seconds = (0.3 if plan.quick else 0.5) * (2 if heavy else 1)
        curve = self._measured(short if plan.quick else model.batches)
        self.curve = {batch: rate for batch, (rate, _) in curve.items()}
        self.batch = max(self.curve, key=lambda batch: self.curve[batch])
        self._again: list[tuple[float, float]] = []

    def _measured(self, batches: Sequence[int]) -> dict[int, tuple[float, float]]:
        return graph_alone(self._path, self._model.input, batches, self._seconds, cores()[0])

    def measure(self) -> None:
        self._again.append(self._measured([self.batch])[self.batch])

    @property
    def best(self) -> float:
        """Rows a second."""
        return median(rate for rate, _ in self._again)

    @property
    def cpu_us(self) -> float:
        """Of a row."""
        return median(cpu for _, cpu in self._again)


def tabular(plan: Plan) -> Part:
    """One row a request, different rows in turn, everything on."""
    model = models(["tabular"])["tabular"]
    connections = (16, 64) if plan.quick else TABULAR
    limit = Alone(plan, model)
    measured = side_by_side(
        plan.contenders(), model, plan.folder, connections=connections, rounds=plan.rounds, seconds=1 if plan.quick else 2,
        between=limit.measure,
    )  # fmt: skip
    part = _part(measured, limit)
    best = limit.best
    for each in connections:
        cell = measured.cells["everloop", each]
        what, rounds = f"tabular, c={each}", len(cell.loads)
        promised = each == 64
        part.rows += [
            Row(what=f"{what}: CPU a request", ours=cell.cpu_us, unit="µs", limit=limit.cpu_us,
                target=20.0 if promised else None, rounds=rounds),
            Row(what=f"{what}: requests a second", ours=cell.rate, unit="1/s", limit=best, rounds=rounds),
            Row(what=f"{what}: p50", ours=cell.p50, unit="ms", rounds=rounds),
            Row(what=f"{what}: p99", ours=cell.p99, unit="ms", target=5.0 if promised else None, rounds=rounds),
        ]  # fmt: skip
        part.rows += _against(measured, cell, what, TARGETS if promised else {})
    held = measured.memory["everloop"][0]
    part.rows.append(Row(what="tabular: resident memory after the load", ours=held, unit="MB", target=90.0))
    return part


def dense(plan: Plan, name: str) -> Part:
    """A model whose run is the work: how much of the machine reaches it."""
    model = models([name])[name]
    limit = Alone(plan, model)
    measured = side_by_side(
        plan.contenders(),
        model,
        plan.folder,
        connections=[16],
        rounds=plan.rounds,
        seconds=2 if plan.quick else 8,  # what is under way at the end is not counted: sixteen of it
        between=limit.measure,
    )
    part = _part(measured, limit)
    cell = measured.cells["everloop", 16]
    best = limit.best
    what, rounds = f"{name}, c=16", len(cell.loads)
    part.rows += [
        Row(what=f"{what}: share of ONNX Runtime at its best batch", ours=cell.rate / best, unit="of 1", limit=1.0,
            target={"cnn": 0.88, "transformer": 0.92}[name], greater_is_better=True, rounds=rounds),
        Row(what=f"{what}: requests a second", ours=cell.rate, unit="1/s", limit=best, rounds=rounds),
        Row(what=f"{what}: CPU a request", ours=cell.cpu_us / 1e3, unit="ms", limit=limit.cpu_us / 1e3, rounds=rounds),
    ]  # fmt: skip
    part.rows += _against(measured, cell, what, {"FastAPI": 1.25, "MLServer": 1.0, "LitServe": 1.0, "BentoML": 1.0})
    others = [each for key, each in measured.cells.items() if key[0] != "everloop"]
    lowest = min(others, key=lambda each: each.p99, default=None)
    part.rows.append(
        Row(what=f"{what}: p99", ours=cell.p99, unit="ms", peer=lowest and lowest.p99,
            peer_name=lowest and lowest.server, target=lowest and lowest.p99, rounds=rounds)
    )  # fmt: skip
    return part


def _part(measured: Measured, limit: Alone) -> Part:
    curve = ", ".join(f"{batch}: {rate:,.0f}" for batch, rate in limit.curve.items())
    notes = [
        f"ONNX Runtime alone, rows a second by batch: {curve}; the limit is batch {limit.batch} in the rounds: {limit.best:,.0f}"
    ]
    notes += [f"{name} is not here: {because.splitlines()[0]}" for name, because in measured.absent.items()]
    notes += [
        f"{cell.server} at c={cell.connections}: the client was at its limit" for cell in measured.cells.values() if cell.hidden
    ]  # fmt: skip
    more = {
        "alone": limit.curve, "absent": measured.absent,
        "memory_mb": {name: [round(each) for each in held] for name, held in measured.memory.items()},
    }  # fmt: skip
    return Part(cells=list(measured.cells.values()), notes=notes, more=more)


def _against(measured: Measured, ours: Cell, what: str, targets: dict[str, float]) -> list[Row]:
    """The CPU of a request too: who else runs on the machine hardly changes it."""
    rows = []
    for (name, connections), cell in measured.cells.items():
        if connections == ours.connections and name != ours.server and cell.rate:
            rows.append(
                Row(what=f"{what}: requests a second against {name}", ours=ours.rate / cell.rate, unit="×",
                    target=targets.get(name), greater_is_better=True, rounds=len(cell.loads))
            )  # fmt: skip
            if targets:
                rows.append(
                    Row(what=f"{what}: CPU a request of {name} against ours", ours=cell.cpu_us / ours.cpu_us, unit="×",
                        rounds=len(cell.loads))
                )  # fmt: skip
    return rows


def processes(plan: Plan) -> Part:
    """One process on one core against two on two, the load sharing the second."""
    part = Part()
    core, client = cores()
    if client is None:
        part.notes.append("this machine has one core: two processes are not measured")
        return part
    for name, connections, of_two, target in (("tabular", 64, 64, 1.4), ("cnn", 16, 32, 1.9)):
        if plan.quick and name == "cnn":
            continue
        model = models([name])[name]
        single, double = Ours(), Ours(name="everloop, 2 processes", processes=2)
        others = [peers.twice(each) for each in peers.EACH] if plan.peers and name == "tabular" else []
        plans: list[tuple[Contender, list[int], int | None]] = [(single, [core], client)]
        # A batch of the network is as large as there are connections to a process: both have as many.
        plans += [(each, [core, client], None) for each in (double, *others)]
        found: dict[str, Cell] = {}
        for each, pinned, load_on in plans:
            because = each.why_not()
            try:
                if because is None:
                    asking = of_two if each is not single else connections
                    found[each.name] = _apart(plan, each, model, asking, pinned, load_on)
            except RuntimeError as error:
                because = str(error)
            if because is not None:
                part.notes.append(f"{each.name} is not here: {because.splitlines()[0]}")
        part.cells += found.values()
        two = found[double.name]
        what = f"{name}, c={of_two}, two processes on two cores"
        part.rows += [
            Row(what=f"{what}: requests a second against one at c={connections}", ours=two.rate / max(found[single.name].rate, 1e-9),
                unit="×", target=target, greater_is_better=True, rounds=plan.rounds),
            *(Row(what=f"{what}: requests a second against {each.name}", ours=two.rate / max(found[each.name].rate, 1e-9),
                  unit="×", rounds=plan.rounds) for each in others if each.name in found),
        ]  # fmt: skip
    return part


def _apart(plan: Plan, each: Contender, model: Model, connections: int, pinned: list[int], load_on: int | None) -> Cell:
    cell = Cell(server=each.name, model=model.name, connections=connections)
    with each.start(model, plan.folder, pinned) as server, Loader(each.messages(model)) as loader:
        say(f"{model.name}: {each.name}")
        loader.run(server.port, connections, 1, load_on)
        for _ in range(plan.rounds):
            measure(cell, server, loader, 1 if plan.quick else 3, load_on)
    return cell


def starts(plan: Plan) -> Part:
    """From exec to the first correct answer, files in the page cache; what rests afterwards."""
    part = Part()
    rounds = 2 if plan.quick else 7
    for name, target in (("tabular", 0.4), ("cnn", 0.8), ("transformer", 0.8)):
        if plan.quick and name == "transformer":
            continue
        model = models([name])[name]
        say(f"cold start: {name}")
        taken = []
        for number in range(rounds):
            with Ours(name=f"everloop, cold {number}").start(model, plan.folder, []) as server:
                taken.append(server.seconds_to_answer)
        size = len(model.graph) / 1e6
        part.rows.append(
            Row(what=f"cold start to the first answer, {name} ({size:.0f} MB)", ours=median(taken), unit="s",
                target=target, rounds=rounds)
        )  # fmt: skip
        if plan.peers and name == "tabular":
            for peer in peers.EACH:
                if peer.why_not() is None:
                    with peer.start(model, plan.folder, []) as server:
                        part.rows.append(
                            Row(what=f"cold start to the first answer, {name}, {peer.name}", ours=server.seconds_to_answer, unit="s")
                        )  # fmt: skip
    with Ours(name="everloop, idle").start(models(["tabular"])["tabular"], plan.folder, []) as server:
        time.sleep(1)
        before, seconds = server.cpu_seconds(), 2 if plan.quick else 10
        time.sleep(seconds)
        share = (server.cpu_seconds() - before) / seconds * 100
        part.rows.append(Row(what="idle CPU, share of a core", ours=share, unit="%", target=0.5))
        part.rows.append(Row(what="resident memory at rest", ours=server.resident(), unit="MB", target=90.0))
    return part


def safety_costs(plan: Plan) -> Part:
    """What each thing that guards a request costs it."""
    rows, measured = safety.costs(plan.folder, quick=plan.quick)
    return Part(rows=rows, cells=list(measured.cells.values()))


def cache(plan: Plan) -> Part:
    """Answers of the transformer that are kept, against those that are computed."""
    model = models(["transformer"])["transformer"]
    model = replace(model, rows=model.rows[:32])  # so few that all of them are kept after the warm-up
    missing, hitting = Ours(), Ours(name="everloop, cached", release={"cache": {"bytes": 2**26, "seconds": 3600}})
    measured = side_by_side(
        [missing, hitting], model, plan.folder, connections=[16], rounds=plan.rounds, seconds=2 if plan.quick else 3,
        again=False,
    )  # fmt: skip
    miss, hit = (measured.cells[each.name, 16] for each in (missing, hitting))
    rows = [
        Row(what="transformer, c=16: requests a second, all kept against none", ours=hit.rate / max(miss.rate, 1e-9), unit="×",
            target=100.0, greater_is_better=True, rounds=plan.rounds),
        Row(what="transformer, c=16: CPU of a hit", ours=hit.cpu_us, unit="µs", peer=miss.cpu_us, peer_name="a miss",
            rounds=plan.rounds),
    ]  # fmt: skip
    return Part(rows=rows, cells=[miss, hit])


def script(name: str) -> Callable[[Plan], Part]:
    """The rows of a script of its own: bench.NAME."""

    def run(plan: Plan) -> Part:
        if not (ROOT / "bench" / f"{name}.py").exists() and not (ROOT / "bench" / name).is_dir():
            return Part(notes=[f"bench.{name} is not here"])
        say(f"bench.{name}")
        command = [sys.executable, "-m", f"bench.{name}", "--json", *(["--quick"] if plan.quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=ROOT)
        if done.returncode:
            return Part(notes=[f"bench.{name} did not come to its end: {done.returncode}"])
        return Part(rows=[Row.from_json(each) for each in json.loads(done.stdout)])

    return run


PARTS: dict[str, Callable[[Plan], Part]] = {
    "tabular": tabular,
    "cnn": lambda plan: dense(plan, "cnn"),
    "transformer": lambda plan: dense(plan, "transformer"),
    "processes": processes,
    "starts": starts,
    "cache": cache,
    "safety": safety_costs,
    "overload": script("overload"),
    "offline": script("offline"),
}
