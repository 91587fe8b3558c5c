"""A drift report of a million rows by the number of columns: CPU and memory.

Columns are made as they are asked for, eight at a time as `everloop drift` reads them from Parquet, three in five numbers
and two in five texts; making them is not counted, comparing them is. Memory is the process's largest so far.
"""

import resource
import time

import numpy as np
import polars as pl
from bench.rows import Row
from bench.watch.cost import table
from bench.watch.parts import Part

from everloop.loop import tables

AT_ONCE = 8


def part(*, quick: bool = False) -> Part:
    rows = 100_000 if quick else 1_000_000
    points = (8, 24) if quick else (24, 104, 304, 1_000)
    random, spent, moved, made = np.random.default_rng(5), 0.0, 0, []
    # Eight columns a side are drawn; all others are these, turned: as random, and nothing to be made.
    drawn = [
        pl.DataFrame(
            {
                name: pl.Series(values.tolist())
                for name, values in table(random, rows, columns=AT_ONCE, moved=each).items()
            }
        )
        for each in (False, True)
    ]
    for done in range(AT_ONCE, points[-1] + 1, AT_ONCE):
        at = int(random.integers(1, rows))
        frames = [pl.concat([each[at:], each[:at]], rechunk=True) for each in drawn]
        begun = time.process_time()
        moved += sum(comparison.psi > 0.1 for comparison, _, _ in tables._compared(*frames))
        spent += time.process_time() - begun
        del frames
        if done in points:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            made += [
                Row(what=f"drift report, {rows:,} × {done:,}", ours=spent, unit="CPU seconds",
                    target=600.0 if done == 1_000 else None),
                Row(what=f"… memory, {rows:,} × {done:,}", ours=peak, unit="MB", target=2_000.0 if done == 1_000 else None),
            ]  # fmt: skip
    return Part(
        rows=made, notes=[f"{moved:,} columns moved by more than PSI .1. `minutes` is taken as ten, `bounded` as 2 GB."]
    )
