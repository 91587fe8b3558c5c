"""How memory grows with a history: 8 and 24 million rows at one rate, so that a training window holds as many in both.

Memory of a process is what it has to itself (RssAnon of Linux): pages of mapped files are the system's to take back.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import psutil
from bench.backtest.parts import Part
from bench.rows import Row
from bench.status import memory

OWN = "RssAnon"
A_WEEK = 50_000
"""Rows; a tenth of it with --quick."""
POLICIES = """
from datetime import timedelta as td

import everloop as el

window = el.Last(td(weeks=4), test=td(weeks=1))
policies = [el.Policy(each, window=window) for each in (el.Manual(), el.Every(td(weeks=4)), el.Drift())]
"""
DECLARED = """
from datetime import timedelta as td

from sklearn.linear_model import SGDClassifier

import everloop as el

loop = el.Loop(
    name="long",
    source=el.Parquet("rows-*.parquet", key="id", event_time="at", time_zone="UTC"),
    label=el.Label("y", delay=td(days=1)),
    window=el.Last(td(weeks=4), test=td(weeks=1)),
    train=el.Train(SGDClassifier(loss="log_loss", random_state=0)),
    score=el.metric.LogLoss(),
    gate=None,
    retrain=el.Every(td(weeks=4)),
)
"""


def part(*, quick: bool) -> Part:
    found = Part()
    a_week = A_WEEK // 10 if quick else A_WEEK
    sizes = (160 * a_week, 480 * a_week)
    peaks = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
            _written(Path(folder), rows, a_week)
            main, worker, seconds = _peaks(Path(folder))
        peaks.append((main, worker))
        found.notes.append(
            f"{rows:,} rows: the process that simulates {main / 1e6:.0f} MB, the largest worker {worker / 1e6:.0f} MB, {seconds:.0f} s"
        )
    more = sizes[1] - sizes[0]
    for place, who in enumerate(("the process that simulates", "the largest worker")):
        (one, other) = (each[place] for each in peaks)
        found.rows.append(
            Row(
                what=f"{who}: its own memory at its peak, {sizes[1]:,} rows beside {sizes[0]:,} ({other / 1e6:.0f} and {one / 1e6:.0f} MB), a row more",
                ours=max(0.0, (other - one) / more),
                unit="bytes",
                target=8.0,
            )
        )
    return found


def _written(folder: Path, rows: int, a_week: int) -> None:
    """Files of a million rows; the rows of each in no order."""
    random = np.random.default_rng(0)
    step = timedelta(weeks=1) // a_week
    for number, since in enumerate(range(0, rows, 1_000_000)):
        count = min(1_000_000, rows - since)
        place = random.permutation(count) + since
        columns = {f"x{each}": random.normal(size=count) for each in range(10)}
        chance = 1 / (1 + np.exp(-columns["x0"] - np.sin(place / rows * 6) * columns["x1"]))
        frame = pl.DataFrame({"id": place, "y": random.random(count) < chance, **columns})
        at = pl.lit(datetime(2020, 1, 1)) + pl.col("id") * pl.lit(step)
        frame.with_columns(at=at).write_parquet(folder / f"rows-{number:03d}.parquet")
    (folder / "long.py").write_text(DECLARED)
    (folder / "policies.py").write_text(POLICIES)


def _peaks(folder: Path) -> tuple[int, int, float]:
    """Bytes of the process that simulates and of the largest worker, each at its peak, and how long all took."""
    command = [sys.executable, "-c", "from everloop.cli import main; main()", "backtest", "long.py"]
    began = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--policies", "policies.py", "--windows", "7d", "--no-oracle", "--json"],
        cwd=folder, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    main = worker = 0
    try:
        while process.poll() is None and time.perf_counter() - began < 1_500:
            main = max(main, memory(OWN, process.pid))
            worker = max([worker, *(memory(OWN, each) for each in _below(process.pid))])
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    if process.wait() != 0:
        raise RuntimeError(f"the backtest ended with {process.returncode}")
    return main, worker, time.perf_counter() - began


def _below(process: int) -> Iterator[int]:
    with suppress(psutil.Error):
        yield from (each.pid for each in psutil.Process(process).children(recursive=True))
