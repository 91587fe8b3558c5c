"""What a whole turn costs beyond the fit itself, and where the time goes, step by step.

Run: python -m bench.turn [--quick] [--json] [--data PATH]

A real home, ledger, lake and worker process on the rows of elec2 (45,312; made rows of the same shape where the file
is not there): all rows but the last 512 come as one file and a first turn makes the first version; the rest comes, and
a second turn over everything, with a champion to be held against, is the one that is taken apart. The fit is
LightGBM's own time in that same turn. A worker that has imported its libraries stands by, as it does behind
``everloop up``; one row tells what the turn costs without it. A whole run keeps its figures in results/turn.json.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from bench.rows import Row, parser, show
from lightgbm import LGBMClassifier

import everloop as el
from everloop.clock import SimulatedClock
from everloop.data import sources
from everloop.durable.engine import Engine
from everloop.jobs.process import ProcessExecutor
from everloop.loop.controller import Controller
from everloop.loop.environment import Environment
from everloop.loop.events import Asked
from everloop.loop.installation import label_facts, open_installation
from everloop.loop.preload import modules
from everloop.store.home import Home
from everloop.store.ledger import candidates, decisions

RESULTS = Path(__file__).parent / "results" / "turn.json"
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "elec2.parquet"
LIBRARIES = ("everloop", "polars", "deltalake", "lightgbm", "scikit-learn", "onnx", "onnxruntime", "sqlalchemy")
ROWS, LATER = 45_312, 512
BEYOND_FIT = 3.0
"""Seconds: what was promised."""


def features(row: Any) -> dict[str, Any]:
    return {
        "day_of_week": row.day_of_week,
        "period": row.period,
        "nswdemand": row.nswdemand,
        "vicprice": row.vicprice,
        "vicdemand": row.vicdemand,
        "transfer": row.transfer,
    }


LOOP = el.Loop(
    name="elec2",
    source=el.Parquet("in/*.parquet", key="ts", event_time="ts", time_zone="UTC", after=["nswprice", "date_norm"]),
    label=el.Label("price_up"),
    features=features,
    window=el.Everything(test=0.1),
    train=el.Train(LGBMClassifier(n_jobs=1, verbose=-1)),
    score=el.metric.Accuracy(),
)


def rows_of(path: Path | None) -> pl.DataFrame:
    if path is not None:
        return pl.read_parquet(path).sort("ts")
    random = np.random.default_rng(0)
    start = datetime(1996, 5, 7, tzinfo=UTC)
    demand, price = random.random(ROWS), random.random(ROWS)
    chance = 1 / (1 + np.exp(-6 * (demand - 0.5) - 4 * (price - 0.5)))
    return pl.DataFrame(
        {
            "ts": pl.datetime_range(start, start + timedelta(minutes=30 * (ROWS - 1)), "30m", eager=True),
            "day_of_week": (np.arange(ROWS) // 48 % 7 + 1).astype(np.int64),
            "period": np.arange(ROWS) % 48 / 47,
            "nswdemand": demand,
            "vicprice": price,
            "vicdemand": random.random(ROWS),
            "transfer": random.random(ROWS),
            "nswprice": random.random(ROWS),
            "date_norm": np.linspace(0, 1, ROWS),
            "price_up": (random.random(ROWS) < chance).astype(np.int64),
        }
    )


class Took(dict[str, float]):
    """Seconds of one round, by part."""

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self[name] = time.perf_counter() - begin


def measured(folder: Path, rows: pl.DataFrame, *, warm: bool) -> dict[str, float]:
    """One round in a home of its own. Raises RuntimeError where a turn makes no version."""
    took = Took()
    (folder / "in").mkdir()
    rows[:-LATER].write_parquet(folder / "in" / "1.parquet")
    schema = sources.schema_of(LOOP.source, folder)
    newest: datetime = rows["ts"].max()  # type: ignore[assignment]
    marks: list[tuple[str, float]] = []

    def progress(step: str, detail: dict[str, Any]) -> None:
        if not marks or marks[-1][0] != step:
            marks.append((step, time.perf_counter()))

    installation = open_installation(
        LOOP,
        schema=schema,
        facts=label_facts(LOOP, folder, schema),
        folder=folder,
        source=Path(__file__).read_bytes(),
        home=Home(folder / ".everloop"),
        environment=Environment(name="bench", home=folder / ".everloop"),
        clock=SimulatedClock(newest.replace(tzinfo=UTC) + timedelta(hours=1)),
    )
    engine = Engine(installation.ledger, installation.clock)
    with ProcessExecutor(preload=modules(LOOP) if warm else ()) as executor:
        controller = Controller(installation, engine, executor, progress=progress)
        with took.timing("ingest"):
            controller.take_in()
        turn(controller, "first", took)
        rows[-LATER:].write_parquet(folder / "in" / "2.parquet")
        controller.take_in()
        time.sleep(5.0 if warm else 0.0)  # as after a look: the next worker has long imported what it needs
        marks.clear()
        turn(controller, "whole", took)
        ended = time.perf_counter()
    engine.close()
    with installation.ledger.read() as connection:
        made = [each for each in decisions.of(connection, LOOP.name) if each.action == "turn failed"]
        known = candidates.of(connection, LOOP.name)
    installation.close()
    if made or len(known) != 2:
        raise RuntimeError(f"The turn made no version: {'; '.join(each.because for each in made)}")
    inside = known[-1].seconds
    edges = [*marks, ("end", ended)]
    steps = {name: following - begin for (name, begin), (_, following) in pairwise(edges)}
    worker = steps.pop("fit")
    steps["package and release"] = steps.pop("package")
    took |= {f"step: {name}": seconds for name, seconds in steps.items()}
    took |= {f"in the worker: {name}": seconds for name, seconds in inside.items()}
    took["worker's start, files, words"] = worker - sum(inside.values())
    took["fit"] = inside["fit"]
    took["beyond the fit"] = took["whole"] - inside["fit"]
    return took


def turn(controller: Controller, name: str, took: Took) -> None:
    controller.ask(Asked(action="run", by="the bench"))
    with took.timing(name):
        controller.work()


def table(found: list[dict[str, float]], cold: list[dict[str, float]]) -> list[Row]:
    def row(what: str, name: str, of: list[dict[str, float]], **more: Any) -> Row:
        return Row(what=what, ours=median(each[name] for each in of), unit="s", rounds=len(of), **more)

    fit = median(each["fit"] for each in found)
    beside = {"peer": fit, "peer_name": "the fit"}
    parts = [name for name in found[0] if name.startswith(("step", "in the worker", "worker"))]
    parts.sort(key=lambda name: -median(each[name] for each in found))
    return [
        row("a whole turn beyond the fit", "beyond the fit", found, target=BEYOND_FIT, **beside),
        row("a whole turn", "whole", found, **beside),
        *(row(f"  {name}", name, found) for name in parts),
        row("the first turn, beside its worker's start", "first", found),
        row("a turn beyond the fit, no worker standing by", "beyond the fit", cold, **beside),
        row("taking in the file", "ingest", found),
    ]


def shape(data: str) -> dict[str, Any]:
    versions = {name: importlib.metadata.version(name) for name in LIBRARIES}
    return {"data": data, "cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}


def main() -> None:
    options = parser(__doc__ or "")
    options.add_argument("--data", type=Path, default=DATA, help="elec2.parquet")
    chosen = options.parse_args()
    path = chosen.data if chosen.data.exists() else None
    rows = rows_of(path)
    found: list[dict[str, float]] = []
    cold: list[dict[str, float]] = []
    for number in range(2 if chosen.quick else 7):
        for warm, into in ((True, found), (False, cold)):
            if warm or number < (1 if chosen.quick else 3):
                with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
                    into.append(measured(Path(folder), rows, warm=warm))
    made = table(found, cold)
    if not chosen.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        kept = {
            "machine": shape("elec2" if path else "made"),
            "rows": [row.to_json() for row in made],
            "rounds": {"warm": found, "cold": cold},
        }
        RESULTS.write_text(json.dumps(kept, indent=1) + "\n")
    show(made, as_json=chosen.json)


if __name__ == "__main__":
    main()
