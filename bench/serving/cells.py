"""Measures servers side by side: all are started, one runs while the others are stopped, rounds alternate.

A cell is one server, one model, one number of connections; its figures are medians over rounds, with the lowest p99
beside (one pause of the machine rewrites a p99).
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bench.serving.contenders import Contender
from bench.serving.load import SATURATED, Load, Loader
from bench.serving.models import Model
from bench.serving.processes import Server, cores

WARM_SECONDS = 1.0


@dataclass(kw_only=True)
class Cell:
    """``cpu``: µs of the whole process tree a good answer, one figure a round."""

    server: str
    model: str
    connections: int
    loads: list[Load] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return median(each.good / each.seconds for each in self.loads)

    @property
    def cpu_us(self) -> float:
        return median(self.cpu)

    @property
    def p50(self) -> float:
        return median(each.p50 for each in self.loads)

    @property
    def p99(self) -> float:
        return median(each.p99 for each in self.loads)

    @property
    def lowest_p99(self) -> float:
        return min(each.p99 for each in self.loads)

    @property
    def failures(self) -> int:
        return sum(each.failures for each in self.loads)

    @property
    def hidden(self) -> bool:
        """The client was at its own limit, so the server may do more than this."""
        return median(each.client for each in self.loads) > SATURATED

    def add(self, load: Load, cpu_seconds: float) -> None:
        self.loads.append(load)
        self.cpu.append(cpu_seconds / max(1, load.good) * 1e6)

    def to_json(self) -> dict[str, Any]:
        names = ("server", "model", "connections", "rate", "cpu_us", "p50", "p99", "lowest_p99", "failures")
        found = {name: getattr(self, name) for name in names}
        client = median(each.client for each in self.loads)
        return {name: round(v, 3) if isinstance(v, float) else v for name, v in found.items()} | {
            "client": round(client, 2), "rounds": len(self.loads),
        }  # fmt: skip


@dataclass(kw_only=True)
class Measured:
    """``absent``: who could not be started, and why. ``memory``: MB after the load, (largest process, all of it)."""

    cells: dict[tuple[str, int], Cell] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    memory: dict[str, tuple[float, float]] = field(default_factory=dict)

    def cell(self, server: str, connections: int) -> Cell | None:
        return self.cells.get((server, connections))


def started(
    stack: ExitStack, contenders: Sequence[Contender], model: Model, folder: Path, pinned: Sequence[int],
    absent: dict[str, str],
) -> list[tuple[Contender, Server, Loader]]:  # fmt: skip
    """Each contender's server, answering, stopped. Who cannot come is told in ``absent``."""
    found = []
    for each in contenders:
        because = each.why_not()
        if because is None:
            try:
                server = stack.enter_context(each.start(model, folder, pinned))
            except RuntimeError as error:
                because = str(error)
            else:
                server.pause()
                found.append(
                    (
                        each,
                        server,
                        stack.enter_context(Loader(each.messages(model), secure=getattr(each, "secure", False))),
                    )
                )
        if because is not None:
            absent[each.name] = because
            say(f"{each.name} is not measured on {model.name}: {because}")
    return found


def side_by_side(
    contenders: Sequence[Contender],
    model: Model,
    folder: Path,
    *,
    connections: Sequence[int],
    rounds: int,
    seconds: float,
    again: bool = True,
    between: Callable[[], None] = lambda: None,
) -> Measured:
    """``between`` is called before each round, while all are stopped. The first of ``contenders`` is ours: with ``again`` it is measured twice a round, so that drift shows."""
    measured = Measured()
    core, client = cores()
    with ExitStack() as stack:
        servers = started(stack, contenders, model, folder, [core], measured.absent)
        middle = len(servers) // 2 + 1
        order = [*servers[:middle], servers[0], *servers[middle:]] if again and len(servers) > 2 else servers
        for number in range(rounds):
            between()
            for contender, server, loader in order:
                say(f"{model.name}, round {number + 1} of {rounds}: {contender.name}")
                server.resume()
                loader.run(server.port, connections[len(connections) // 2], WARM_SECONDS, client)
                for each in connections:
                    cell = measured.cells.setdefault(
                        (contender.name, each), Cell(server=contender.name, model=model.name, connections=each)
                    )
                    measure(cell, server, loader, seconds, client)
                measured.memory[contender.name] = (server.resident(), server.memory())
                server.pause()
    return measured


def measure(cell: Cell, server: Server, loader: Loader, seconds: float, core: int | None) -> None:
    before = server.cpu_seconds()
    load = loader.run(server.port, cell.connections, seconds, core)
    cell.add(load, server.cpu_seconds() - before)


def say(text: str) -> None:
    """What is going on, for whoever waits."""
    print(f"  … {text}", file=sys.stderr, flush=True)


HEAD = ("server", "connections", "requests/s", "CPU µs", "p50 ms", "p99 ms", "(lowest)", "failures", "client")


def table(cells: Sequence[dict[str, Any]]) -> str:
    """One line a cell as `Cell.to_json` tells it. ``client``: how busy the load was; ! means that it was at its limit."""
    lines = [HEAD]
    for cell in cells:
        hidden = "!" if cell["client"] > SATURATED else ""
        lines.append((
            cell["server"], str(cell["connections"]), f"{cell['rate']:,.0f}", f"{cell['cpu_us']:,.1f}",
            f"{cell['p50']:.2f}", f"{cell['p99']:.2f}", f"{cell['lowest_p99']:.2f}", str(cell["failures"]),
            f"{cell['client']}{hidden}",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if place == 0 else text.rjust(width)
            for place, (text, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )
