"""The commands that begin with a declaration: check, run, up."""

from __future__ import annotations

import signal
import threading
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from everloop.cli.kept import serving
from everloop.cli.show import emit, when
from everloop.data import sources
from everloop.durable import runs
from everloop.durable.engine import Engine
from everloop.errors import NeedsDecision, TrainError
from everloop.loop import trial
from everloop.loop.controller import Controller
from everloop.loop.environment import Environment
from everloop.loop.events import Asked
from everloop.loop.executing import executor_of
from everloop.loop.installation import Installation, check_warm, chosen, install, install_all, label_facts
from everloop.loop.mirror import Mirroring, address_of
from everloop.loop.monitoring import write
from everloop.loop.publish import publish
from everloop.loop.turn import plain
from everloop.loop.up import Upkeep
from everloop.records import Decision
from everloop.spec.describe import describe
from everloop.spec.load import load
from everloop.spec.resolve import resolve
from everloop.store.ledger import versions

MIRROR_SECONDS = 15.0
"""A turn waits so long at its end for its mirror."""


def check(path: Path, *, loop: str | None, turn: int, environment: str | None, as_json: bool) -> None:
    declaration = load(path)
    declared = chosen(declaration, loop)
    folder = declaration.path.parent
    Environment.read(folder, environment)  # a mistake in everloop.toml is one of the declaration
    schema = sources.schema_of(declared.source, folder)
    facts = label_facts(declared, folder, schema)
    check_warm(declared)
    resolved = resolve(declared, schema, facts)
    findings = trial.examine(resolved, folder)
    lines = describe(resolved)
    tried = trial.turn(declared, folder=folder, source=declaration.source, rows=turn) if turn else None
    value: dict[str, Any] = {
        "loop": declared.name,
        "sound": True,
        "will": lines,
        "source": findings.to_json(),
        "turn": None if tried is None else tried.to_json(),
    }

    def people(console: Console) -> None:
        console.print(f"[bold]{declared.name}[/bold] is sound. It will:")
        for line in lines:
            console.print(f"  • {line}", markup=False)
        for line in findings.sentences():
            console.print(f"  {line}", markup=False)
        if tried is not None:
            console.print()
            for line in tried.sentences():
                console.print(line, markup=False)

    emit(value, as_json, people)


def run(path: Path, *, loop: str | None, environment: str | None, as_json: bool) -> None:
    installation = install(path, name=loop, environment=environment)
    console = Console(stderr=True, soft_wrap=True, highlight=False)
    told: list[Decision] = []

    def progress(step: str, detail: dict[str, Any]) -> None:
        if not as_json:
            text = ", ".join(f"{key} {_short(value)}" for key, value in detail.items())
            console.print(f"  {step}{': ' + text if text else ''}", style="dim", markup=False)

    executor = executor_of(installation.environment, installation.loop)
    executor.warm()
    try:
        controller = Controller(
            installation, Engine(installation.ledger, installation.clock), executor, told=told.append, progress=progress
        )
        taken = controller.take_in()
        if not as_json:
            console.print(f"took in {len(taken)} files, {sum(batch.added for batch in taken):,} new rows", style="dim")
        finished = controller.work()  # A turn that a kill left behind is the one that was asked for.
        _refuse_undecided(installation)
        if not finished:
            controller.ask(Asked(action="run"))
            controller.work()
        release = publish(installation)
        _mirror(installation, console)
        with installation.ledger.read() as connection:
            made = versions.of(connection, installation.name)
            turn = runs.of(connection, installation.name, name="turn", newest=1)
        failure = _failure(turn[-1]) if turn else None
        if failure is not None and as_json:
            raise TrainError(failure)  # one JSON value: the error

        def people(out: Console) -> None:
            for decision in told:
                out.print(f"{decision.action}: {decision.because}", markup=False)
            out.print(f"[bold]{installation.name}[/bold]: {serving(release)}")

        emit(
            {
                "release": plain(release),
                "version": plain(made[-1]) if made else None,
                "decisions": [plain(d) for d in told],
            },
            as_json,
            people,
        )
        if failure is not None:
            raise TrainError(failure)
    finally:
        executor.close()
        installation.close()


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _mirror(installation: Installation, console: Console) -> None:
    """Send the turn to its mirror, where there is one; a slow one is not waited for."""
    address = address_of(installation.environment)
    if address is None:
        return
    mirroring = Mirroring(installation, address, lambda text: console.print(text, style="dim", markup=False))
    mirroring.look()
    if not mirroring.wait(MIRROR_SECONDS):
        console.print("the mirror is slow; `everloop mirror` sends what is missing", style="dim", markup=False)


def _failure(turn: runs.RunState) -> str | None:
    """Why a turn that has ended made no version; None when it made one, or has not ended."""
    if turn.status in ("failed", "cancelled"):
        return f"The turn {turn.id} has {turn.status}: {turn.because}"
    if turn.status == "done" and turn.result["version"] is None:
        return str(turn.result["because"])
    return None


def _refuse_undecided(installation: Installation) -> None:
    with installation.ledger.read() as connection:
        undecided = runs.of(connection, installation.name, name="turn", status="needs-decision")
    for each in undecided:
        raise NeedsDecision(
            f"The turn {each.id} waits for you: {each.because} "
            f"Write `everloop decide {each.id} continue`, `restart` or `cancel`, then run again."
        )


def up(
    path: Path, *, loop: str | None, environment: str | None, host: str | None, port: int | None, every: float
) -> None:
    installations = install_all(path, name=loop, environment=environment)
    console = Console(soft_wrap=True, highlight=False)
    stop = threading.Event()

    def asked_to_stop(number: int, frame: FrameType | None) -> None:
        stop.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, asked_to_stop)

    def told(decision: Decision) -> None:
        whose = f"{decision.loop}: " if len(installations) > 1 else ""
        version = f" v{decision.version}" if decision.version is not None else ""
        console.print(f"{when(decision.at)}  {whose}{decision.action}{version}  {decision.because}", markup=False)

    settings = installations[0].environment
    try:
        settings.serve.check_open(host or settings.host)
        upkeep = Upkeep(
            installations,
            host=host or settings.host,
            port=settings.port if port is None else port,
            processes=settings.processes,
            every=timedelta(seconds=every),
            told=told,
            said=lambda text: console.print(text, markup=False),
            metrics=settings.metrics,
        )
        upkeep.run(stop)
    finally:
        for installation in installations:
            installation.close()


def monitoring(path: Path, *, loop: str | None, environment: str | None, out: Path, as_json: bool) -> None:
    declaration = load(path)
    loops = declaration.loops if loop is None else (chosen(declaration, loop),)
    settings = Environment.read(declaration.path.parent, environment)
    written = write(loops, settings, out)

    def people(console: Console) -> None:
        for each in written:
            console.print(str(each), markup=False)
        console.print("promtool check config prometheus.yml, in that folder, reads them all", style="dim", markup=False)

    emit({"files": [str(each) for each in written]}, as_json, people)
