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


PATIENCE = 240.0
"""Seconds after which no further point of a curve is begun: a machine that others use is given back."""


def part(*, quick: bool = False) -> Part:
    made, notes = curve(100_000, (24, 104, 304, 1_000) if not quick else (8, 24))
    if not quick:
        more, said = curve(1_000_000, (24, 104, 304, 1_000))
        made, notes = made + more, notes + said
    return Part(rows=made, notes=[*notes, "`minutes` is taken as ten, `bounded` as 2 GB."])


def curve(rows: int, points: tuple[int, ...]) -> tuple[list[Row], list[str]]:
    random, spent, made, began = np.random.default_rng(5), 0.0, [], time.perf_counter()
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
    done = 0
    while done < points[-1]:
        at = int(random.integers(1, rows))
        frames = [pl.concat([each[at:], each[:at]], rechunk=True) for each in drawn]
        begun = time.process_time()
        tables._compared(*frames)
        spent += time.process_time() - begun
        done += AT_ONCE
        del frames
        if done in points:
            made += _rows(rows, done, spent)
            if time.perf_counter() - began > PATIENCE:
                break
    if done == points[-1]:
        return made, []
    what = f"drift report, {rows:,} × {points[-1]:,}, in proportion to the {done:,} that were compared"
    target = 600.0 if rows == 1_000_000 else None
    made.append(Row(what=what, ours=spent * points[-1] / done, unit="CPU seconds", target=target))
    return made, [f"The machine was busy: after {PATIENCE:.0f} s no further point of {rows:,} rows was begun."]


def _rows(rows: int, done: int, spent: float) -> list[Row]:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    last = done == 1_000 and rows == 1_000_000
    return [
        Row(what=f"drift report, {rows:,} × {done:,}", ours=spent, unit="CPU seconds", target=600.0 if last else None),
        Row(what=f"… memory, {rows:,} × {done:,}", ours=peak, unit="MB", target=2_000.0 if last else None),
    ]
