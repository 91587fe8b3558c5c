"""What giving up hopeless trials saves, and what helpers bring: the same forty trials with a pruner and without.

Run: python -m bench.search [--quick] [--json]

LightGBM on real rows in their order: hflights (was the departure late by 15 minutes?) and elec2 (does the price rise?).
Rows of the first half are fitted, the next fifth of them is what trials are judged on, as in a turn. Training seconds are
those of the trials, one after another in one process; the score is log loss on the judging rows, lower is better.
The peer is the same search of ours without a pruner. Every seed is one round; medians. A whole run keeps its figures
in results/search.json.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import polars as pl
from bench.rows import Row, parser, show
from lightgbm import LGBMClassifier

from everloop.measure.encode import apply, learn
from everloop.spec.metric import LogLoss
from everloop.spec.train import Integers, LogUniform, Search, Train, Uniform
from everloop.train.judging import Goal, Judging
from everloop.train.search import Report, Searched, search

RESULTS = Path(__file__).parent / "results" / "search.json"
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
TRIALS = 40
SETS: dict[str, tuple[str, list[str], str, int]] = {
    "hflights": (
        "hflights.parquet",
        ["month", "day_of_week", "carrier", "origin", "dest", "distance_mi", "hour"],
        "dep_delayed_15",
        60_000,
    ),
    "elec2": (
        "elec2.parquet",
        ["day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"],
        "price_up",
        45_000,
    ),
}
SPACE: dict[str, Any] = {
    "learning_rate": LogUniform(0.01, 0.3),
    "num_leaves": Integers(8, 128),
    "min_child_samples": Integers(5, 200),
    "colsample_bytree": Uniform(0.4, 1.0),
    "reg_lambda": LogUniform(1e-3, 10.0),
}
PRUNED_SHARE, EQUAL = 0.5, 1.002
"""What was promised: half of the seconds at an equal best score; equal: within two thousandths of it, less than seeds differ."""


def judging(name: str, train: Train, rows: int | None) -> Judging:
    file, columns, label, most = SETS[name]
    frame = pl.read_parquet(DATA / file)
    if name == "hflights":
        frame = frame.with_columns(hour=pl.col("sched_dep_ts").dt.hour())
    frame = frame.drop_nulls(label).head(rows or most)
    features = {each: frame[each].to_numpy() for each in columns}
    types = {each: "text" if frame.schema[each] == pl.String else "number" for each in columns}
    features = {each: v if types[each] == "text" else v.astype(np.float64) for each, v in features.items()}
    target = frame[label].cast(pl.Int64).to_numpy()
    at = int(len(target) * 0.8)
    older = {each: values[:at] for each, values in features.items()}
    newer = {each: values[at:] for each, values in features.items()}
    encoding = learn(older, types, native_categories=True, accepts_missing=True)  # type: ignore[arg-type]
    return Judging(
        train=train,
        goal=Goal(task="binary", metric=LogLoss(), classes=(0, 1)),
        encoding=encoding,
        matrix=apply(encoding, older),
        target=target[:at],
        weights=None,
        held=apply(encoding, newer),
        truth=target[at:],
        columns={},
        threads=1,
    )


def searched(name: str, pruner: str | None, seed: int, rows: int | None, trials: int) -> tuple[Searched, float, float]:
    """What was found; CPU seconds of the fits, and beside them."""
    declared = Search(SPACE, trials=trials, pruner=pruner, workers=1)  # type: ignore[arg-type]
    train = Train(LGBMClassifier(n_estimators=200), search=declared, seed=seed)
    task = judging(name, train, rows)
    fitting = 0.0

    def timed(parameters: dict[str, Any], report: Report) -> float:
        nonlocal fitting
        began = time.process_time()
        try:
            return task(parameters, report)
        finally:
            fitting += time.process_time() - began

    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        found = search(task.plan(()), timed, folder=Path(folder))
        return found, fitting, time.process_time() - started - fitting


def figures(name: str, seeds: int, rows: int | None, trials: int, say: Callable[[str], None]) -> list[Row]:
    whole = [searched(name, None, seed, rows, trials) for seed in range(seeds)]
    peers = [seconds for _, seconds, _ in whole]
    out = []
    for pruner in ("median", "hyperband"):
        pruned = [searched(name, pruner, seed, rows, trials) for seed in range(seeds)]
        for seed, ((found, ours, _), (peer, theirs, _)) in enumerate(zip(pruned, whole, strict=True)):
            given_up = sum(each.state == "pruned" for each in found.trials)
            say(
                f"{name} {pruner} seed {seed}: {ours:.1f} s of {theirs:.1f}, {given_up} of {trials} given up, "
                f"best {found.score:.5f} beside {peer.score:.5f}"
            )
        ours, theirs = median(seconds for _, seconds, _ in pruned), median(peers)
        out.append(
            Row(
                what=f"{name}: training CPU seconds of {trials} trials, {pruner}", ours=ours, unit="s", rounds=seeds,
                peer=theirs, peer_name="no pruner", target=PRUNED_SHARE * theirs,
            )
        )  # fmt: skip
        best, beside = (median(found.score for found, *_ in each) for each in (pruned, whole))
        out.append(
            Row(
                what=f"{name}: best log loss, {pruner}", ours=best, unit="", rounds=seeds, peer=beside,
                peer_name="no pruner", target=EQUAL * beside,
            )
        )  # fmt: skip
    beside = median(seconds for *_, seconds in whole) / trials * 1000
    out.append(Row(what=f"{name}: CPU beside the fits, a trial", ours=beside, unit="ms", rounds=seeds))
    return out


def main() -> None:
    given = parser(__doc__ or "").parse_args()
    quick = given.quick
    say: Callable[[str], None] = (lambda text: None) if given.json else (lambda text: print(text, flush=True))
    names = [name for name, (file, *_) in SETS.items() if (DATA / file).exists()]
    if not names:
        raise SystemExit("bench.search needs shared/data beside the clone (hflights.parquet, elec2.parquet).")
    rows: list[Row] = []
    for name in names[:1] if quick else names:
        rows += figures(name, 1 if quick else 5, 12_000 if quick else None, 20 if quick else TRIALS, say)
    show(rows, as_json=given.json)
    if not quick:
        versions = {each: importlib.metadata.version(each) for each in ("everloop", "lightgbm", "optuna")}
        machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}
        RESULTS.write_text(json.dumps({"machine": machine, "rows": [row.to_json() for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
