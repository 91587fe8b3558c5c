"""What it costs to watch for drift: a report of two tables beside Evidently's, a million rows, a served prediction.

CPU seconds, the best of a few. Evidently runs in an environment of its own: `make bench-watch` makes .venv-bench/evidently;
without it those columns are empty. 20 columns, 12 numbers and 8 texts, of which 3 and 2 moved; the report holds PSI, KS,
Jensen-Shannon, Wasserstein, chi-square, missing, new, outliers, the rows that carry it. Evidently renders nothing here
either; its default picks one test a column.
"""

import csv
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from bench.rows import Row
from bench.watch.parts import Part
from numpy.typing import NDArray

from everloop.loop import tables
from everloop.measure import drift, profile, space
from everloop.measure.carried import carried
from everloop.measure.comparison import compare
from everloop.measure.sketch import Sketch
from everloop.records import InputColumn, Signature
from everloop.spec.retrain import Drift
from everloop.store.lake import PREDICTIONS
from everloop.watch.drift import signals_of
from everloop.watch.observed import PREDICTION, observe
from everloop.watch.recent import Recent
from everloop.watch.windows import Window

ROOT = Path(__file__).resolve().parents[2]
Table = dict[str, NDArray[Any]]
NAMES = np.array([f"value {index}" for index in range(40)], dtype=object)


def table(random: np.random.Generator, rows: int, *, columns: int = 20, moved: bool = False) -> Table:
    """Three in five numbers, two in five texts."""
    made: Table = {}
    for index in range(columns):
        shift = 0.3 if moved and index % 4 == 0 else 0.0
        if index % 5 < 3:
            made[f"number_{index}"] = random.lognormal(shift, 1, rows)
        else:
            made[f"text_{index}"] = NAMES[np.minimum(random.zipf(1.6 + shift, rows), 40) - 1]
    return made


def report(reference: profile.Profile, current: Table) -> list[str]:
    now = profile.build(current, like=reference)
    compared = compare(reference, now)
    drift.signals(compared)
    return [
        str(each)
        for found in compared
        if found.psi > 0.1
        for each in carried(reference.columns[found.column], now.columns[found.column])
    ]


