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
        command = [python, __file__, "--measure", variant, "--folder", folder, "--workflows", str(workflows)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"{variant} failed:\n{done.stderr[-2_000:]}")
        found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


def rows(found: dict[str, list[dict[str, Any]]], rounds: int) -> list[dict[str, Any]]:
    def middle(variant: str, what: str) -> float | None:
        return statistics.median(each[what] for each in found[variant]) if found.get(variant) else None

    def row(what: str, ours: float | None, peer: float | None, name: str | None, target: float, unit: str) -> Any:
        """With a peer the target is a ratio, without one a limit."""
        ratio = None if ours is None or peer is None else ours / peer
        judged = ratio if name else ours
        return {
            "what": what,
            "ours": ours,
            "peer": peer,
            "peer_name": name,
            "limit": None if name else target,
            "ratio": ratio,
            "target": target,
            "met": None if judged is None else judged <= target,
            "unit": unit,
            "rounds": rounds,
        }

    cpu, wall = middle("ours", "cpu_ms"), middle("ours", "wall_ms")
    return [
        row("processor time a step, runs of 6", cpu, None, None, 1.0, "ms"),
        row("processor time a step, runs of 60", middle("long", "cpu_ms"), None, None, 1.0, "ms"),
        row("processor time a step", cpu, middle("dbos", "cpu_ms"), "DBOS", 1 / 3, "ms"),
        row("wall time a step", wall, middle("dbos", "wall_ms"), "DBOS", 1.0, "ms"),
        row("wall time a step", wall, middle("insert", "wall_ms"), "a bare insert", 3.0, "ms"),
        row("opening a ledger that exists", middle("opening", "open_ms"), None, None, 30.0, "ms"),
        row("restart to first step, 1,000 runs due", middle("opening", "first_ms"), None, None, 1_000.0, "ms"),
        row("a look that finds nothing to do", middle("opening", "idle_ms"), None, None, 5.0, "ms"),
    ]


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
        "python": platform.python_version(),
        "system": platform.system(),
        "sqlite": sqlite3.sqlite_version,
        **{name: version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and workflows, within a minute")
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    parser.add_argument("--save", action="store_true", help=f"keep the rows in {RESULTS.name}")
    parser.add_argument("--dbos-python", help="an interpreter that has dbos, if this one has not")
    parser.add_argument("--measure", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--workflows", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
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
    table = rows(found, rounds)
    versions = shape()
    if "dbos" in pythons:
        asked = "import importlib.metadata; print(importlib.metadata.version('dbos'))"
        versions["dbos"] = subprocess.check_output([pythons["dbos"], "-c", asked], text=True).strip()
    if options.save:
        RESULTS.parent.mkdir(exist_ok=True)
        kept = {"machine": versions, "rows": table, "rounds": found, "workflows": workflows, "steps": STEPS}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    if options.json:
        print(json.dumps(table))
        return
    print(f"{'what':40}{'ours':>9}{'peer':>9}  {'beside':15}{'ratio':>7}{'target':>9}  met")
    for each in table:
        shown = [f"{each[key]:.2f}" if each[key] is not None else "-" for key in ("ours", "peer", "ratio", "target")]
        met = {True: "yes", False: "NO", None: "-"}[each["met"]]
        name = each["peer_name"] or "a limit"
        print(f"{each['what']:40}{shown[0]:>9}{shown[1]:>9}  {name:15}{shown[2]:>7}{shown[3]:>9}  {met}")


if __name__ == "__main__":
    main()
