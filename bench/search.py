"""What giving up hopeless trials saves, and what helpers bring: the same forty trials with a pruner and without.

Run: python -m bench.search [--quick] [--json]

LightGBM on real rows in their order: bike (rentals an hour), hflights (was the departure late by 15 minutes?) and elec2
(does the price rise?), where the world moves on and the least fitted model is the best on the newest rows: there a pruner
that judges by round is misled by the learning rate, and the figures say so. The older four fifths are fitted, the newest
fifth is what trials are judged on, as in a turn. Training seconds are CPU seconds of the fits, one after another in one
process; scores are log loss and root mean squared error, lower is better.
The peer is the same search of ours without a pruner. Every seed is one round; medians. A whole run keeps its figures
in results/search.json.
"""

import importlib.metadata
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import polars as pl
from bench.rows import Row, parser, show
from lightgbm import LGBMClassifier, LGBMRegressor

from everloop.measure.encode import apply, learn
from everloop.spec.metric import LogLoss, RootMeanSquaredError
from everloop.spec.train import Integers, LogUniform, Search, Train, Uniform
from everloop.train.judging import Goal, Judging
from everloop.train.search import Report, Searched, search

RESULTS = Path(__file__).parent / "results" / "search.json"
DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
TRIALS = 40
STRUCTURE: dict[str, Any] = {
    "num_leaves": Integers(8, 128),
    "min_child_samples": Integers(5, 200),
    "colsample_bytree": Uniform(0.4, 1.0),
    "reg_lambda": LogUniform(1e-3, 10.0),
}
SPACE = {**STRUCTURE, "learning_rate": LogUniform(0.01, 0.3)}


@dataclass(frozen=True)
class Set:
    file: str
    columns: tuple[str, ...]
    label: str
    rows: int
    space: Mapping[str, Any]
    regression: bool = False


SETS = {
    "bike": Set(
        "bike_hourly.parquet",
        ("season", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "atemp", "hum", "windspeed"),
        "cnt",
        17_379,
        SPACE,
        regression=True,
    ),
    "hflights, learning rate fixed": Set(
        "hflights.parquet",
        ("month", "day_of_week", "carrier", "origin", "dest", "distance_mi", "hour"),
        "dep_delayed_15",
        30_000,
        STRUCTURE,
    ),
    "elec2": Set(
        "elec2.parquet",
        ("day_of_week", "period", "nswdemand", "vicprice", "vicdemand", "transfer"),
        "price_up",
        30_000,
        SPACE,
    ),
}
PRUNED_SHARE, EQUAL = 0.5, 1.002
"""What was promised: half of the seconds at an equal best score; equal: within two thousandths of it, less than seeds differ."""


def judging(name: str, train: Train, most: int | None) -> Judging:
    chosen = SETS[name]
    frame = pl.read_parquet(DATA / chosen.file)
    if "sched_dep_ts" in frame.columns:
        frame = frame.with_columns(hour=pl.col("sched_dep_ts").dt.hour())
    frame = frame.drop_nulls(chosen.label).head(most or chosen.rows)
    types = {each: "text" if frame.schema[each] == pl.String else "number" for each in chosen.columns}
    features: dict[str, Any] = {
        each: frame[each].to_numpy() if types[each] == "text" else frame[each].cast(pl.Float64).to_numpy()
        for each in chosen.columns
    }
    kind = pl.Float64 if chosen.regression else pl.Int64
    target = frame[chosen.label].cast(kind).to_numpy()
    at = int(len(target) * 0.8)
    older = {each: values[:at] for each, values in features.items()}
    newer = {each: values[at:] for each, values in features.items()}
    encoding = learn(older, types, native_categories=True, accepts_missing=True)  # type: ignore[arg-type]
    goal = Goal(task="binary", metric=LogLoss(), classes=(0, 1))
    return Judging(
        train=train,
        goal=Goal(task="regression", metric=RootMeanSquaredError(), scale="log1p") if chosen.regression else goal,
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
    declared = Search(SETS[name].space, trials=trials, pruner=pruner, workers=1)  # type: ignore[arg-type]
    model = LGBMRegressor if SETS[name].regression else LGBMClassifier
    train = Train(model(n_estimators=150), search=declared, seed=seed)
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
                what=f"{name}: best score, {pruner}", ours=best, unit="", rounds=seeds, peer=beside,
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
    names = [name for name, each in SETS.items() if (DATA / each.file).exists()]
    if not names:
        raise SystemExit("bench.search needs shared/data beside the clone: bike_hourly, hflights, elec2.")
    rows: list[Row] = []
    for name in names[:1] if quick else names:
        rows += figures(name, 1 if quick else 3, 12_000 if quick else None, 20 if quick else TRIALS, say)
    show(rows, as_json=given.json)
    if not quick:
        versions = {each: importlib.metadata.version(each) for each in ("everloop", "lightgbm", "optuna")}
        machine = {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version(), **versions}
        RESULTS.write_text(json.dumps({"machine": machine, "rows": [row.to_json() for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
