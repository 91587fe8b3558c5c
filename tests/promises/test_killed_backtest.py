"""A backtest that is killed goes on where it was: no fit is ever made twice, and the answer is the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from known_world import World, made, rows

COMMAND = [
    "-c",
    "from everloop.cli import main; main()",
    "backtest",
    "made.py",
    "--windows",
    "7d",
    "--takes",
    "1h",
    "--json",
]


def started(world: World) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, *COMMAND],
        cwd=world.folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def killed(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stderr.close()


def ended(world: World) -> dict[str, object]:
    process = started(world)
    try:
        out, err = process.communicate(timeout=200)
    finally:
        if process.poll() is None:
            killed(process)
    assert process.returncode == 0, err.decode()
    found: dict[str, object] = json.loads(out)
    return found


def scores(answer: dict[str, object]) -> list[object]:
    return [(each["digest"], each["score"], len(each["retrains"])) for each in answer["runs"]]  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_backtest_killed_at_any_moment_goes_on_and_repeats_no_fit(tmp_path: Path) -> None:
    slow = "el.Train(RandomForestClassifier(n_estimators=60, n_jobs=1))"
    head = "from sklearn.ensemble import RandomForestClassifier\nfrom datetime import timedelta as td\nimport everloop as el\nloop = el.Loop(\n"
    whole = made(tmp_path / "whole", rows(days=84), head=head, train=slow)
    undisturbed = scores(ended(whole))
    world = made(tmp_path / "killed", rows(days=84), head=head, train=slow)
    draw = random.Random(7)
    killed_at: list[int] = []
    # A fast machine has made all fits after fewer kills.
    while len(killed_at) < 4 and len(world.made) < len(whole.made):
        seen = len(world.made)
        process = started(world)
        deadline = time.monotonic() + 120
        # Somewhere in the middle: after at least one more fit than before, then at any moment.
        while len(world.made) <= seen and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        time.sleep(draw.uniform(0.0, 0.4))
        killed(process)
        assert len(world.made) > seen
        killed_at.append(len(world.made))
    assert killed_at[0] < len(whole.made), "the first kill came after all was done"
    resumed = ended(world)
    assert len(world.made) == len(set(world.made))
    assert not list((world.folder / ".everloop" / "backtests" / "fits").glob("*/.*/fit.json"))

    assert undisturbed == scores(resumed)
    assert set(whole.made) == set(world.made)
