"""What it costs to watch: folding the log into the lake, and looking at a table that has grown.

Run: python -m bench.watch [--rows 45000]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import numpy as np

from everloop.clock import microseconds
from everloop.measure import profile
from everloop.records import InputColumn, Release, Signature
from everloop.spec.metric import LogLoss
from everloop.spec.retrain import AnyOf, Degraded, Drift, Every
from everloop.spec.rollout import Canary
from everloop.store.segments import OutcomeFrame, PredictionFrame, Writer, encode
from everloop.watch import triggers
from everloop.watch.fold import fold
from everloop.watch.labels import Truth
from everloop.watch.look import Champion, Watched, begin, look
from everloop.watch.recent import Recent

START = datetime(2024, 1, 1, tzinfo=UTC)
NUMBERS, TEXTS, BATCH = 10, 2, 32
SIGNATURE = Signature(
    inputs=(
        *(InputColumn(name=f"number_{index}", type="number", index=index) for index in range(NUMBERS)),
        *(InputColumn(name=f"text_{index}", type="text", index=index) for index in range(TEXTS)),
    ),
    task="binary",
    classes=(0, 1),
    positive=1,
)


def drawn(random: np.random.Generator, rows: int) -> tuple[np.ndarray, list[str], np.ndarray]:
    numbers = random.normal(size=(rows, NUMBERS))
    texts = random.choice(["heron", "plover", "swift"], rows * TEXTS).tolist()
    return numbers, texts, random.random(rows)


def write(writer: Writer, random: np.random.Generator, times: np.ndarray, arms: tuple[str, ...]) -> None:
    reported = []
    for start in range(0, len(times), BATCH):
        at = times[start : start + BATCH]
        numbers, texts, chance = drawn(random, len(at))
        ids = [f"{moment}-{index}" for index, moment in enumerate(at)]
        for arm in arms:
            frame = PredictionFrame(
                loop="bench",
                version=2 if arm == "shadow" else 1,
                package="package",
                arm=arm,
                revision=1,
                epoch=1,
                share=0.0,
                ids=ids,
                at=at.astype("<i8").tobytes(),
                latency=np.full(len(at), 400, dtype="<i4").tobytes(),
                status=bytes(len(at)),
                numbers=numbers.tobytes(),
                texts=texts,
                prediction=np.stack([1 - chance, chance], axis=1).tobytes(),
                decision=(chance > 0.5).astype("<i8").tobytes(),
                width=2,
            )
            writer.append(encode(frame), rows=len(at))
        label = (random.random(len(at)) < chance).astype(int).tolist()
        reported += [(key, "late", value, int(moment)) for key, value, moment in zip(ids, label, at, strict=True)]
    writer.append(encode(OutcomeFrame(loop="bench", outcomes=reported)))
    writer.flush()


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=45_000)
    rows = parser.parse_args().rows
    random = np.random.default_rng(0)
    weeks = 52
    per_week = rows // weeks
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        lake = Recent(root / "lake")
        writer = Writer(root / "segments", "bench")
        numbers, texts, _ = drawn(random, 5_000)
        reference = {f"number_{index}": numbers[:, index] for index in range(NUMBERS)}
        reference |= {f"text_{index}": np.array(texts[index::TEXTS], dtype=object) for index in range(TEXTS)}
        champion = Champion(
            version=1,
            since=START,
            score=0.5,
            test_rows=2_000,
            signature=SIGNATURE,
            profile=profile.build(reference),
        )
        watched = Watched(
            truth=Truth(column="late", delay=timedelta(0), task="binary", classes=(0, 1)),
            metric=LogLoss(),
            trigger=AnyOf(Every(timedelta(days=7)), Drift(), Degraded()),
            rollout=Canary(),
            shadow_margin=0.01,
        )
        steady = Release(loop="bench", revision=1, stage="steady", champion=1, since=START)
        state = begin(START)
        folds, looks, shadow_looks = [], [], []
        for week in range(weeks):
            begun = START + timedelta(days=7 * week)
            now = begun + timedelta(days=7)
            times = np.linspace(microseconds(begun), microseconds(now) - 1, per_week).astype(np.int64)
            shadow = week >= weeks - 4
            write(writer, random, times, ("champion", "shadow") if shadow else ("champion",))
            release = steady
            if shadow:
                since = START + timedelta(days=7 * (weeks - 4))
                release = replace(steady, stage="shadow", challenger=2, started=since, since=since)
            folds.append(timed(lambda: fold(root / "segments", lake, {"package": SIGNATURE})))
            begun_look = time.perf_counter()
            seen, state = look(lake, watched, champion, release, state, now=now)
            _, after = triggers.fired(watched.trigger, seen.signals, state.triggers, now)
            state = replace(state, triggers=after)
            (shadow_looks if shadow else looks).append(time.perf_counter() - begun_look)
        backlog = np.linspace(0, 1, rows).astype(np.int64) + microseconds(now)
        write(writer, random, backlog, ("champion",))
        whole = timed(lambda: fold(root / "segments", lake, {"package": SIGNATURE}))
    print(f"{'what':52} {'median':>10} {'worst':>10}")
    for name, figures in (
        (f"fold a week of {per_week} rows", folds),
        ("look at a week, steady", looks),
        ("look at a week, shadow under way", shadow_looks),
    ):
        print(f"{name:52} {median(figures) * 1_000:8.1f}ms {max(figures) * 1_000:8.1f}ms")
    print(f"{f'fold a backlog of {rows} rows and their outcomes':52} {whole * 1_000:8.1f}ms {rows / whole:8,.0f}/s")


if __name__ == "__main__":
    main()
