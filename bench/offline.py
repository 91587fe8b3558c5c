"""Scoring a file: rows a second and CPU a row, beside ONNX Runtime alone and beside the native library, in one run.

Run: python -m bench.offline [--quick] [--json] [--approaches]. A million rows of twenty numbers, Parquet to Parquet, through
a LightGBM model of 200 trees with 31 leaves that the package room exported. Everything runs in processes of its own, in
turns, so that a change of the machine's mood meets all alike.

- everloop: `everloop.serve.offline.score` on both cores, from the closed file to the renamed one, loading included.
- raw: two processes of ``session.run`` over the same rows in memory, each half, at the best of several sizes.
- native: LightGBM's own ``predict`` for each thousand rows with two threads, read and written with polars.

A wall time is the time from start to end without imports. Where others use the machine, CPU a row is the figure to
trust. ``--approaches`` measures what was tried: sizes of a run, processes instead of threads, compression.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

from bench.status import memory

from bench import rows as table

CORES = 2
ROWS, QUICK_ROWS = 1_000_000, 200_000
RAW_SIZES = (256, 1024, 4096, 16_384)
NATIVE_ROWS = 1000
ROUNDS = 5
SHARE, NATIVE = 0.90, 1.6
"""Targets: of ONNX Runtime alone, and times the native library."""


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of the clock, and of the CPU of every thread and process of the job, for ``rows`` rows."""

    rows: int
    wall: float
    cpu: float
    peak: float = 0.0
    """Megabytes of resident memory of the largest process."""

    @property
    def rate(self) -> float:
        return self.rows / self.wall

    @property
    def each(self) -> float:
        """Microseconds of CPU a row."""
        return 1e6 * self.cpu / self.rows


class Place:
    """The model and the rows, on disk."""

    def __init__(self, root: Path, rows: int) -> None:
        from everloop.testing.boosted import boosted, made_rows

        made = boosted(root / "home")
        self.root = root
        self.rows = rows
        self.package = made.folder
        self.keys = made.home.home.keys
        self.source = root / "rows.parquet"
        self.halves = root / "halves"
        (root / "model.txt").write_text(made.text)
        frame = made_rows(rows, seed=3)
        frame.write_parquet(self.source, row_group_size=131_072)
        self.halves.mkdir()
        for n in range(CORES):
            frame[n * rows // CORES : (n + 1) * rows // CORES].write_parquet(self.halves / f"{n}.parquet")


# What is measured; each in a process of its own


def peak() -> float:
    return memory("VmHWM") / 1e6


def ours(place: Place, *, source: Path | None = None, cores: int = CORES, sizes: Any = None, **changes: Any) -> Took:
    from everloop.serve import offline, offline_targets
    from everloop.store.packages import trusted_keys

    for name, value in changes.items():
        setattr(offline_targets if hasattr(offline_targets, name) else offline, name, value)
    source = source or place.source
    begin, cpu = time.perf_counter(), time.process_time()
    scored = offline.score(
        place.package, source, place.root / f"answers-{source.stem}.parquet", trusted=trusted_keys(place.keys),
        version=1, cores=cores, sizes=sizes,
    )  # fmt: skip
    return Took(scored.rows, time.perf_counter() - begin, time.process_time() - cpu, peak())


def native(place: Place) -> Took:
    import lightgbm
    import polars as pl

    booster = lightgbm.Booster(model_file=str(place.root / "model.txt"))
    begin, cpu = time.perf_counter(), time.process_time()
    frame = pl.read_parquet(place.source)
    answers = [
        booster.predict(frame[start : start + NATIVE_ROWS].to_numpy(), num_threads=CORES)
        for start in range(0, len(frame), NATIVE_ROWS)
    ]
    positive = pl.concat([pl.Series("probability_true", each) for each in answers])
    frame.with_columns(
        predicted=positive >= 0.5, probability_false=1.0 - positive, probability_true=positive
    ).write_parquet(place.root / "native.parquet")
    return Took(len(frame), time.perf_counter() - begin, time.process_time() - cpu, peak())


def raw_half(place: Place, half: int, size: int, pipe: Connection) -> None:
    """One of the two processes; it begins when it is told."""
    import polars as pl

    from everloop.serve.model import load
    from everloop.store.packages import trusted_keys

    model = load(place.package, trusted_keys(place.keys))
    rows = pl.read_parquet(place.halves / f"{half}.parquet").to_numpy(order="c")
    model.run({"numbers": rows[:size]})
    pipe.send(None)
    pipe.recv()
    begin, cpu = time.perf_counter(), time.process_time()
    for start in range(0, len(rows), size):
        model.run({"numbers": rows[start : start + size]})
    pipe.send((len(rows), begin, time.perf_counter(), time.process_time() - cpu))


def together(work: Callable[..., None], given: list[tuple[Any, ...]]) -> Took:
    """Processes that begin at the same moment; the wall is from the first begin to the last end."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for each in given:
        here, there = context.Pipe()
        process = context.Process(target=work, args=(*each, there))
        process.start()
        pipes.append(here)
        processes.append(process)
    for pipe in pipes:
        pipe.recv()
    for pipe in pipes:
        pipe.send(None)
    found = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    rows, begins, ends, cpu = zip(*found, strict=True)
    return Took(sum(rows), max(ends) - min(begins), sum(cpu))


def raw(place: Place, size: int) -> Took:
    return together(raw_half, [(place, half, size) for half in range(CORES)])


def scoring_half(place: Place, half: int, pipe: Connection) -> None:
    """One of two processes that score half of the rows each."""
    import everloop.serve.offline  # noqa: F401  (not part of what is measured)

    pipe.send(None)
    pipe.recv()
    begin = time.perf_counter()
    took = ours(place, source=place.halves / f"{half}.parquet", cores=1)
    pipe.send((took.rows, begin, time.perf_counter(), took.cpu))


def alone(work: Callable[..., Took], place: Place, **given: Any) -> Took:
    """In a process of its own, as a first run there."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(work, (place,), given)


def command(place: Place) -> float:
    """Seconds of the whole command, imports included."""
    code = "from everloop.cli import main; main()"
    given = ["batch", str(place.package), str(place.source), str(place.root / "command.parquet")]
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *given], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


