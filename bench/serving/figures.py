"""The figures of the promise, one function a part: each gives rows, and the cells that they come from."""

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bench.rows import Row
from bench.serving import contenders as peers
from bench.serving import safety
from bench.serving.alone import rows_a_second
from bench.serving.cells import Cell, Measured, measure, say, side_by_side
from bench.serving.contenders import ROOT, Contender, ask
from bench.serving.load import Loader
from bench.serving.models import Model, models
from bench.serving.ours import Ours
from bench.serving.processes import Server, cores, free_port


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


def alone(plan: Plan, model: Model) -> dict[int, float]:
    """The curve of the graph alone: rows a second at each batch size, the median of the rounds."""
    say(f"{model.name}: ONNX Runtime alone")
    path, core = model.write(plan.folder), cores()[0]
    dense = model.name != "tabular"
    seconds = (0.2 if plan.quick else 0.3) * (2 if dense else 1)
    batches = model.batches if not plan.quick else (1, 16, 64, 1024) if not dense else (4, 8, 16)
    found = [rows_a_second(path, model.input, batches, seconds, core) for _ in range(plan.rounds)]
    return {batch: median(each[batch] for each in found) for batch in batches}


def tabular(plan: Plan) -> Part:
    """One row a request, different rows in turn, everything on."""
    model = models(["tabular"])["tabular"]
    connections = (16, 64) if plan.quick else TABULAR
    limit = alone(plan, model)
    measured = side_by_side(
        plan.contenders(), model, plan.folder, connections=connections, rounds=plan.rounds, seconds=1 if plan.quick else 2
    )  # fmt: skip
    part = _part(measured, limit)
    best = max(limit.values())
    for each in connections:
        cell = measured.cells["everloop", each]
        what, rounds = f"tabular, c={each}", len(cell.loads)
        promised = each == 64
        part.rows += [
            Row(what=f"{what}: CPU a request", ours=cell.cpu_us, unit="µs", limit=1e6 / best,
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
    limit = alone(plan, model)
    measured = side_by_side(
        plan.contenders(), model, plan.folder, connections=[16], rounds=plan.rounds, seconds=2 if plan.quick else 4
    )
    part = _part(measured, limit)
    cell = measured.cells["everloop", 16]
    best = max(limit.values())
    what, rounds = f"{name}, c=16", len(cell.loads)
    part.rows += [
        Row(what=f"{what}: share of ONNX Runtime at its best batch", ours=cell.rate / best, unit="of 1", limit=1.0,
            target={"cnn": 0.88, "transformer": 0.92}[name], greater_is_better=True, rounds=rounds),
        Row(what=f"{what}: requests a second", ours=cell.rate, unit="1/s", limit=best, rounds=rounds),
        Row(what=f"{what}: CPU a request", ours=cell.cpu_us / 1e3, unit="ms", limit=1e3 / best, rounds=rounds),
    ]  # fmt: skip
    part.rows += _against(measured, cell, what, {"FastAPI": 1.25, "MLServer": 1.0, "LitServe": 1.0, "BentoML": 1.0})
    others = [each for key, each in measured.cells.items() if key[0] != "everloop"]
    lowest = min(others, key=lambda each: each.p99, default=None)
    part.rows.append(
        Row(what=f"{what}: p99", ours=cell.p99, unit="ms", peer=lowest and lowest.p99,
            peer_name=lowest and lowest.server, target=lowest and lowest.p99, rounds=rounds)
    )  # fmt: skip
    return part


def _part(measured: Measured, limit: dict[int, float]) -> Part:
    best = max(limit, key=lambda batch: limit[batch])
    curve = ", ".join(f"{batch}: {rate:,.0f}" for batch, rate in limit.items())
    notes = [f"ONNX Runtime alone, rows a second by batch: {curve}; best at {best}"]
    notes += [f"{name} is not here: {because.splitlines()[0]}" for name, because in measured.absent.items()]
    notes += [
        f"{cell.server} at c={cell.connections}: the client was at its limit" for cell in measured.cells.values() if cell.hidden
    ]  # fmt: skip
    more = {
        "alone": limit, "absent": measured.absent,
        "memory_mb": {name: [round(each) for each in held] for name, held in measured.memory.items()},
    }  # fmt: skip
    return Part(cells=list(measured.cells.values()), notes=notes, more=more)


def _against(measured: Measured, ours: Cell, what: str, targets: dict[str, float]) -> list[Row]:
    return [
        Row(what=f"{what}: requests a second against {name}", ours=ours.rate / cell.rate, unit="×",
            target=targets.get(name), greater_is_better=True, rounds=len(cell.loads))
        for (name, connections), cell in measured.cells.items()
        if connections == ours.connections and name != ours.server and cell.rate
    ]  # fmt: skip


def processes(plan: Plan) -> Part:
    """One process on one core against two on two, the load sharing the second."""
    part = Part()
    core, client = cores()
    if client is None:
        part.notes.append("this machine has one core: two processes are not measured")
        return part
    for name, connections, target in (("tabular", 64, 1.4), ("cnn", 16, 1.9)):
        if plan.quick and name == "cnn":
            continue
        model = models([name])[name]
        pairs: list[tuple[Contender, Contender]] = [(Ours(), Ours(name="everloop, 2 processes", processes=2))]
        if plan.peers and name == "tabular":
            pairs.append((peers.FASTAPI, peers.FASTAPI_TWICE))
        for single, double in pairs:
            found: dict[str, Cell] = {}
            for each, pinned in ((single, [core]), (double, [core, client])):
                because = each.why_not()
                if because:
                    part.notes.append(f"{each.name} is not here: {because}")
                    break
                cell = found[each.name] = Cell(server=each.name, model=name, connections=connections)
                with each.start(model, plan.folder, pinned) as server, Loader(each.messages(model)) as loader:
                    say(f"{name}: {each.name}")
                    loader.run(server.port, connections, 1, None)
                    for _ in range(plan.rounds):
                        measure(cell, server, loader, 1 if plan.quick else 3, client if each is single else None)
            if len(found) == 2:
                part.cells += found.values()
                ratio = found[double.name].rate / max(found[single.name].rate, 1e-9)
                ours = single.name == "everloop"
                part.rows.append(
                    Row(what=f"{name}, c={connections}: two processes on two cores against one{'' if ours else f', {single.name}'}",
                        ours=ratio, unit="×", target=target if ours else None, greater_is_better=True, rounds=plan.rounds)
                )  # fmt: skip
    return part


def starts(plan: Plan) -> Part:
    """From exec to the first correct answer, files in the page cache; what rests afterwards."""
    part = Part()
    rounds = 2 if plan.quick else 7
    for name, target in (("tabular", 0.4), ("cnn", 0.8), ("transformer", 0.8)):
        if plan.quick and name == "transformer":
            continue
        model = models([name])[name]
        say(f"cold start: {name}")
        ours = Ours(name="everloop, cold")
        served, sent = ours.home(model, plan.folder), ours.messages(model)[0]
        taken = []
        for _ in range(rounds):
            port = free_port()
            command = ours.command(served, port)
            with Server(ours.name, command, port=port, folder=plan.folder, asks=partial(answers, sent)) as server:
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


def answers(sent: bytes, port: int) -> bool:
    try:
        status, body = ask(port, sent)
    except http.client.HTTPException:
        return False
    return status == 200 and b"probability" in body


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
