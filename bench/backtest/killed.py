"""A backtest that is killed again and again: how many fits were made twice when it is through at last."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.backtest.parts import Part
from bench.backtest.sets import sets
from bench.rows import Row

KILLS = 20


def part(*, quick: bool) -> Part:
    found = Part()
    known = {each.name: each for each in sets()}
    if not known:
        return found
    kills = KILLS // 4 if quick else KILLS
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        place = Path(folder)
        known["elec2"].written(place)
        log = place / ".everloop" / "backtests" / "made.log"
        draw = random.Random(0)
        killed = 0
        for _ in range(kills):
            before = _lines(log)
            process = _started(place)
            deadline = time.monotonic() + 60
            while len(_lines(log)) <= len(before) and time.monotonic() < deadline and process.poll() is None:
                time.sleep(0.02)
            time.sleep(draw.uniform(0, 1.5))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                killed += 1
            process.wait()
        process = _started(place)
        code = process.wait(timeout=900)
        made = _lines(log)
    found.rows += [
        Row(what=f"killed {killed} times, then through (exit code)", ours=code, unit="", target=0),
        Row(what=f"fits made twice, of {len(made)}", ours=len(made) - len(set(made)), unit="fits", target=0),
    ]
    return found


def _started(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from everloop.cli import main; main()", "backtest", "elec2.py"]
    return subprocess.Popen(
        [*command, "--windows", "7d", "--from", "1996-07-02", "--to", "1997-07-01", "--no-oracle", "--json"],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _lines(log: Path) -> list[str]:
    return log.read_text("utf-8").split() if log.exists() else []
