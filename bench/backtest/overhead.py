"""What the harness costs beside the models' own work: forty policies on elec2, whose fits are tiny, and a few on hflights."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.backtest.parts import Part
from bench.backtest.sets import WEEK, sets
from bench.backtest.sharing import forty, run
from bench.rows import Row

from everloop.loop.backtest.result import BacktestResult
from everloop.spec.policy import Policy
from everloop.spec.retrain import Degraded, Every, Manual


def part(*, quick: bool) -> Part:
    found = Part()
    known = {each.name: each for each in sets()}
    if not known:
        return found
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        result, _, _ = run(known["elec2"], Path(folder), forty()[:: 8 if quick else 1], "whole")
    found.rows.append(overhead("elec2, fits of 2,700 rows", result))
    hflights = known["hflights"]
    policies = [
        Policy(trigger, window=hflights.sliding(refit=False), gate=None)
        for trigger in (Manual(), Every(WEEK), Every(2 * WEEK), Every(4 * WEEK), Degraded(by=0.02, over=WEEK))
    ]
    with tempfile.TemporaryDirectory(prefix="everloop-bench-") as folder:
        result, _, _ = run(hflights, Path(folder), policies, "whole")
    found.rows.append(overhead("hflights, fits of 13,000 rows", result))
    return found


def overhead(what: str, result: BacktestResult) -> Row:
    """CPU outside of models' own work, per CPU of that work. Imports of workers apart: they are paid once."""
    seconds = result.seconds
    models = seconds["fits cpu"] + seconds["predictions cpu"]
    beside = seconds["workers cpu"] - models + seconds["main cpu"]
    turns = sum(len(each.retrains) for each in result.runs)
    looks = sum(len(each.windows) for each in result.runs)
    return Row(
        what=(
            f"overhead beside fits and predictions ({what}; {turns} turns, {looks} looks; models {models:.1f} s, main "
            f"{seconds['main cpu']:.1f} s, workers beside models {seconds['workers cpu'] - models:.1f} s, start-up "
            f"{seconds['start-up cpu']:.1f} s)"
        ),
        ours=100 * beside / models,
        unit="%",
        target=10.0,
    )
