"""A drift report of a million rows by the number of columns: CPU, time from start to end, and peak memory.

Two Parquet files, three columns in five numbers and two texts, are written once, row group by row group; each point of the
curve is a process of its own that compares their first columns, as `everloop drift` does, and is asked for its largest
memory at its end. Twenty columns a side are drawn; all others are these, turned and moved by a random place. Files lie in the
folder of TMPDIR, about 10 GB for 1,000 columns, and are deleted.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from bench.rows import Row
from bench.watch.cost import table
from bench.watch.parts import Part

DRAWN = 20
GROUP = 50_000
"""Rows of a row group."""
MINUTES = 600.0
MEMORY = 2_000.0
"""`minutes` and `bounded` of the target, in seconds and MB."""
ONE = """
import json, resource, sys, time
from pathlib import Path
from everloop.loop import tables
began, spent = time.perf_counter(), time.process_time()
before, now, names = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3].split(",")
found = tables.compare(before, now, columns=names)
assert len(found.columns) == len(names), len(found.columns)
print(json.dumps({
    "cpu": time.process_time() - spent, "wall": time.perf_counter() - began,
    "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10, "moved": len(found.moved),
}))
"""


def written(path: Path, rows: int, columns: int, *, moved: bool) -> None:
    """A file whose column ``i`` is the drawn column ``i % 20``, read from a place of its own on."""
    random = np.random.default_rng([5, moved])
    pool = [
        pa.array(values, pa.string() if values.dtype == object else pa.float64())
        for values in table(random, rows, columns=DRAWN, moved=moved).values()
    ]
    twice = [pa.concat_arrays([each, each]) for each in pool]
    places = random.integers(0, rows, columns).tolist()
    names = [f"c{index}" for index in range(columns)]
    schema = pa.schema([(name, pool[index % DRAWN].type) for index, name in enumerate(names)])
    texts = [name for index, name in enumerate(names) if pool[index % DRAWN].type == pa.string()]
    with pq.ParquetWriter(path, schema, compression="zstd", use_dictionary=texts) as writer:
        for start in range(0, rows, GROUP):
            size = min(GROUP, rows - start)
            arrays = [twice[index % DRAWN].slice(place + start, size) for index, place in enumerate(places)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def curve(rows: int, points: tuple[int, ...]) -> list[Row]:
    made: list[Row] = []
    folder = Path(tempfile.mkdtemp())
    try:
        before, now = folder / "before.parquet", folder / "now.parquet"
        for path, moved in ((before, False), (now, True)):
            written(path, rows, points[-1], moved=moved)
        size = (before.stat().st_size + now.stat().st_size) / 1e9
        for count in points:
            names = ",".join(f"c{index}" for index in range(count))
            done = subprocess.run(
                [sys.executable, "-c", ONE, str(before), str(now), names],
                capture_output=True,
                text=True,
                timeout=3_600,
                check=True,
            )
            found = json.loads(done.stdout)
            what = f"drift report of two Parquet files, {rows:,} × {count:,}"
            whole = rows == 1_000_000 and count == points[-1]
            made += [
                Row(what=what, ours=found["cpu"], unit="CPU seconds", target=MINUTES if whole else None, rounds=1),
                Row(what=f"{what}, from start to end", ours=found["wall"], unit="seconds", target=MINUTES if whole else None, rounds=1),
                Row(what=f"{what}, peak memory", ours=found["memory"], unit="MB", target=MEMORY if whole else None, rounds=1),
            ]  # fmt: skip
        made.append(Row(what=f"both files of {rows:,} × {points[-1]:,}", ours=size, unit="GB", rounds=1))
    finally:
        shutil.rmtree(folder)
    return made


def part(*, quick: bool = False) -> Part:
    made = curve(100_000, (8, 24)) if quick else curve(1_000_000, (20, 100, 300, 1_000))
    return Part(rows=made, notes=["`minutes` is taken as ten, `bounded` as 2 GB. Each point is a process of its own."])
