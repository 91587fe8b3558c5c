"""What a durable step costs on SQLite, beside DBOS and beside one bare insert that is forced to disk.

Run: python -m bench.durable [--quick] [--json] [--save] [--dbos-python PATH]

Each variant runs in a process of its own, in turn, on the same disk: workflows of six steps, each step writing a small
file. DBOS is measured when it can be imported here, or by another interpreter named with ``--dbos-python``.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.rows import Row, parser, show

STEPS = 6
RESULTS = Path(__file__).parent / "results" / "durable.json"


def write_small(folder: Path, name: str) -> str:
    (folder / name).write_bytes(b"x" * 100)
    return name


# One variant each: warm up with one workflow, then measure. Processor seconds are of the whole process, all threads.


def long(folder: Path, workflows: int) -> dict[str, Any]:
    """What a step adds to a run: with sixty of them the run's own beginning and end weigh little."""
    return ours(folder, max(1, workflows // 10), 10 * STEPS)


def ours(folder: Path, workflows: int, steps: int = STEPS) -> dict[str, Any]:
    from everloop.clock import SystemClock
    from everloop.durable import Engine, Run
    from everloop.store.ledger import Ledger

    ledger = Ledger.open(folder / "ledger.sqlite")
    engine = Engine(ledger, SystemClock())
    walls: list[float] = []

    def turn(run: Run) -> str:
        for number in range(steps):
            start = time.perf_counter()
            run.step(f"step {number}", lambda number=number: write_small(folder, f"{number}"))  # type: ignore[misc]
            walls.append(time.perf_counter() - start)
        return "done"

    def work(count: int) -> None:
        for number in range(count):
            engine.submit("turn", "bench", {"number": number}, "code")
            engine.work({"turn": turn}, "code")

    found = measured(work, workflows, walls, steps)
    engine.close()
    ledger.close()
    return found


def dbos(folder: Path, workflows: int) -> dict[str, Any]:
    from dbos import DBOS

    DBOS(
        config={
            "name": "bench-durable",
            "system_database_url": f"sqlite:///{folder}/dbos.sqlite",
            "log_level": "ERROR",
            "run_admin_server": False,
        }
    )
    walls: list[float] = []

    @DBOS.step()  # type: ignore[untyped-decorator, unused-ignore]
    def step(number: int) -> str:
        return write_small(folder, f"{number}")

    @DBOS.workflow()  # type: ignore[untyped-decorator, unused-ignore]
    def turn(number: int) -> str:
        for each in range(STEPS):
            start = time.perf_counter()
            step(each)
            walls.append(time.perf_counter() - start)
        return "done"

    def work(count: int) -> None:
        for number in range(count):
            turn(number)

    DBOS.launch()
    found = measured(work, workflows, walls)
    DBOS.destroy()
    return found


def insert(folder: Path, workflows: int) -> dict[str, Any]:
    """The least that a journal can do: one insert, committed to a write-ahead log and forced to disk."""
    import sqlite3

    connection = sqlite3.connect(folder / "bare.sqlite", isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE steps (run TEXT, position INTEGER, name TEXT, result TEXT)")
    walls: list[float] = []

    def work(count: int) -> None:
        for number in range(count):
            for each in range(STEPS):
                start = time.perf_counter()
                result = write_small(folder, f"{each}")
                row = (f"run {number}", each, f"step {each}", result)
                connection.execute("INSERT INTO steps VALUES (?, ?, ?, ?)", row)
                walls.append(time.perf_counter() - start)

    found = measured(work, workflows, walls)
    connection.close()
    return found


def nothing(folder: Path, workflows: int) -> dict[str, Any]:
    walls: list[float] = []

    def work(count: int) -> None:
        for _ in range(count):
            for each in range(STEPS):
                start = time.perf_counter()
                write_small(folder, f"{each}")
                walls.append(time.perf_counter() - start)

    return measured(work, workflows, walls)


def measured(work: Any, workflows: int, walls: list[float], steps: int = STEPS) -> dict[str, Any]:
    work(2)
    walls.clear()
    start = time.process_time()
    work(workflows)
    seconds = time.process_time() - start
    return {"cpu_ms": 1_000 * seconds / (workflows * steps), "wall_ms": 1_000 * statistics.median(walls)}


def opening(folder: Path, workflows: int) -> dict[str, Any]:
    """Opening a ledger that exists, and the first step of a controller that finds a thousand runs waiting."""
    from everloop.clock import SystemClock
    from everloop.durable import Engine, Run
    from everloop.store.ledger import Ledger

    ledger = Ledger.open(folder / "ledger.sqlite")
    engine = Engine(ledger, SystemClock())
    with ledger.write() as connection:
        for number in range(1_000):
            engine.submit("turn", "bench", {"number": number}, "code", connection=connection)
    ledger.close()

    start = time.perf_counter()
    ledger = Ledger.open(folder / "ledger.sqlite")
    opened = time.perf_counter() - start
    engine = Engine(ledger, SystemClock())
    begun: list[float] = []

    def turn(run: Run) -> None:
        run.step("first", lambda: begun.append(time.perf_counter()))

    engine.work({"turn": turn}, "code", limit=1)
    first = begun[0] - start
    looked = time.process_time()
    for _ in range(100):
        engine.work({"another": turn}, "code")
    idle = (time.process_time() - looked) / 100
    engine.close()
    ledger.close()
    return {"open_ms": 1_000 * opened, "first_ms": 1_000 * first, "idle_ms": 1_000 * idle}


VARIANTS = {"ours": ours, "long": long, "dbos": dbos, "insert": insert, "nothing": nothing, "opening": opening}


def run(variant: str, workflows: int, python: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        command = [
            python,
            "-m",
            "bench.durable",
            "--measure",
            variant,
            "--folder",
            folder,
            "--workflows",
            str(workflows),
        ]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
        if done.returncode != 0:
            raise SystemExit(f"{variant} failed:\n{done.stderr[-2_000:]}")
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


def rows(found: dict[str, list[dict[str, Any]]], rounds: int) -> list[Row]:
    def middle(variant: str, what: str) -> float:
        return float(statistics.median(each[what] for each in found[variant]))

    def row(what: str, ours: float, target: float, **beside: Any) -> Row:
        return Row(what=what, ours=ours, unit="ms", rounds=rounds, target=target, **beside)

    cpu, wall = middle("ours", "cpu_ms"), middle("ours", "wall_ms")
    bare = middle("insert", "wall_ms")
    made = [
        row("processor time a step, runs of 6", cpu, 1.0),
        row("processor time a step, runs of 60", middle("long", "cpu_ms"), 1.0),
        row("wall time a step", wall, 3 * bare, peer=bare, peer_name="a bare insert"),
        row("opening a ledger that exists", middle("opening", "open_ms"), 30.0),
        row("restart to first step, 1,000 runs due", middle("opening", "first_ms"), 1_000.0),
        row("a look that finds nothing to do, 999 others due", middle("opening", "idle_ms"), 10.0),
    ]
    if "dbos" in found:
        theirs, slower = middle("dbos", "cpu_ms"), middle("dbos", "wall_ms")
        made.append(row("processor time a step, runs of 6", cpu, theirs / 3, peer=theirs, peer_name="DBOS"))
        made.append(row("wall time a step", wall, slower, peer=slower, peer_name="DBOS"))
    return made


def shape() -> dict[str, Any]:
    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    import sqlite3

    names = ("everloop", "sqlalchemy")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "load": [round(each, 1) for each in os.getloadavg()],
        "python": platform.python_version(),
        "system": platform.system(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in names},
    }


def main() -> None:
    options = _options()
    if options.measure:
        print(json.dumps(VARIANTS[options.measure](options.folder, options.workflows)))
        return
    rounds, workflows = (3, 20) if options.quick else (7, 60)
    pythons = dict.fromkeys(VARIANTS, sys.executable)
    if options.dbos_python:
        pythons["dbos"] = options.dbos_python
    elif importlib.util.find_spec("dbos") is None:
        del pythons["dbos"]
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    for _ in range(rounds):
        for name, python in pythons.items():  # In turn, so that a busy minute of the machine hits all of them.
            found[name].append(run(name, workflows, python))
    made = rows(found, rounds)
    if options.save:
        machine = shape()
        if "dbos" in pythons:
            asked = "import importlib.metadata; print(importlib.metadata.version('dbos'))"
            machine["dbos"] = subprocess.check_output([pythons["dbos"], "-c", asked], text=True).strip()
        kept = {"machine": machine, "rows": [each.to_json() for each in made], "rounds": found, "workflows": workflows}
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    show(made, as_json=options.json)


def _options() -> argparse.Namespace:
    made = parser(__doc__ or "")
    made.add_argument("--save", action="store_true", help=f"keep the rows in {RESULTS.name}")
    made.add_argument("--dbos-python", help="an interpreter that has dbos, if this one has not")
    made.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    made.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    made.add_argument("--workflows", type=int, default=0, help=argparse.SUPPRESS)
    return made.parse_args()


if __name__ == "__main__":
    main()
