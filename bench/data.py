"""What data costs: taking in small batches, taking a snapshot and reading its rows again.

Run: python -m bench.data [--quick] [--json]. On elec2 when ../shared/data is there, else on made rows of its shape.
CPU time, because the machine is shared.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl

from everloop.data import snapshot, sources
from everloop.data.ingest import Ingest
from everloop.records import digest_of
from everloop.spec.label import Label
from everloop.spec.loop import Loop
from everloop.spec.resolve import LabelFacts, resolve
from everloop.spec.source import Parquet
from everloop.spec.train import Estimator, Train
from everloop.spec.window import Everything, Last
from everloop.store.lake import Lake

ELEC2 = Path(__file__).parents[2] / "shared" / "data" / "elec2.parquet"
BATCH = 350
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def history() -> pl.DataFrame:
    if ELEC2.exists():
        return pl.read_parquet(ELEC2)
    random = np.random.default_rng(0)
    count = 45_312
    numbers = {f"number_{n}": random.random(count) for n in range(8)}
    ts = [datetime(1996, 5, 7) + timedelta(minutes=30 * n) for n in range(count)]
    return pl.DataFrame({"ts": ts, **numbers, "price_up": random.integers(0, 2, count)})


def declared(frame: pl.DataFrame) -> Any:
    source = Parquet("*.parquet", key=("ts",), event_time="ts", time_zone="UTC")
    loop = Loop(
        name="bench",
        source=source,
        label=Label("price_up", task="binary"),
        train=Train(Estimator(path="sklearn.linear_model.LogisticRegression", parameters={})),
        window=Everything(),
    )
    head = sources.normalised(source, frame.head(1), {}, where="rows", digest="")
    return resolve(loop, sources.types_of(head.schema), LabelFacts(distinct=(0, 1), rows=len(frame), missing=0))


def cpu(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return (time.process_time() - begun) * 1000


def row(
    what: str, figures: list[float], *, target: float | None, peer: list[float] | None = None, peer_name: str = ""
) -> dict[str, Any]:
    ours = median(figures)
    return {
        "what": what,
        "ours": round(ours, 2),
        "peer": None if peer is None else round(median(peer), 2),
        "peer_name": peer_name or None,
        "limit": "at most",
        "ratio": None if peer is None else round(ours / median(peer), 2),
        "target": target,
        "met": None if target is None else ours <= target,
        "unit": "ms CPU",
        "rounds": len(figures),
    }


def rows(*, quick: bool = False) -> list[dict[str, Any]]:
    rounds = 5 if quick else 20
    frame = history()
    resolved = declared(frame)
    week = replace(resolved, loop=replace(resolved.loop, window=Last(timedelta(days=56), test=timedelta(days=7))))
    with tempfile.TemporaryDirectory() as place:
        lake, folder = Lake(Path(place) / "lake"), Path(place)
        taking = Ingest(resolved, lake)
        step = BATCH if not quick else 10 * BATCH
        paths = []
        for start in range(0, len(frame), step):
            paths.append(folder / f"{start:06d}.parquet")
            frame[start : start + step].write_parquet(paths[-1])
        whole = [cpu(lambda: [taking.file(path, now=NOW) for path in paths])]
        small = []
        for number in range(rounds):
            moved = frame[:BATCH].with_columns(pl.col("ts") + timedelta(minutes=30) * (len(frame) + number * BATCH))
            path = folder / f"more-{number}.parquet"
            moved.write_parquet(path)
            small.append(cpu(lambda path=path: taking.file(path, now=NOW)))  # type: ignore[misc]
        again = [cpu(lambda: taking.file(paths[0], now=NOW)) for _ in range(rounds)]
        rebuilt = [cpu(lambda: Ingest(resolved, Lake(lake.root)).frame(frame[:0], now=NOW))]
        for number in range(max(2, rounds // 4)):
            moved = frame[:1].with_columns(
                pl.col("ts") + timedelta(minutes=30) * (len(frame) + rounds * BATCH + number)
            )
            rebuilt.append(cpu(lambda moved=moved: Ingest(resolved, Lake(lake.root)).frame(moved, now=NOW)))  # type: ignore[misc]
        taken, last = (snapshot.take(each, lake, as_of=NOW) for each in (resolved, week))
        takes = [cpu(lambda: snapshot.take(resolved, lake, as_of=NOW)) for _ in range(rounds)]
        reads = [cpu(lambda: snapshot.samples(resolved, lake, taken)) for _ in range(rounds)]
        weeks = [cpu(lambda: snapshot.samples(week, lake, last)) for _ in range(rounds)]
        one = folder / "one.parquet"
        lake.read("raw").write_parquet(one)
        plain = [cpu(lambda: pl.read_parquet(one).sort("_event_time", "_key")) for _ in range(rounds)]
        hashed = [cpu(lambda: digest_of(one.read_bytes())) for _ in range(rounds)]
    return [
        row(f"take in {len(paths)} files, {len(frame):,} rows in all", whole, target=None),
        row(f"take in {BATCH} rows beside {len(frame):,} known", small, target=60.0),
        row("see that a file is known", again, target=1.0),
        row("know the rows again at start, with a batch of one", rebuilt[1:], target=500.0),
        row(f"snapshot of {taken.train_rows + taken.test_rows:,} rows", takes, target=100.0),
        row(
            f"read a snapshot of {taken.train_rows + taken.test_rows:,} rows and prove it the same",
            reads,
            target=100.0,
            peer=plain,
            peer_name="polars: read and sort one Parquet file, no proof",
        ),
        row("read the newest 8 weeks of it", weeks, target=50.0),
        row("(SHA-256 of the same rows as one file)", hashed, target=None),
    ]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    found = rows(quick=chosen.quick)
    if chosen.json:
        print(json.dumps(found))
        return
    print(f"{'what':70} {'ours':>10} {'target':>10} {'peer':>10}")
    for each in found:
        target, peer = each["target"] or "", each["peer"] or ""
        print(f"{each['what']:70} {each['ours']:10} {target:>10} {peer:>10} {each['unit']}")


if __name__ == "__main__":
    main()
