"""What a look of the controller costs: files taken in, answers folded, score, drift, evidence, decision.

Run: python -m bench.looks [--quick] [--json]

CPU seconds of the controller's process, all its threads, over every look of a replay: daily looks at the simulated
parcels of the demo (about 80 rows a day, a file a day), and weekly looks at elec2 (336 rows a week) where its rows are
there. The server and the fits run in processes of their own and are not counted. A whole run replays half a year of
each and keeps its figures in results/looks.json.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from statistics import mean, median
from typing import Any

from bench.rows import Row, parser, show

from everloop.loop.demo import EXAMPLES, ROWS_PER_DAY
from everloop.loop.replay import Plan, Replay, read_history
from everloop.loop.simulate import simulate
from everloop.spec.load import load

RESULTS = Path(__file__).parent / "results" / "looks.json"
DATA = EXAMPLES.parents[1] / "shared" / "data"
LIBRARIES = ("everloop", "polars", "deltalake", "sqlalchemy")
DAY, WEEK = timedelta(days=1), timedelta(days=7)
DAILY_MS, WEEKLY_MS = 40.0, 100.0
"""What was promised."""


def looks(declaration: Path, *, look: timedelta, length: timedelta) -> list[float]:
    """CPU milliseconds of each look."""
    loaded = load(declaration)
    history = read_history(loaded.loops[0], loaded.source, loaded.path.parent)
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        running = Replay(history, Plan(home=Path(folder), look=look))
        running.end = min(running.end, running.start + length)
        controller = running._controller
        controller.look = timed(controller.look, took)  # type: ignore[method-assign]
        try:
            running.run()
        finally:
            running.close()
    return took


def timed(look: Callable[[], Any], took: list[float]) -> Callable[[], Any]:
    def measured() -> Any:
        begin = time.process_time()
        try:
            return look()
        finally:
            took.append(1_000 * (time.process_time() - begin))

    return measured


def daily(length: timedelta) -> list[float]:
    with tempfile.TemporaryDirectory(prefix="everloop-bench-made-") as folder:
        simulate(Path(folder), rows_per_day=ROWS_PER_DAY)
        declaration = Path(folder) / "parcels.py"
        declaration.write_bytes((EXAMPLES / "parcels.py").read_bytes())
        return looks(declaration, look=DAY, length=length)


def rows(found: dict[str, list[float]]) -> list[Row]:
    targets = {"a daily look at the simulated parcels": DAILY_MS, "a weekly look at elec2": WEEKLY_MS}
    made: list[Row] = []
    for what, took in found.items():
        made.append(Row(what=f"{what}, mean", ours=mean(took), unit="ms CPU", target=targets[what], rounds=len(took)))
        made.append(Row(what=f"{what}, median", ours=median(took), unit="ms CPU", rounds=len(took)))
        made.append(Row(what=f"{what}, longest", ours=max(took), unit="ms CPU", rounds=len(took)))
    return made


def shape() -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def main() -> None:
    options = parser(__doc__ or "").parse_args()
    found = {"a daily look at the simulated parcels": daily(60 * DAY if options.quick else 182 * DAY)}
    if (DATA / "elec2.parquet").exists():
        length = (10 if options.quick else 26) * WEEK
        found["a weekly look at elec2"] = looks(EXAMPLES / "elec2.py", look=WEEK, length=length)
    made = rows(found)
    if not options.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        kept = {"machine": shape(), "rows": [row.to_json() for row in made], "looks": found}
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    show(made, as_json=options.json)


if __name__ == "__main__":
    main()