# Figures


def rate(found: list[Took]) -> float:
    return median(each.rate for each in found)


def each(found: list[Took]) -> float:
    return median(took.each for took in found)


def measured(place: Place, rounds: int) -> list[table.Row]:
    score, library = [], []
    limits: dict[int, list[Took]] = {size: [] for size in RAW_SIZES}
    walls = []
    for _ in range(rounds):
        for size in RAW_SIZES:
            limits[size].append(raw(place, size))
        score.append(alone(ours, place))
        library.append(alone(native, place))
        walls.append(command(place))
    fastest = max(limits.values(), key=rate)
    cheapest = min(limits.values(), key=each)
    share = median(mine.rate / limit.rate for mine, limit in zip(score, fastest, strict=True))
    share_cpu = each(cheapest) / each(score)
    times = median(mine.rate / theirs.rate for mine, theirs in zip(score, library, strict=True))
    count = f"{place.rows:,} rows × 20"
    return [
        table.Row(
            what=f"offline: {count}, Parquet to Parquet, both cores", ours=rate(score), unit="rows/s", rounds=rounds,
            peer=rate(library), peer_name="LightGBM by 1,000 rows", limit=rate(fastest),
        ),
        table.Row(
            what="offline: share of ONNX Runtime alone, by the clock", ours=share, unit="", rounds=rounds, target=SHARE,
            greater_is_better=True,
        ),
        table.Row(
            what="offline: share of ONNX Runtime alone, by CPU", ours=share_cpu, unit="", rounds=rounds, target=SHARE,
            greater_is_better=True,
        ),
        table.Row(
            what="offline: times LightGBM's own predict by 1,000 rows", ours=times, unit="×", rounds=rounds,
            target=NATIVE, greater_is_better=True,
        ),
        table.Row(
            what="offline: CPU a row", ours=each(score), unit="µs", rounds=rounds, peer=each(library),
            peer_name="LightGBM by 1,000 rows", limit=each(cheapest),
        ),
        table.Row(
            what="offline: the whole command, imports included", ours=median(walls), unit="s", rounds=rounds
        ),
        table.Row(
            what="offline: largest memory", ours=median(took.peak for took in score), unit="MB", rounds=rounds,
            peer=median(took.peak for took in library), peer_name="LightGBM by 1,000 rows",
        ),
    ]  # fmt: skip


def approaches(place: Place, rounds: int) -> list[table.Row]:
    """What was tried, each beside everything as it is."""
    tried: dict[str, Callable[[], Took]] = {
        "as it is": lambda: alone(ours, place),
        **{
            f"{size:,} rows a run": lambda size=size: alone(ours, place, sizes=(size,))  # type: ignore[misc]
            for size in (64, 256, 1024, 4096, 16_384)
        },
        "two processes, half the rows each": lambda: together(scoring_half, [(place, half) for half in range(CORES)]),
        "zstd instead of snappy": lambda: alone(ours, place, COMPRESSION="zstd"),
        "lz4 instead of snappy": lambda: alone(ours, place, COMPRESSION="lz4"),
        "no compression": lambda: alone(ours, place, COMPRESSION="none"),
        "one frame ahead": lambda: alone(ours, place, FRAMES=2),
        "eight frames ahead": lambda: alone(ours, place, FRAMES=8),
        "small frames": lambda: alone(ours, place, LARGEST_FRAME=16_384),
    }
    found: dict[str, list[Took]] = {name: [] for name in tried}
    for _ in range(rounds):
        for name, work in tried.items():
            found[name].append(work())
    first = found["as it is"]
    return [
        table.Row(
            what=f"offline, tried: {name}", ours=each(took), unit="µs", peer=each(first), peer_name="as it is",
            rounds=rounds,
        )
        for name, took in found.items()
    ] + [
        table.Row(
            what=f"offline, tried, by the clock: {name}", ours=rate(took), unit="rows/s", peer=rate(first),
            peer_name="as it is", rounds=rounds,
        )
        for name, took in found.items()
    ]  # fmt: skip


def main() -> int:
    parser = table.parser(__doc__ or "")
    parser.add_argument("--approaches", action="store_true", help="what was tried, beside everything as it is")
    parser.add_argument("--rounds", type=int, help="how often each is measured")
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", str(CORES))
    os.environ.setdefault("_RJEM_MALLOC_CONF", "dirty_decay_ms:30000,muzzy_decay_ms:30000")  # as the command does
    with tempfile.TemporaryDirectory(prefix="everloop-offline-") as folder:
        place = Place(Path(folder), QUICK_ROWS if given.quick else ROWS)
        rounds = given.rounds or (1 if given.quick else ROUNDS)
        table.show((approaches if given.approaches else measured)(place, rounds), as_json=given.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