def spent(work: Callable[[], object], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def evidently(then: Table, now: Table, method: str, rounds: int, folder: Path) -> float | None:
    python = ROOT / ".venv-bench" / "evidently" / "bin" / "python"
    if not python.exists():
        return None
    paths = []
    for name, each in (("then", then), ("now", now)):
        path = folder / f"{name}.csv"
        paths.append(str(path))
        if not path.exists():
            with path.open("w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(each)
                writer.writerows(zip(*(column.tolist() for column in each.values()), strict=True))
    script = ROOT / "bench" / "peers" / "evidently_report.py"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [str(python), str(script), *paths, method, str(rounds)],
        capture_output=True,
        text=True,
        timeout=900,
        env=environment | {"DO_NOT_TRACK": "1"},
        check=False,
    )
    return float(json.loads(done.stdout.strip().splitlines()[-1])) if done.returncode == 0 else None


def beside_evidently(rows: int, rounds: int) -> list[Row]:
    random = np.random.default_rng(0)
    then, now = table(random, rows), table(random, rows, moved=True)
    ours = spent(lambda: report(profile.build(then), now), rounds)
    made = []
    with tempfile.TemporaryDirectory() as folder:
        for method, name in (("default", "its defaults"), ("ks", "KS and chi-square"), ("psi", "PSI")):
            peer = evidently(then, now, method, rounds, Path(folder))
            made.append(
                Row(
                    what=f"drift report, {rows:,} × 20 mixed, both sides",
                    ours=ours,
                    peer=peer,
                    peer_name=f"Evidently, {name}",
                    target=peer / 20 if peer else None,
                    unit="CPU seconds",
                    rounds=rounds,
                )
            )
    return made


def from_files(rows: int, columns: int, target: float | None, rounds: int) -> list[Row]:
    """`everloop drift` without its page: two Parquet files read, compared, judged."""
    random = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        before, now = Path(folder) / "before.parquet", Path(folder) / "now.parquet"
        for path, moved in ((before, False), (now, True)):
            made = table(random, rows, columns=columns, moved=moved)
            pl.DataFrame({name: pl.Series(values.tolist()) for name, values in made.items()}).write_parquet(path)
        wall = time.perf_counter()
        ours = spent(lambda: tables.compare(before, now), rounds)
        wall = (time.perf_counter() - wall) / rounds
    what = f"drift report of two Parquet files, {rows:,} × {columns}"
    return [
        Row(what=what, ours=ours, target=target, unit="CPU seconds", rounds=rounds),
        Row(what=f"{what}, from start to end", ours=wall, target=target, unit="seconds", rounds=rounds),
    ]


def a_prediction(rows: int, rounds: int) -> list[Row]:
    """Everything the monitor does with a served prediction once it lies in the log: sketch, bins, counts."""
    random = np.random.default_rng(2)
    reference = profile.build(table(random, 20_000))
    now = table(random, rows)

    def watched() -> None:
        sketch = Sketch()
        sketch.update(now, like=reference)
        compare(reference, sketch.profile(like=reference))

    return [
        Row(
            what=f"monitoring a served prediction of 20 columns, windows of {rows:,}",
            ours=spent(watched, rounds) / rows * 1e6,
            target=5.0,
            unit="µs CPU",
            rounds=rounds,
        )
    ]


def observed(rows: int, rounds: int) -> list[Row]:
    """The same through the live code, from the table of predictions: read, sketch, bins by day, the model's answers."""
    random = np.random.default_rng(3)
    numbers = [InputColumn(name=f"number_{index}", type="number", index=index) for index in range(12)]
    texts = [InputColumn(name=f"text_{index}", type="text", index=index) for index in range(8)]
    signature = Signature(inputs=(*numbers, *texts), task="binary", classes=(0, 1), positive=1)
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def values(count: int) -> Table:
        made: Table = {each.name: random.normal(size=count) for each in numbers}
        return made | {each.name: NAMES[random.integers(0, 40, count)] for each in texts}

    reference = profile.build(values(20_000) | {PREDICTION: random.random(20_000)})
    served, chance = values(rows), random.random(rows)
    whole = pl.DataFrame({f"input_{name}": column.tolist() for name, column in served.items()}).with_columns(
        id=pl.int_range(rows).cast(pl.String),
        at=pl.lit(start) + pl.duration(seconds=pl.int_range(rows)),
        event_time=pl.lit(start) + pl.duration(seconds=pl.int_range(rows)),
        version=pl.lit(1, pl.Int64),
        arm=pl.lit("champion"),
        error=pl.lit(value=False),
        p_1=pl.Series(chance),
    )
    with tempfile.TemporaryDirectory() as folder:
        lake = Recent(Path(folder))
        lake.append(PREDICTIONS, whole.with_columns(pl.col("at", "event_time").cast(pl.Datetime("us", "UTC"))))
        window = Window(since=start, until=start + timedelta(days=2))

        def looked() -> None:
            seen = observe(lake, window, signature, reference, champion=1)
            assert seen.profile.rows == rows
            signals_of(reference, seen, Drift())

        looked()
        cost = spent(looked, rounds) / rows * 1e6
    what = f"monitoring a served prediction of 20 columns, read from the log's table, windows of {rows:,}"
    return [Row(what=what, ours=cost, target=5.0, unit="µs CPU", rounds=rounds)]


def pictures(rounds: int) -> list[Row]:
    """The one thing that a server does for the monitor, in the log's thread: everything else is logged anyway."""
    picture = np.random.default_rng(4).random((16, 3, 64, 64)).astype(np.float32)

    def summed() -> None:
        for _ in range(50):
            space.summary(picture)

    return [
        Row(what="the log's thread: what is kept of a picture of 3 × 64 × 64, batches of 16",
            ours=spent(summed, rounds) / 50 / 16 * 1e6, unit="µs CPU", rounds=rounds),
    ]  # fmt: skip


def part(*, quick: bool = False) -> Part:
    made = [
        *beside_evidently(10_000 if quick else 100_000, 1 if quick else 2),
        *from_files(100_000 if quick else 1_000_000, 20, 5.0, 1 if quick else 2),
        *a_prediction(1_000, 3),
        *a_prediction(10_000, 3),
        *observed(1_000, 3),
        *observed(10_000, 3),
        *pictures(3),
    ]
    missing = any(row.peer_name and row.peer_name.startswith("Evidently") and row.peer is None for row in made)
    notes = ["Evidently is not installed: `make .venv-bench/evidently/ready`."] if missing else []
    notes.append(
        "Nothing of the monitor is on a request's path: a server hands rows to its log's thread as it would without one, and the "
        "controller reads them there. `read from the log's table` is all of it: the table, sketches, bins by day, signals."
    )
    return Part(rows=made, notes=notes)
